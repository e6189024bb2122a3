"""DDIM with stochasticity η (arXiv 2010.02502, Eq. 12 and 16); η = 1 is the DDPM posterior, η = 0 the ODE.

    x_{t+1} = √ᾱ' · x̂0 + √(1 − ᾱ' − σ²) · ε + σ·z,    x̂0 = (x_t − √(1 − ᾱ)·ε) / √ᾱ
    σ = η · √((1 − ᾱ') / (1 − ᾱ)) · √(1 − ᾱ / ᾱ')

ᾱ belongs to this timestep and ᾱ' to the next entry of the schedule. x̂0 is not clipped: latents have no range.
"""

from __future__ import annotations

from torch import Tensor

from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import Affine, tabulated
from ddpo_core.samplers.paths import diffusion_steps
from ddpo_core.types import Schedule


class DDIM(Affine):
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
        steps = diffusion_steps("ddim", denoiser, num_steps, self.spacing)
        tables = ddim_tables(steps.alpha, steps.alpha_next, self.eta)
        return tabulated(steps.timesteps, *tables, denoiser.device)


def ddim_tables(alpha: Tensor, alpha_next: Tensor, eta: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The coefficients of x_t and ε and the standard deviation, for ᾱ and ᾱ'; the shapes are broadcast."""
    variance = eta**2 * (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    direction = (1 - alpha_next - variance).clamp(min=0).sqrt()  # below 0 only by rounding, at η = 1
    latents_coef = (alpha_next / alpha).sqrt()
    return latents_coef, direction - latents_coef * (1 - alpha).sqrt(), variance.clamp(min=0).sqrt()
