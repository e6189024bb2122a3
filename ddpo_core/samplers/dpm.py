"""DPM-Solver++(2M) (arXiv 2211.01095, Algorithm 2): the ODE in few steps, for both paths. No noise.

With signal α, noise σ and λ = log(α/σ) of this timestep, α', σ', λ' of the next and h = λ' − λ:

    x_{t+1} = σ'/σ · x_t + (α' − α·σ'/σ) · D,    α' − α·σ'/σ = −α'·(e^{−h} − 1)
    D = x̂0 + h / (2·h_before) · (x̂0 − x̂0_before)

The first step has nothing to look back at and takes D = x̂0, which is a DDIM or Euler step. So does the last
one where it ends on a clean picture (h = ∞), or where there are fewer than 15 steps, as in diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpo_core.processes import Flow
from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import rows
from ddpo_core.samplers.paths import diffusion_steps, flow_steps
from ddpo_core.types import Schedule

FEW_STEPS = 15  # with fewer, the last one does not look back


@dataclass(frozen=True)
class SolverSchedule(Schedule):
    """The first-order steps, and what the second order adds: look_back·(x̂0 − x̂0_before)."""

    clean_latents_coef: Tensor  # [T] float32: x̂0 = clean_latents_coef·x_t + clean_noise_coef·noise_pred
    clean_noise_coef: Tensor  # [T] float32
    look_back: Tensor  # [T] float32; 0 where a step takes D = x̂0


class DPMSolver:
    """DPM-Solver++(2M): a multistep solver, whose steps have no log-prob."""

    has_log_prob = False
    multistep = True

    def __init__(self, *, spacing: str | None = None) -> None:
        self.spacing = spacing

    def schedule(self, denoiser: Denoiser, num_steps: int) -> SolverSchedule:
        """T steps: a flow's from σ = 1 to 0, a diffusion model's to its `final_alpha_cumprod`."""
        if isinstance(denoiser.process, Flow):
            return self.flow_schedule(denoiser, num_steps)
        return self.diffusion_schedule(denoiser, num_steps)

    def diffusion_schedule(self, denoiser: Denoiser, num_steps: int) -> SolverSchedule:
        """x̂0 = (x_t − √(1 − ᾱ)·ε) / √ᾱ."""
        steps = diffusion_steps("dpm++", denoiser, num_steps, self.spacing)
        signal, noise = steps.alpha.sqrt(), (1 - steps.alpha).sqrt()
        signal_next, noise_next = steps.alpha_next.sqrt(), (1 - steps.alpha_next).sqrt()
        return solver_schedule(
            steps.timesteps,
            (signal, signal_next),
            (noise, noise_next),
            (1 / signal, -noise / signal),
            denoiser.device,
        )

    def flow_schedule(self, denoiser: Denoiser, num_steps: int) -> SolverSchedule:
        """x̂0 = x_t − σ·v."""
        steps = flow_steps("dpm++", denoiser, num_steps, self.spacing)
        return solver_schedule(
            steps.timesteps,
            (1 - steps.sigma, 1 - steps.sigma_next),
            (steps.sigma, steps.sigma_next),
            (torch.ones_like(steps.sigma), -steps.sigma),
            denoiser.device,
        )

    def advance(
        self, schedule: SolverSchedule, t: int, latents: Tensor, noise_pred: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The next latents [b, c, h, w], and x̂0 of this step for the one after it; `memory` is the last x̂0.

        Without a memory, as on the first of the steps that are walked, D = x̂0.
        """
        steps = torch.full((1,), t, device=latents.device)
        latents, noise_pred = latents.float(), noise_pred.float()
        clean = (
            rows(schedule.clean_latents_coef, steps) * latents
            + rows(schedule.clean_noise_coef, steps) * noise_pred
        )
        after = rows(schedule.latents_coef, steps) * latents + rows(schedule.noise_coef, steps) * noise_pred
        if memory is not None:
            after = after + rows(schedule.look_back, steps) * (clean - memory)
        return after, clean


def solver_schedule(
    timesteps: Tensor,
    signal: tuple[Tensor, Tensor],
    noise: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    device: torch.device,
) -> SolverSchedule:
    """The tables for signal and noise, each (now, next) [T], and x̂0's coefficients of x_t and noise_pred."""
    ratio = noise[1] / noise[0]
    of_clean = signal[1] - signal[0] * ratio
    h = (signal[1] / noise[1]).log() - (signal[0] / noise[0]).log()
    look_back = torch.zeros_like(h)
    look_back[1:] = of_clean[1:] * h[1:] / (2 * h[:-1])
    if len(h) < FEW_STEPS or noise[1][-1] == 0:
        look_back[-1] = 0
    tables = (
        ratio + of_clean * clean[0],
        of_clean * clean[1],
        torch.zeros_like(h),
        *clean,
        look_back,
    )
    return SolverSchedule(timesteps.to(device), *(table.float().to(device) for table in tables))
