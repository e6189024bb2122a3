"""What an update has to say of each step of the schedule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpo_core.types import Loss, Schedule


class StepMeans:
    """Diagnostics told for each step of the schedule, added up without a wait for the device."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sums: dict[str, Tensor] = {}  # name → [2, T]: sums of values, and how many

    def add(self, loss: Loss) -> None:
        for name, (steps, values) in loss.by_step.items():
            sums = self.sums.setdefault(name, values.new_zeros(2, self.schedule.num_steps))
            sums.scatter_add_(1, steps.expand(2, -1), torch.stack([values, torch.ones_like(values)]))

    def means(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """`name/timestep-NNN` → mean, for every step that was seen."""
        found = {}
        for name, sums in self.sums.items():
            totals, counts = over_processes(sums).tolist()
            timesteps = [round(timestep) for timestep in self.schedule.timesteps.tolist()]
            for timestep, total, count in zip(timesteps, totals, counts, strict=True):
                if count:
                    found[f"{name}/timestep-{timestep:03d}"] = total / count
        return found
