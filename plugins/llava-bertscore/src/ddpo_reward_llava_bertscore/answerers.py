"""Who answers questions about pictures: a model in this process, or a server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from ddpo_core.errors import UsageError
from ddpo_reward_llava_bertscore import DEFAULT_VLM

if TYPE_CHECKING:
    from PIL.Image import Image


class Answerer(Protocol):
    """Answers one question about each of N pictures. Greedy: the same again for the same picture."""

    def __call__(self, images: Sequence[Image], questions: Sequence[str]) -> list[str]:
        """N answers in order, stripped. A model that says nothing answers ""; one that fails raises."""

    def close(self) -> None:
        """Let go of the model or the connections."""


def make_answerer(
    reward: str,
    *,
    vlm: str = DEFAULT_VLM,
    endpoint: str | None = None,
    api_key_env: str | None = None,
    max_new_tokens: int = 64,
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 3,
    image_format: Literal["png", "jpeg"] = "png",
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 16,
) -> Answerer:
    """The answerer of the reward named `reward`, after its options: the server where there is an endpoint.

    Raises `UsageError` for an endpoint that is no URL, or a key that is not in the environment, and
    `EnvironmentFault` for weights that are not there.
    """
    if endpoint is not None:
        from ddpo_reward_llava_bertscore.server import Server

        return Server(
            reward,
            endpoint,
            vlm,
            api_key=_key_from(reward, api_key_env),
            max_new_tokens=max_new_tokens,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            image_format=image_format,
        )
    from ddpo_reward_llava_bertscore.in_process import InProcess

    return InProcess(
        reward, vlm, max_new_tokens=max_new_tokens, device=device, dtype=dtype, batch_size=batch_size
    )


def _key_from(reward: str, variable: str | None) -> str | None:
    """The key that is in the environment. Raises `UsageError` where it is not; a key is never shown."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise UsageError(
            f"reward '{reward}': api_key_env={variable}, and there is no such variable in the environment",
            hint=f"api_key_env takes a variable's name, not the key: export {variable}=…",
        )
    return key
