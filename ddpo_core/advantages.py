"""scores → advantages: standardise each reward, weight them, and say what share each one really had.

A raw weighted sum follows whichever reward has the largest unit. So every reward is standardised first:
over the batch, over the images of one prompt in the batch (group), or over a ring buffer of each prompt's
latest scores (arXiv 2305.13301 App. D.3). Left out: a learned value function.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ddpo_core.errors import UsageError
from ddpo_core.rewards import group_indices
from ddpo_core.types import Prompt

Over = Literal["prompt", "batch", "group"]
MODES: tuple[Over, ...] = ("prompt", "batch", "group")


def standardise(
    values: np.ndarray, mean: np.ndarray | float, std: np.ndarray | float, resolution: float
) -> np.ndarray:
    """(x − mean) / max(std, resolution) in float64; 0 for NaN (a dropped sample).

    `resolution`, in the reward's own unit, keeps a constant reward from becoming noise of unit variance.
    """
    return np.asarray(np.nan_to_num((values - mean) / np.maximum(std, resolution), nan=0.0))


class Normaliser:
    """Standardises one reward's scores, and remembers each prompt's latest ones where asked to.

    over         "prompt" (ring buffers), "batch", or "group" (the images of one prompt in this batch)
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


@dataclass(frozen=True)
class Combined:
    """Several rewards as one advantage."""

    advantages: np.ndarray  # [N] float64
    shares: Mapping[str, float]  # label → share of the advantage's variance; they sum to 1


def combine(standardised: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> Combined:
    """Weight standardised rewards, add them, and standardise the sum once more.

    One reward alone is only turned by its weight's sign: there is nothing to balance it against.
    The share of reward k is Cov(w_k z_k, Σ) / Var(Σ): what it contributed to the variance of the sum.
    """
    parts = {label: weight * standardised[label] for label, weight in weights.items()}
    if len(parts) == 1:
        ((label, weight),) = weights.items()
        return Combined(np.sign(weight) * standardised[label], {label: 1.0})
    total = np.sum(list(parts.values()), axis=0)
    variance = total.var()
    if variance == 0:
        return Combined(np.zeros_like(total), dict.fromkeys(parts, 0.0))
    centred = total - total.mean()
    shares = {label: float(np.mean(part * centred) / variance) for label, part in parts.items()}
    return Combined(centred / np.sqrt(variance), shares)
