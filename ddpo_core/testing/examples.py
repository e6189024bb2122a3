"""Pictures, prompts and rounds to try a plugin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ddpo_core.types import Judged, Population, Prompt, Trajectory


def example_prompts() -> list[Prompt]:
    """Five prompts, no two alike."""
    return [
        Prompt(text) for text in ("a cat", "two wolves", "a dog riding a bike", "an old woman", "a red ball")
    ]


def example_images(count: int, size: int | tuple[int, int] = 64) -> Tensor:
    """Pictures [count, 3, H, W] float32 in [0, 1], no two alike: gradients under growing noise.

    `size` is the side of a square, or (height, width).
    """
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 3, height, width, generator=generator)
    ramp = torch.linspace(0, 1, width).expand(count, 3, height, width)
    share = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return (1 - share) * ramp * torch.rand(count, 3, 1, 1, generator=generator) + share * noise


def judged_of(
    trajectory: Trajectory,
    advantages: Tensor,
    rewards: Mapping[str, np.ndarray],
    seeds: Sequence[int],
    *,
    epoch: int = 1,
    differentiable: Callable[[Tensor, Sequence[Prompt]], Tensor] | None = None,
) -> Judged:
    """A round of one process as an estimator is given it, for tests of estimators. All rewards weigh 1."""
    population = Population(
        advantages.double().numpy(),
        rewards,
        [prompt.text for prompt in trajectory.prompts],
        dict.fromkeys(rewards, 1.0),
        range(len(seeds)),
    )
    return Judged(
        trajectory, advantages, rewards, seeds, epoch, population, differentiable or _not_differentiable
    )


def _not_differentiable(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    raise AssertionError("this round has no differentiable reward")
