"""DDIM with stochasticity η (arXiv 2010.02502, Eq. 12 and 16); η = 1 is the DDPM posterior.

    x_{t+1} = √ᾱ' · x̂0 + √(1 − ᾱ' − σ²) · ε + σ·z,    x̂0 = (x_t − √(1 − ᾱ)·ε) / √ᾱ
    σ = η · √((1 − ᾱ') / (1 − ᾱ)) · √(1 − ᾱ / ᾱ')

ᾱ belongs to this timestep and ᾱ' to the next entry of the schedule. The mean is affine in x_t and ε, so the
whole sampler is three numbers per step, worked out once in float64. x̂0 is not clipped: latents have no range.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion
from ddpo_core.protocols import Denoiser
from ddpo_core.types import Schedule


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


def diffusion_of(name: str, denoiser: Denoiser) -> Diffusion:
    """The model's noise schedule. Raises `UsageError` for a flow model, which has another path."""
    process = denoiser.process
    if not isinstance(process, Diffusion):
        raise UsageError(
            f"{name}: expected a diffusion model, got one of rectified flow; flow-sde and cps are for those"
        )
    return process


class DDIM:
    """DDIM. `eta` scales the noise: 1 is DDPM's, 0 none at all (then no step has a log-prob)."""

    def __init__(self, *, eta: float = 1.0, spacing: str | None = None) -> None:
        self.eta = eta
        self.spacing = spacing
        self.has_log_prob = eta > 0

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """T steps for the model's ᾱ; the last goes to its `final_alpha_cumprod`.

        σ is 0 on a last step that ends on a clean picture (ᾱ' = 1) or moves nowhere ("linspace" ends on
        timestep 0, whose ᾱ is also the usual final one): such a step is taken and not rated.
        """
        process = diffusion_of("ddim", denoiser)
        spacing = self.spacing or process.timestep_spacing
        alphas_cumprod = process.alphas_cumprod.double().cpu()
        timesteps = spaced_timesteps(len(alphas_cumprod), num_steps, spacing, process.steps_offset)
        alpha = alphas_cumprod[timesteps]
        if alpha.min() <= 0:
            raise UsageError(
                "ddim: this model's noise schedule ends at zero signal (rescale_betas_zero_snr), where ε says"
                " nothing about the picture; choose spacing=leading, whose first timestep is not the last one"
            )
        alpha_next = torch.cat([alpha[1:], alpha.new_tensor([process.final_alpha_cumprod])])
        variance = self.eta**2 * (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
        direction = (1 - alpha_next - variance).clamp(min=0).sqrt()  # below 0 only by rounding, at η = 1
        latents_coef = (alpha_next / alpha).sqrt()
        tensors = (latents_coef, direction - latents_coef * (1 - alpha).sqrt(), variance.clamp(min=0).sqrt())
        return Schedule(
            torch.tensor(timesteps, device=denoiser.device),
            *(tensor.float().to(denoiser.device) for tensor in tensors),
        )

    def step(
        self, schedule: Schedule, steps: Tensor, latents: Tensor, noise_pred: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean [b, c, h, w] and standard deviation [b, 1, 1, 1] of the next latents."""
        latents_coef, noise_coef, std = (
            table[steps].view(-1, 1, 1, 1)
            for table in (schedule.latents_coef, schedule.noise_coef, schedule.std)
        )
        return latents_coef * latents.float() + noise_coef * noise_pred.float(), std
