"""DDPM's ancestral sampling (arXiv 2006.11239, Eq. 6, 7 and 11) on a strided schedule.

    x_{t+1} = (x_t − β / √(1 − ᾱ) · ε) / √α + σ·z,    α = ᾱ / ᾱ',  β = 1 − α
    fixed_small  σ² = β̃ = (1 − ᾱ') / (1 − ᾱ) · β      the posterior's variance, Eq. 7
    fixed_large  σ² = β                                 right for x0 ~ N(0, 1)

ᾱ belongs to this timestep and ᾱ' to the next entry of the schedule, which need not be its neighbour. With
fixed_small this is DDIM with η = 1. x̂0 is not clipped: latents have no range.
"""

from __future__ import annotations

from ddpo_core.errors import UsageError
from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import Affine, tabulated
from ddpo_core.samplers.paths import diffusion_steps
from ddpo_core.types import Schedule


class DDPM(Affine):
    """Ancestral sampling. `variance` is "fixed_small", β̃, or "fixed_large", β, which explores more."""

    has_log_prob = True

    def __init__(self, *, variance: str = "fixed_small", spacing: str | None = None) -> None:
        if variance not in ("fixed_small", "fixed_large"):
            raise UsageError(f"ddpm: expected variance=fixed_small or fixed_large; got {variance!r}")
        self.variance = variance
        self.spacing = spacing

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """T steps for the model's ᾱ; the last goes to its `final_alpha_cumprod`.

        A last step that ends on a clean picture (ᾱ' = 1) draws no noise with either variance (Algorithm 2),
        nor does one that moves nowhere: such a step is taken and not rated.
        """
        steps = diffusion_steps("ddpm", denoiser, num_steps, self.spacing)
        alpha = steps.alpha / steps.alpha_next
        beta = 1 - alpha
        latents_coef = 1 / alpha.sqrt()
        noise_coef = -latents_coef * beta / (1 - steps.alpha).sqrt()
        if self.variance == "fixed_small":
            variance = (1 - steps.alpha_next) / (1 - steps.alpha) * beta
        else:
            variance = beta.where(steps.alpha_next < 1, 0)
        std = variance.clamp(min=0).sqrt()  # below 0 only by rounding, where a step moves nowhere
        return tabulated(steps.timesteps, latents_coef, noise_coef, std, denoiser.device)
