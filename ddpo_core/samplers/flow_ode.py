"""Euler's method on a flow's ODE (arXiv 2209.03003): x_{t+1} = x_t + (σ' − σ)·v. First order, no noise.

σ belongs to this timestep and σ' to the next entry of the schedule.
"""

from __future__ import annotations

import torch

from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import Affine, tabulated
from ddpo_core.samplers.paths import flow_steps
from ddpo_core.types import Schedule


class FlowODE(Affine):
    """Euler steps; none has a log-prob."""

    has_log_prob = False

    def __init__(self, *, spacing: str | None = None) -> None:
        self.spacing = spacing

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """T steps from σ = 1 to 0; no step is rated."""
        steps = flow_steps("flow-ode", denoiser, num_steps, self.spacing)
        ones, zeros = torch.ones_like(steps.sigma), torch.zeros_like(steps.sigma)
        return tabulated(steps.timesteps, ones, steps.sigma_next - steps.sigma, zeros, denoiser.device)
