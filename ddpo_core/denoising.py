"""One denoising step as a policy: guidance, the Gaussian it draws from, and the log-prob of what was drawn.

Sampling and training both go through `Policy.step`, so a step is drawn and rated by the same arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpo_core.types import Conditioning, Schedule

if TYPE_CHECKING:
    from ddpo_core.protocols import Denoiser, Sampler

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def guide(noise_pred_uncond: Tensor, noise_pred_text: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance, ε̃ = w·ε(c) + (1 − w)·ε(∅) (arXiv 2207.12598; DDPO Table D.5 has w = 5)."""
    return noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)


def gaussian_log_prob(latents: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(latents; mean, std²) [b], float32, the mean (not the sum) over latent elements.

    DDPO's clip range of 1e-4 is in these units: nats per latent element. Times the number of elements it
    is the log-density itself. `std` must be positive.
    """
    error = (latents.float() - mean) / std
    log_density = -0.5 * error.square() - std.log() - HALF_LOG_TAU
    return log_density.flatten(1).mean(1)


@dataclass(frozen=True)
class GaussianStep:
    """p(x_{t+1} | x_t) for b images."""

    mean: Tensor  # [b, c, h, w]
    std: Tensor  # [b, 1, 1, 1], or [b, c, h, w] for non-isotropic noise

    def draw(self, noise: Tensor) -> Tensor:
        """x_{t+1} for standard normal `noise` [b, c, h, w]."""
        return self.mean + self.std * noise

    def log_prob(self, latents: Tensor) -> Tensor:
        """Nats per latent element [b] of having drawn `latents`."""
        return gaussian_log_prob(latents, self.mean, self.std)


@dataclass(frozen=True)
class Policy:
    """π(x_{t+1} | x_t, prompt): network, kernel, schedule and guidance, one setting for all."""

    denoiser: Denoiser
    sampler: Sampler
    schedule: Schedule
    guidance_scale: float

    @property
    def guided(self) -> bool:
        """Whether a step needs the network twice. At w = 1 the unconditional half cancels out."""
        return self.guidance_scale != 1.0

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The guided answer [b, c, h, w]; both halves in one batch of 2b, gradients through both."""
        if not self.guided:
            return self.denoiser.noise_pred(latents, timesteps, conditioning)
        unconditional = self.denoiser.encode([""])
        both = {
            name: torch.cat([unconditional[name].expand_as(tensor), tensor])
            for name, tensor in conditioning.items()
        }
        noise_pred = self.denoiser.noise_pred(latents.repeat(2, 1, 1, 1), timesteps.repeat(2), both)
        noise_pred_uncond, noise_pred_text = noise_pred.chunk(2)
        return guide(noise_pred_uncond, noise_pred_text, self.guidance_scale)

    def step(self, steps: Tensor, latents: Tensor, conditioning: Conditioning) -> GaussianStep:
        """The distribution of the next latents, for latents [b, c, h, w] at schedule indices `steps` [b]."""
        noise_pred = self.noise_pred(latents, self.schedule.timesteps[steps], conditioning)
        return GaussianStep(*self.sampler.step(self.schedule, steps, latents, noise_pred))

    @property
    def looks_back(self) -> bool:
        """Whether the sampler's steps depend on those before: then none can be rated, see `advance`."""
        return bool(getattr(self.sampler, "multistep", False))

    def advance(
        self, t: int, latents: Tensor, conditioning: Conditioning, memory: object
    ) -> tuple[Tensor, object]:
        """One step of a multistep solver: the next latents, and what it wants to remember."""
        steps = torch.full((len(latents),), t, device=latents.device)
        noise_pred = self.noise_pred(latents, self.schedule.timesteps[steps], conditioning)
        sampler: Any = self.sampler
        advanced: tuple[Tensor, object] = sampler.advance(self.schedule, t, latents, noise_pred, memory)
        return advanced
