"""Step 1: which prompts a run draws, and in what order. The sets themselves are in `prompt_sets/`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from ddpo_core.errors import CheckpointError, UsageError
from ddpo_core.prompt_sets import PROMPT_SETS
from ddpo_core.protocols import PromptSet
from ddpo_core.types import Prompt

__all__ = ["FILE_SUFFIXES", "PROMPT_SETS", "Order", "PromptStream", "resolve_prompt_source"]

Order = Literal["random", "sequential"]
FILE_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
_STREAM = 0x70726F6D  # "prom": keeps these draws apart from others made from the same seed


class PromptStream:
    """An endless, seeded stream of prompts whose whole state is its position.

    "random" draws independently and uniformly, the paper's p(c); "sequential" walks the set again and again.
    Each drawn prompt comes `group_size` times in a row. What stands at a position depends on the seed, the
    position and the set only: neither on how many were taken at once nor on who took them.
    """

    def __init__(
        self, prompt_set: PromptSet, *, seed: int, group_size: int = 1, order: Order = "random"
    ) -> None:
        """Raises `UsageError` for an empty set, a negative seed, a group below 1 or another order."""
        if len(prompt_set) == 0:
            raise UsageError("a prompt stream expects at least one prompt, got an empty set")
        if seed < 0:
            raise UsageError(f"a prompt stream expects a seed of 0 or more, got {seed}")
        if group_size < 1:
            raise UsageError(f"a prompt stream expects a group size of 1 or more, got {group_size}")
        if order not in get_args(Order):
            raise UsageError(f"a prompt stream expects the order 'random' or 'sequential', got {order!r}")
        self.prompt_set = prompt_set
        self.seed = seed
        self.group_size = group_size
        self.order = order
        self.position = 0

    def take(self, n: int) -> list[Prompt]:
        """The next n prompts; the stream moves on by n."""
        prompts = self.at(self.position, n)
        self.position += n
        return prompts

    def at(self, position: int, n: int = 1) -> list[Prompt]:
        """The n prompts from a position on; the stream stays where it is."""
        if position < 0 or n < 0:
            raise UsageError(
                f"a prompt stream starts at 0 and runs forward, got position {position} and n = {n}"
            )
        if n == 0:
            return []
        first = position // self.group_size
        last = (position + n - 1) // self.group_size
        drawn = [self.prompt_set[index] for index in self._indices(first, last + 1)]
        return [drawn[place // self.group_size - first] for place in range(position, position + n)]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Raises `CheckpointError` where the state holds no position."""
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise CheckpointError(
                f"a prompt stream's state expects a position of 0 or more, got {dict(state)!r}"
            )
        self.position = position

    def _indices(self, first: int, stop: int) -> list[int]:
        """Which prompt each of the draws first … stop − 1 is."""
        size = len(self.prompt_set)
        if self.order == "sequential":
            return [draw % size for draw in range(first, stop)]
        # ⌊word · size / 2⁶⁴⌋ is uniform to size / 2⁶⁴, 5e-13 for ten million prompts
        return [word * size >> 64 for word in _random_words(self.seed, first, stop)]


def _random_words(seed: int, first: int, stop: int) -> list[int]:
    """64 random bits for each of the draws first … stop − 1.

    Philox is a counter turned into noise: draw d is the first of the four words at counter d, so any draw is
    reached without making those before it.
    """
    import numpy as np

    key = np.random.SeedSequence(entropy=seed, spawn_key=(_STREAM,)).generate_state(2, np.uint64)
    words = np.random.Philox(key=key, counter=first).random_raw(4 * (stop - first))
    return [int(word) for word in words[::4]]


def resolve_prompt_source(text: str) -> tuple[str, dict[str, str]] | None:
    """`("file", {"path": text})` where `text` is a bare path, None where it is a spec such as `counting`.

    A path ends in one of `FILE_SUFFIXES`, or holds a slash or a dot and exists. `file,path=a.txt` stays a
    spec, and a file that is called `animals` does not hide the set: write `./animals`.
    """
    path = Path(text).expanduser()
    exists = any(mark in text for mark in "/\\.") and path.is_file()
    ends_like_one = path.suffix.lower() in FILE_SUFFIXES and "," not in text
    return ("file", {"path": text}) if exists or ends_like_one else None
