"""What methods without log-probs share: finished latents are noised, and the network is asked about them.

Noise and timestep of a sample follow from its own seed and the number of the draw, so they depend neither
on the batch size nor on the number of processes, and no draw repeats the noise that the sample began with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddpo_core.pretraining import uniform
from ddpo_core.rollout import Noise, sample_seeds

FORWARD = 0x5DEECE66D  # keeps these seeds apart from those that pick timesteps


def draw_seeds(seeds: Sequence[int], draw: int) -> list[int]:
    """A seed for the `draw`-th look (from 0) at each sample, all passes counted through."""
    return [sample_seeds(seed ^ FORWARD, draw, [0])[0] for seed in seeds]


def noise_and_uniform(
    seeds: Sequence[int], latent_shape: Sequence[int], draw: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Standard normal noise [b, c, h, w] and a number in [0, 1) [b] float64 for each sample's `draw`-th look.

    `process.draw_timesteps` makes a timestep of the number.
    """
    drawn = draw_seeds(seeds, draw)
    return Noise(drawn, latent_shape, device).draw(), uniform(drawn).to(device)
