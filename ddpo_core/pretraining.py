"""The pretraining loss beside the rewards: image–caption pairs hold the model to what pictures look like.

arXiv 2401.12244 Eq. 8–9 and Algorithm 1: once an epoch, after all tasks, an optimiser step of its own on
E‖noise_pred − target‖², with data and batch of its own. Its weight scales that step's gradient (AdamW's
moments are shared with the other steps, so it matters less than for plain gradient descent).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.losses import denoising_loss
from ddpo_core.processes import noised
from ddpo_core.protocols import Denoiser
from ddpo_core.rollout import Noise, sample_seeds
from ddpo_core.types import Conditioning, Loss, Part

STREAM = 0x9E3779B9  # keeps these seeds apart from those of samples


class CaptionedImages(Protocol):
    """Pictures with captions, indexable; none is opened before it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """A picture [3, H, W] float32 in [0, 1] of the model's own size, and its caption."""


@dataclass(frozen=True)
class Captioned(Part):
    """b pictures with captions, noise and timesteps drawn."""

    clean: Tensor  # [b, c, h, w]
    noise: Tensor  # [b, c, h, w]
    timesteps: Tensor  # [b]
    conditioning: Conditioning


@dataclass(frozen=True)
class Pretraining:
    """What the pretraining step is made of. Which pairs an epoch takes follows from `seed` and its number."""

    data: CaptionedImages
    batch_size: int  # pairs of one step, over all processes
    weight: float = 1.0
    minibatch_size: int = 8
    seed: int = 0

    def check(self, processes: int) -> None:
        """Raise `UsageError` where some process would have no pair, and nothing to share its gradient of."""
        if self.batch_size < processes:
            raise UsageError(
                f"pretraining: a batch of {self.batch_size} pairs is too small for {processes} processes",
                hint=f"take at least {processes}",
            )

    def minibatches(self, policy: Policy, *, epoch: int, process: int, processes: int) -> Iterator[Captioned]:
        """This process's part of the epoch's batch; the processes' mean is the mean over all pairs."""
        denoiser = policy.denoiser
        seeds = sample_seeds(self.seed ^ STREAM, epoch, range(self.batch_size))
        mine = seeds[process::processes]
        for start in range(0, len(mine), self.minibatch_size):
            chunk = mine[start : start + self.minibatch_size]
            pairs = [self.data[seed % len(self.data)] for seed in chunk]
            images = torch.stack([image for image, _ in pairs])
            yield Captioned(
                weight=len(chunk) * processes / self.batch_size,
                clean=encoded(denoiser, images),
                noise=Noise(chunk, denoiser.latent_shape, denoiser.device).draw(),
                timesteps=denoiser.process.draw_timesteps(uniform(chunk)).to(denoiser.device),
                conditioning=denoiser.encode([caption for _, caption in pairs]),
            )

    def loss(self, policy: Policy, minibatch: Captioned) -> Loss:
        process = policy.denoiser.process
        latents = noised(process, minibatch.clean, minibatch.noise, minibatch.timesteps)
        # never guided: a caption is dropped in pretraining, or it is the condition
        noise_pred = policy.denoiser.noise_pred(latents, minibatch.timesteps, minibatch.conditioning)
        value = denoising_loss(noise_pred, process.target(minibatch.clean, minibatch.noise)).mean()
        return Loss(self.weight * value, {"denoising_error": value.detach()})


def picture_size(denoiser: Denoiser) -> tuple[int, int]:
    """Height and width of the model's pictures, in pixels."""
    with torch.no_grad():
        blank = denoiser.decode(torch.zeros(1, *denoiser.latent_shape, device=denoiser.device))
    return blank.shape[2], blank.shape[3]


def encoded(denoiser: Denoiser, images: Tensor) -> Tensor:
    """Latents [b, c, h, w] of pictures. Raises `UsageError` where these are not of the model's size."""
    clean = denoiser.encode_images(images)
    if tuple(clean.shape[1:]) != tuple(denoiser.latent_shape):
        raise UsageError(
            f"pretraining: the model's latents are {denoiser.latent_shape}, those of pictures of"
            f" {images.shape[2]} × {images.shape[3]} pixels {tuple(clean.shape[1:])}"
        )
    return clean


def uniform(seeds: Sequence[int]) -> Tensor:
    """A number in [0, 1) for each seed [b] float64, apart from the noise drawn of the same seed."""
    draws = [
        torch.rand((), generator=torch.Generator().manual_seed(seed ^ STREAM), dtype=torch.float64)
        for seed in seeds
    ]
    return torch.stack(draws)
