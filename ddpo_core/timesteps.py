"""Which of a trajectory's steps are learned from: all, a random part, so many at random, or a sliding window.

What is drawn follows from each sample's seed, so it does not depend on batch size or number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpo_core.errors import UsageError
from ddpo_core.rollout import sample_seeds


@dataclass(frozen=True, kw_only=True)
class TimestepChoice:
    """The steps of each sample that one pass trains on.

    timestep_fraction    part of them, drawn anew in each pass; 1: all
    timestep_count       so many of them, in place of a fraction (arXiv 2401.12244 §3 draws 5)
    update_per_timestep  an optimiser step for each of them over all samples (arXiv 2401.12244, Algorithm 1);
                         else one for all of a sample's steps together (arXiv 2305.13301, Appendix D.1)
    early_fraction       part of the steps, counted from the noise, that is trained on at all
    window               so many neighbouring steps, the same for every sample, that slide from the noise to
                         the picture and begin anew (arXiv 2507.21802); 0: no window
    window_every         epochs before the window moves on
    window_stride        steps by which it moves
    """

    timestep_fraction: float = 1.0
    timestep_count: int | None = None
    update_per_timestep: bool = False
    early_fraction: float = 1.0
    window: int = 0
    window_every: int = 1
    window_stride: int = 1

    def __post_init__(self) -> None:
        if self.timestep_count is not None and self.timestep_fraction != 1.0:
            raise UsageError(
                "timesteps: expected timestep_count or timestep_fraction, got both"
                f" ({self.timestep_count} and {self.timestep_fraction:g})"
            )

    def eligible(self, steps: Sequence[int], epoch: int) -> Sequence[int]:
        """Those of `steps`, noisy to clean, that this epoch (from 1) trains on at all."""
        steps = steps[: max(1, round(len(steps) * self.early_fraction))]
        if not self.window or self.window >= len(steps):
            return steps
        moves = (epoch - 1) // self.window_every
        # the last place is where the window ends on the last step, whatever the stride
        places = [*range(0, len(steps) - self.window, self.window_stride), len(steps) - self.window]
        first = places[moves % len(places)]
        return steps[first : first + self.window]

    def count(self, eligible: int) -> int:
        """How many of so many eligible steps one pass takes of each sample."""
        if self.timestep_count is None:
            return max(1, round(eligible * self.timestep_fraction))
        if self.timestep_count > eligible:
            raise UsageError(
                f"timestep_count {self.timestep_count}: there are only {eligible} steps to choose from",
                hint=f"take timestep_count={eligible}, or more --num-steps",
            )
        return self.timestep_count

    def pick(self, steps: Sequence[int], seeds: Sequence[int], *, epoch: int, inner_epoch: int) -> Tensor:
        """Which steps of each sample to train on [B, k] int64, each sample's in an order of its own."""
        eligible = self.eligible(steps, epoch)
        count = self.count(len(eligible))
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(sample_seeds(seed, inner_epoch, [0])[0])
            rows.append(torch.tensor(eligible)[torch.randperm(len(eligible), generator=generator)[:count]])
        return torch.stack(rows)

    def updates(self, picked: Tensor) -> list[Tensor]:
        """The columns [B, ·] of picked steps that belong into one optimiser step each."""
        return list(torch.split(picked, 1, dim=1)) if self.update_per_timestep else [picked]
