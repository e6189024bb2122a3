"""Bounds on a reward's mean, kept by Lagrange multipliers that become weights of the objective.

    max E[Σ_k w_k z_k]  subject to  min_j ≤ E[r_j] ≤ max_j

Needs no torch: a dry run reads constraints, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ddpo_core.errors import UsageError


@dataclass(frozen=True)
class Constraint:
    """A bound on a reward's mean, in its own unit; its weight grows while it is broken and falls again."""

    label: str
    minimum: float = -math.inf
    maximum: float = math.inf
    rate: float = 0.5  # of the multiplier's ascent: weight for each σ of violation and epoch
    limit: float = 10.0  # of the multiplier

    def __post_init__(self) -> None:
        if math.isinf(self.minimum) and math.isinf(self.maximum):
            raise UsageError(f"a constraint on {self.label} expects min or max, got neither")
        if self.minimum > self.maximum:
            raise UsageError(
                f"a constraint on {self.label} expects min ≤ max, got {self.minimum:g} and {self.maximum:g}"
            )


@dataclass
class Multipliers:
    """Lagrange multipliers λ of max E[Σ] subject to the constraints: projected dual ascent, once an epoch.

    λ_min ← clip(λ_min + rate · (min − mean) / σ, 0, limit), and the same with (mean − max) / σ for λ_max.
    σ is the spread of the epoch's scores, so that one rate suits every unit. The reward's weight is raised
    by λ_min − λ_max.
    """

    constraints: Sequence[Constraint]
    values: dict[str, list[float]] = field(default_factory=dict)  # label → [λ_min, λ_max]

    def update(self, constraint: Constraint, mean: float, spread: float) -> None:
        """One step of dual ascent on an epoch's mean and spread of the reward."""
        below = (constraint.minimum - mean) / spread
        above = (mean - constraint.maximum) / spread
        low, high = self.values.get(constraint.label, [0.0, 0.0])
        self.values[constraint.label] = [
            min(max(multiplier + constraint.rate * violation, 0.0), constraint.limit)
            for multiplier, violation in ((low, below), (high, above))
        ]

    def weight(self, label: str) -> float:
        """λ_min − λ_max."""
        low, high = self.values.get(label, (0.0, 0.0))
        return low - high

    def state_dict(self) -> dict[str, Any]:
        return {label: list(values) for label, values in self.values.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        self.values = {label: list(values) for label, values in state.items()}
