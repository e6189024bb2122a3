"""scores → advantages: standardise one reward's scores. How several become one is in `mixing`.

Over the batch, over the images of one prompt in the batch (group), or over a ring buffer of each prompt's
latest scores (arXiv 2305.13301 App. D.3); or not at all (raw). Left out: a learned value function.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ddpo_core.errors import UsageError
from ddpo_core.rewards import group_indices
from ddpo_core.types import Prompt

Over = Literal["prompt", "batch", "group", "raw"]
MODES: tuple[Over, ...] = ("prompt", "batch", "group", "raw")


def standardise(
    values: np.ndarray, mean: np.ndarray | float, std: np.ndarray | float, resolution: float
) -> np.ndarray:
    """(x − mean) / max(std, resolution) in float64; 0 for NaN (a dropped sample).

    `resolution`, in the reward's own unit, keeps a constant reward from becoming noise of unit variance.
    """
    return np.asarray(np.nan_to_num((values - mean) / np.maximum(std, resolution), nan=0.0))


class Normaliser:
    """Standardises one reward's scores, and remembers each prompt's latest ones where asked to.

    over         "prompt" (ring buffers), "batch", "group" (the images of one prompt in this batch), or
                 "raw": scores stay as they are
    buffer_size  scores kept for each prompt
    min_count    a prompt with fewer scores than this is standardised over the batch
    """

    def __init__(self, over: Over = "prompt", *, buffer_size: int = 32, min_count: int = 16) -> None:
        if over not in MODES:
            raise UsageError(f"advantages: expected one of {', '.join(MODES)}; got {over!r}")
        if not 2 <= min_count <= buffer_size:
            raise UsageError(
                f"advantages: expected 2 ≤ min_count ≤ buffer_size, got min_count={min_count} and"
                f" buffer_size={buffer_size}"
            )
        self.over = over
        self.buffer_size = buffer_size
        self.min_count = min_count
        self.buffers: dict[str, dict[str, deque[float]]] = {}  # label → prompt → scores

    def __call__(
        self, label: str, values: np.ndarray, prompts: Sequence[Prompt], *, resolution: float = 1e-6
    ) -> np.ndarray:
        """Advantages [N] of all samples of a round, over all processes; NaN in, 0 out."""
        values = np.asarray(values, dtype=np.float64)
        if self.over == "raw":
            return np.asarray(np.nan_to_num(values, nan=0.0))
        mean, std = np.full(len(values), np.nanmean(values)), np.full(len(values), np.nanstd(values))
        own = self._own_statistics(label, values, prompts)
        for rows in group_indices(prompts):
            scores = own.get(prompts[rows[0]].text)
            if scores is not None:
                mean[rows], std[rows] = np.mean(scores), np.std(scores)
        return standardise(values, mean, std, resolution)

    def _own_statistics(
        self, label: str, values: np.ndarray, prompts: Sequence[Prompt]
    ) -> Mapping[str, Sequence[float]]:
        """The scores that stand for a prompt, for the prompts that have enough of them."""
        if self.over == "batch":
            return {}
        kept: dict[str, deque[float]] = {}
        if self.over == "prompt":
            kept = self.buffers.setdefault(label, {})
        for prompt, value in zip(prompts, values, strict=True):
            if np.isfinite(value):
                kept.setdefault(prompt.text, deque(maxlen=self.buffer_size)).append(float(value))
        enough = self.min_count if self.over == "prompt" else 2
        return {
            prompt.text: kept[prompt.text] for prompt in prompts if len(kept.get(prompt.text, ())) >= enough
        }

    def state_dict(self) -> dict[str, Any]:
        """The ring buffers, as plain lists."""
        return {
            label: {prompt: list(scores) for prompt, scores in buffers.items()}
            for label, buffers in self.buffers.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        self.buffers = {
            label: {prompt: deque(scores, maxlen=self.buffer_size) for prompt, scores in buffers.items()}
            for label, buffers in state.items()
        }
