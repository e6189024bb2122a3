"""Coefficients-preserving sampling for flows, Flow-CPS (arXiv 2509.05952): what DDIM's η is to diffusion.

    x_{t+1} = (1 − σ')·x̂0 + σ'·cos(πa/2)·ε̂ + σ'·sin(πa/2)·z
    x̂0 = x_t − σ·v,    ε̂ = x_t + (1 − σ)·v

σ belongs to this timestep and σ' to the next entry of the schedule; a is the noise level. The squares of the
two noises' coefficients add up to σ'², so no step leaves more noise than the model expects at σ', and none is
left in the picture. Reference implementations rate a step by −(x − mean)²; here it is rated by its Gaussian,
as everywhere, so their clip ranges do not carry over.
"""

from __future__ import annotations

import math

from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import Affine, tabulated
from ddpo_core.samplers.paths import flow_steps
from ddpo_core.types import Schedule


class CPS(Affine):
    """Flow-CPS. `noise_level` 1 draws all of a step's noise anew; 0 is `flow-ode`, without log-prob."""

    def __init__(self, *, noise_level: float = 0.8, spacing: str | None = None) -> None:
        self.noise_level = noise_level
        self.spacing = spacing
        self.has_log_prob = noise_level > 0

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """T steps from σ = 1 to 0; the last, which ends on the picture, draws no noise and is not rated."""
        steps = flow_steps("cps", denoiser, num_steps, self.spacing)
        sigma, sigma_next = steps.sigma, steps.sigma_next
        angle = self.noise_level * math.pi / 2
        kept = sigma_next * math.cos(angle)  # the coefficient of ε̂
        latents_coef = (1 - sigma_next) + kept
        noise_coef = kept * (1 - sigma) - (1 - sigma_next) * sigma
        return tabulated(
            steps.timesteps, latents_coef, noise_coef, sigma_next * math.sin(angle), denoiser.device
        )
