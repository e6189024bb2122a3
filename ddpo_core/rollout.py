"""prompts → rollout: T denoising steps, kept.

Every image's noise comes from a seed of its own, a function of the run's seed, the epoch and the image's
place in the epoch. So a sample does not depend on batch size, number of processes, device or interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.types import Conditioning, Prompt, Trajectory


def sample_seeds(run_seed: int, epoch: int, indices: Sequence[int]) -> list[int]:
    """One 64-bit seed for each sample of an epoch, by its index in the epoch over all processes."""
    return [
        int(np.random.SeedSequence([run_seed, epoch, index]).generate_state(1, np.uint64)[0] >> 1)
        for index in indices
    ]


class Noise:
    """Standard normal noise, a stream for each image, drawn on the CPU: every device sees the same."""

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape = tuple(shape)
        self.device = device

    def draw(self) -> Tensor:
        """The next [B, c, h, w]."""
        noise = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return torch.stack(noise).to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Walk:
    """Denoising from one step to the last: latents before each step and at the end, log-probs between."""

    latents: list[Tensor]  # [B, c, h, w] each
    log_probs: list[Tensor]  # [B] each


def denoise(
    policy: Policy,
    conditioning: Conditioning,
    noise: Noise,
    *,
    latents: Tensor | None = None,
    first: int = 0,
    storage_dtype: torch.dtype = torch.float32,
) -> Walk:
    """Walk the schedule from step `first` on, from `latents` there, or from noise; passes a gradient.

    Latents are rounded to their storage dtype before they are rated and before the network sees them again:
    rounding afterwards moves the ratio by up to 32 clip ranges in bf16.
    """
    schedule, rated = policy.schedule, set(policy.schedule.rated)
    now = (noise.draw() if latents is None else latents).to(storage_dtype)
    walk, memory = Walk([now], []), None
    for t in range(first, schedule.num_steps):
        if policy.looks_back:
            after, memory = policy.advance(t, walk.latents[-1], conditioning, memory)
            walk.latents.append(after.to(storage_dtype))
            walk.log_probs.append(torch.zeros_like(after[:, 0, 0, 0]))
            continue
        steps = torch.full((len(now),), t, device=policy.denoiser.device)
        step = policy.step(steps, walk.latents[-1], conditioning)
        is_rated = t in rated
        after = (step.draw(noise.draw()) if is_rated else step.mean).to(storage_dtype)
        walk.latents.append(after)
        walk.log_probs.append(step.log_prob(after) if is_rated else torch.zeros_like(step.mean[:, 0, 0, 0]))
    return walk


@torch.no_grad()
def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    storage_dtype: torch.dtype = torch.float32,
    keep_steps: bool = True,
) -> Trajectory:
    """Denoise one batch of prompts, one seed each; every step is kept on the host, or only the last."""
    denoiser = policy.denoiser
    conditioning = denoiser.encode([prompt.text for prompt in prompts])
    noise = Noise(seeds, denoiser.latent_shape, denoiser.device)
    walk = denoise(policy, conditioning, noise, storage_dtype=storage_dtype)
    return Trajectory(
        prompts=list(prompts),
        conditioning={name: tensor.cpu() for name, tensor in conditioning.items()},
        latents=torch.stack(walk.latents if keep_steps else walk.latents[-1:], 1).cpu(),
        log_probs=torch.stack(walk.log_probs, 1).cpu(),
        images=denoiser.decode(walk.latents[-1].float()).float().cpu(),
    )


def concatenate(batches: Sequence[Trajectory]) -> Trajectory:
    """Several batches as one round of trajectories."""
    return Trajectory(
        prompts=[prompt for batch in batches for prompt in batch.prompts],
        conditioning={
            name: torch.cat([batch.conditioning[name] for batch in batches])
            for name in batches[0].conditioning
        },
        latents=torch.cat([batch.latents for batch in batches]),
        log_probs=torch.cat([batch.log_probs for batch in batches]),
        images=torch.cat([batch.images for batch in batches]),
    )
