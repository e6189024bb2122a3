"""What all kernels of one step share: mean and noise are read off the schedule's tables.

x_{t+1} = latents_coef·x_t + noise_coef·noise_pred + std·z, with z standard normal. A sampler is its tables;
they are worked out once, in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddpo_core.types import Schedule


class Affine:
    """A sampler whose `Schedule` says everything about a step; what is left to it is `schedule`."""

    def step(
        self, schedule: Schedule, steps: Tensor, latents: Tensor, noise_pred: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean [b, c, h, w] and standard deviation, [b, 1, 1, 1] or [b, c, h, w], of the next latents."""
        latents_coef, noise_coef, std = (
            rows(table, steps) for table in (schedule.latents_coef, schedule.noise_coef, schedule.std)
        )
        return latents_coef * latents.float() + noise_coef * noise_pred.float(), std


def rows(table: Tensor, steps: Tensor) -> Tensor:
    """A table's rows at `steps` [b], to be multiplied with latents: [b, 1, 1, 1] of [T], or [b, c, h, w]."""
    return table[steps].view(-1, 1, 1, 1) if table.ndim == 1 else table[steps]


def tabulated(
    timesteps: Tensor, latents_coef: Tensor, noise_coef: Tensor, std: Tensor, device: torch.device
) -> Schedule:
    """A schedule of tables that were worked out in float64."""
    tables = (table.float().to(device) for table in (latents_coef, noise_coef, std))
    return Schedule(timesteps.to(device), *tables)
