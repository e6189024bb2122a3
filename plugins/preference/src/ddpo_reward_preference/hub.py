"""Weights on a model hub: the cache first, and one quick question before the first download.

The hub's client asks five times, for half a minute, before it says that there is no network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 5.0  # seconds for the one question


def cached_first(source: str, load: Callable[[bool], T]) -> T:
    """`load(local_files_only)`: from the disk where it is there, else from the hub.

    Raises what `load` raises, or `ConnectionError` where no hub answers.
    """
    if Path(source).exists():
        return load(True)
    try:
        return load(True)
    except OSError:  # what transformers and huggingface_hub raise for a file that is not cached
        ask_hub()
        return load(False)


def ask_hub() -> None:
    """Return when the hub answers, whatever it says. Raises `ConnectionError` where it does not."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("not in the cache, and HF_HUB_OFFLINE is set")
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # of requests, httpx or httpx2, by the client's version
        raise ConnectionError(f"the model hub does not answer ({error})") from error
