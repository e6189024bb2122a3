"""DDIM with more noise in one half of the picture than in the other: a standard deviation [b, c, h, w].

Every latent element follows DDIM with an η of its own (see `ddim.py`), so the direction √(1 − ᾱ' − σ²)·ε
shrinks where σ grows, and each element's marginals are those of DDIM. With rows y from −1, the top, to 1:

    η(y)² = η² · (1 + tilt·y)        its mean over the picture is η²

It stands here as the pattern for non-isotropic noise: choose another map of η², keep all else.
"""

from __future__ import annotations

import torch

from ddpo_core.errors import UsageError
from ddpo_core.protocols import Denoiser
from ddpo_core.samplers.affine import Affine, tabulated
from ddpo_core.samplers.ddim import ddim_tables
from ddpo_core.samplers.paths import diffusion_steps
from ddpo_core.types import Schedule


class TiltedDDIM(Affine):
    """DDIM whose noise grows from row to row: with a positive `tilt` the lower rows are explored more."""

    def __init__(self, *, eta: float = 0.7, tilt: float = 0.5, spacing: str | None = None) -> None:
        if not -1 < tilt < 1:
            raise UsageError(f"ddim-tilted: expected a tilt between -1 and 1, both excluded; got {tilt:g}")
        if eta**2 * (1 + abs(tilt)) > 1:
            raise UsageError(
                f"ddim-tilted: eta {eta:g} with tilt {tilt:g} asks for an η of"
                f" {eta * (1 + abs(tilt)) ** 0.5:.3g} in the outermost row; expected at most 1",
                hint=f"take eta={int(100 / (1 + abs(tilt)) ** 0.5) / 100:g} or less",
            )
        self.eta = eta
        self.tilt = tilt
        self.spacing = spacing
        self.has_log_prob = eta > 0

    def schedule(self, denoiser: Denoiser, num_steps: int) -> Schedule:
        """T steps for the model's ᾱ, with tables [T, c, h, w]. The last step is rated where DDIM's is."""
        steps = diffusion_steps("ddim-tilted", denoiser, num_steps, self.spacing)
        alpha, alpha_next = (each.view(-1, 1, 1, 1) for each in (steps.alpha, steps.alpha_next))
        height = denoiser.latent_shape[1]
        y = torch.linspace(-1, 1, height, dtype=torch.float64) if height > 1 else torch.zeros(1)
        eta = self.eta * (1 + self.tilt * y.view(1, height, 1)).sqrt()
        shape = (num_steps, *denoiser.latent_shape)
        latents_coef, noise_coef, std = (table.expand(shape) for table in ddim_tables(alpha, alpha_next, eta))
        return tabulated(steps.timesteps, latents_coef, noise_coef, std, denoiser.device)
