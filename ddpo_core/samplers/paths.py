"""The steps along each of the two paths: which timesteps are visited, and how much of the picture is there.

A sampler that is given a model of the other path is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion, Flow, Path
from ddpo_core.protocols import Denoiser

# by the path of the model that they denoise
SAMPLERS: dict[Path, tuple[str, ...]] = {
    "diffusion": ("ddim", "ddim-tilted", "ddpm", "dpm++"),
    "flow": ("flow-sde", "cps", "flow-ode", "dpm++"),
}


@dataclass(frozen=True)
class DiffusionSteps:
    """T steps of a diffusion model: from `alpha` to `alpha_next`, both ᾱ."""

    timesteps: Tensor  # [T] int64
    alpha: Tensor  # [T] float64, above 0
    alpha_next: Tensor  # [T] float64; the last is the model's `final_alpha_cumprod`


def diffusion_steps(
    sampler: str, denoiser: Denoiser, num_steps: int, spacing: str | None = None
) -> DiffusionSteps:
    """T steps for a diffusion model, spaced as it is used to or as told.

    Raises `UsageError` for a flow model, and for a noise schedule that starts where there is no signal.
    """
    process = denoiser.process
    if not isinstance(process, Diffusion):
        raise wrong_path(sampler, "diffusion", process.path)
    alphas_cumprod = process.alphas_cumprod.double().cpu()
    spacing = spacing or process.timestep_spacing
    timesteps = torch.tensor(spaced_timesteps(len(alphas_cumprod), num_steps, spacing, process.steps_offset))
    alpha = alphas_cumprod[timesteps]
    if alpha.min() <= 0:
        raise UsageError(
            f"{sampler}: this model's noise schedule ends at zero signal (rescale_betas_zero_snr), where ε"
            " says nothing about the picture",
            hint="take spacing=leading, whose first timestep is not the model's last",
        )
    alpha_next = torch.cat([alpha[1:], alpha.new_tensor([process.final_alpha_cumprod])])
    return DiffusionSteps(timesteps, alpha, alpha_next)


def spaced_timesteps(num_train: int, num_steps: int, spacing: str, offset: int = 0) -> list[int]:
    """T of the N training timesteps, noisy to clean (arXiv 2305.08891, Table 2; as diffusers has them)."""
    if not 1 <= num_steps <= num_train:
        raise UsageError(
            f"num_steps: expected 1 to {num_train}, the model's training timesteps; got {num_steps}"
        )
    descending: np.ndarray
    if spacing == "leading":
        descending = np.arange(num_steps)[::-1] * (num_train // num_steps) + offset
    elif spacing == "trailing":
        descending = np.round(np.arange(num_train, 0, -num_train / num_steps))[:num_steps] - 1
    elif spacing == "linspace":
        descending = np.linspace(0, num_train - 1, num_steps).round()[::-1]
    else:
        raise UsageError(f"spacing: expected leading, trailing or linspace; got {spacing!r}")
    timesteps = [int(timestep) for timestep in descending]
    if timesteps[0] >= num_train:
        raise UsageError(
            f"{num_steps} {spacing} steps with an offset of {offset} begin at timestep {timesteps[0]}, and"
            f" the model knows 0 to {num_train - 1}; take fewer steps, or spacing=trailing"
        )
    return timesteps


@dataclass(frozen=True)
class FlowSteps:
    """T steps of a flow model: from `sigma` to `sigma_next`, from 1 to 0."""

    timesteps: Tensor  # [T] float32, N·σ
    sigma: Tensor  # [T] float64
    sigma_next: Tensor  # [T] float64; the last is 0


def flow_steps(sampler: str, denoiser: Denoiser, num_steps: int, spacing: str | None = None) -> FlowSteps:
    """T steps for a flow model, spaced as it is used to or as told, under its time shift.

    "trailing" walks from 1 to 0 in T equal parts, as the FLUX.1 pipeline does. "linspace" is what diffusers'
    scheduler does by itself, as under Stable Diffusion 3: T values from 1 to the lowest of training, 1/N, and
    then 0; that lowest one is shifted twice there, and so it is here. Raises `UsageError` for a diffusion
    model.
    """
    process = denoiser.process
    if not isinstance(process, Flow):
        raise wrong_path(sampler, "flow", process.path)
    if num_steps < 1:
        raise UsageError(f"num_steps: expected at least 1; got {num_steps}")
    spacing = spacing or process.timestep_spacing
    if spacing == "trailing":
        lowest = 1 / num_steps
    elif spacing == "linspace":
        lowest = float(process.shifted(torch.tensor(1 / process.num_train_timesteps, dtype=torch.float64)))
    else:
        raise UsageError(f"spacing: expected trailing or linspace for a flow model; got {spacing!r}")
    sigma = process.shifted(torch.linspace(1, lowest, num_steps, dtype=torch.float64))
    timesteps = (sigma * process.num_train_timesteps).float()
    return FlowSteps(timesteps, sigma, torch.cat([sigma[1:], sigma.new_zeros(1)]))


def wrong_path(sampler: str, expected: Path, got: Path) -> UsageError:
    """What to say of a model of the other path."""
    return UsageError(
        f"{sampler}: expected a {expected} model, got a {got} model",
        hint=f"for {got} models there are {', '.join(SAMPLERS[got])}",
    )
