"""What noise does to a picture: the forward process x0 → x_t, and what the network is asked about x_t.

Every model here follows one of two Gaussian paths, x_t = signal·x0 + noise·ε:

    diffusion   signal = √ᾱ_t, noise = √(1 − ᾱ_t)   the network is seen as ε       (arXiv 2006.11239 Eq. 4)
    flow        signal = 1 − σ, noise = σ           the network is seen as ε − x0   (arXiv 2209.03003)

`noise_pred` is ε on the first path and the velocity ε − x0 on the second, where ε says nothing about the
picture at σ = 1. Samplers walk such a path backwards; losses that rate no step look at it forwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Path = Literal["diffusion", "flow"]


@dataclass(frozen=True)
class Diffusion:
    """Variance-preserving diffusion over N integer timesteps (DDPM)."""

    alphas_cumprod: Tensor  # [N] float64, ᾱ
    final_alpha_cumprod: float  # ᾱ after the last step: 1 for a clean picture
    steps_offset: int = 0  # added to "leading" timesteps
    timestep_spacing: str = "leading"  # "leading", "trailing" or "linspace": the model's own choice

    path: Path = "diffusion"

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise [b] float32 at integer timesteps [b]."""
        tables = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        # float32 before the device: some devices have no float64
        signal, noise = (table.float().to(timesteps.device)[timesteps] for table in tables)
        return signal, noise

    def draw_timesteps(self, uniform: Tensor) -> Tensor:
        """Training timesteps [b] int64 for numbers [b] in [0, 1): each of the N is as likely."""
        return (uniform.double() * len(self.alphas_cumprod)).long()

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What a perfect network answers, if it knew both: ε."""
        return noise

    def clean(self, latents: Tensor, noise_pred: Tensor, timesteps: Tensor) -> Tensor:
        """x̂0 [b, c, h, w] = (x_t − √(1 − ᾱ)·ε) / √ᾱ."""
        signal, noise = (_wide(scale) for scale in self.scales(timesteps))
        return (latents - noise * noise_pred) / signal


@dataclass(frozen=True)
class Flow:
    """Rectified flow over σ from 1, all noise, to 0, a clean picture; the network is told N·σ."""

    num_train_timesteps: int = 1000  # N
    shift: float = 1.0  # s of σ' = s·σ / (1 + (s − 1)·σ): more steps where there is more noise
    timestep_spacing: str = "trailing"  # "trailing" or "linspace": the model's own choice

    path: Path = "flow"

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise [b] float32 at timesteps [b] = N·σ."""
        sigma = timesteps.float() / self.num_train_timesteps
        return 1 - sigma, sigma

    def shifted(self, sigma: Tensor) -> Tensor:
        """σ under the model's time shift (arXiv 2403.03206 Eq. 23)."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def draw_timesteps(self, uniform: Tensor) -> Tensor:
        """Training timesteps [b] float32 for numbers [b] in [0, 1): σ uniform, then shifted; never 0."""
        return self.shifted(1 - uniform.float()) * self.num_train_timesteps

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What a perfect network answers, if it knew both: the velocity ε − x0."""
        return noise - clean

    def clean(self, latents: Tensor, noise_pred: Tensor, timesteps: Tensor) -> Tensor:
        """x̂0 [b, c, h, w] = x_t − σ·v."""
        _, sigma = self.scales(timesteps)
        return latents - _wide(sigma) * noise_pred


Process = Diffusion | Flow


def noised(process: Process, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t [b, c, h, w] for clean latents and standard normal noise, both [b, c, h, w], at timesteps [b]."""
    signal, scale = (_wide(each) for each in process.scales(timesteps))
    return signal * clean + scale * noise


def _wide(scale: Tensor) -> Tensor:
    return scale.view(-1, 1, 1, 1)
