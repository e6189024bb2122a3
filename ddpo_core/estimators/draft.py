"""DRaFT and AlignProp: the reward's own gradient, through the decoder and the last K denoising steps.

    DRaFT-K     from x_{T−K} on, the last K steps are walked again with a gradient (arXiv 2309.17400 §4.1);
                K = T is the whole chain, from the noise on
    DRaFT-LV    K = 1, and the finished picture is noised again to the last timestep n times, each denoised by
                one step: the same gradient with less variance (§4.2, Algorithm 1)
    AlignProp   K drawn anew for each update (randomised truncation, arXiv 2310.03739 §4)

Only for rewards that declare a gradient. Noise of the steps is what sampled them, so under the weights that
sampled the pictures are the round's own. Memory grows with K; `--gradient-checkpointing` bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.estimators.forward import noise_and_uniform
from ddpo_core.info import Need
from ddpo_core.processes import noised
from ddpo_core.rollout import Noise, denoise
from ddpo_core.types import Conditioning, Judged, Loss, Part, Prompt


@dataclass(frozen=True)
class Chain(Part):
    """b samples on their way, and what judges them at its end."""

    first: int  # the step from which on there is a gradient
    latents: Tensor  # [b, c, h, w] before that step
    seeds: Sequence[int]  # b
    prompts: Sequence[Prompt]  # b
    conditioning: Conditioning  # [b, …]
    reward: Callable[[Tensor, Sequence[Prompt]], Tensor]  # pictures [b, 3, H, W] → [b], with a gradient


class BackPropagation:
    """DRaFT-K, DRaFT-LV and AlignProp.

    steps         K: how many steps from the end the gradient goes back through
    lv            n: DRaFT-LV's further looks at the last step, with new noise; 0: none
    random_steps  draw K from 1 … `steps` for each update
    """

    needs: frozenset[Need] = frozenset({"trajectory", "gradient"})

    def __init__(self, *, steps: int = 1, lv: int = 0, random_steps: bool = False) -> None:
        if lv and (steps != 1 or random_steps):
            raise UsageError(
                f"draft: lv={lv} is for the last step alone; got steps={steps}, random_steps={random_steps}",
                hint=f"take draft,lv={lv}, or leave lv out",
            )
        self.steps = steps
        self.lv = lv
        self.random_steps = random_steps

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Chain]]:
        """`num_updates` optimiser steps, each with its share of the samples.

        Raises `UsageError` for more steps than there are, and for a solver that cannot begin in the middle.
        """
        check_steps(policy, self.steps, self.random_steps)
        generator = np.random.default_rng(judged.epoch)  # one K for an update, whatever the batch size
        for rows in torch.arange(len(judged.seeds)).chunk(num_updates):
            steps = int(generator.integers(1, self.steps + 1)) if self.random_steps else self.steps
            yield chains(policy, judged, rows, policy.schedule.num_steps - steps, batch_size)

    def loss(self, policy: Policy, minibatch: Chain) -> Loss:
        finished = denoise(
            policy,
            minibatch.conditioning,
            noise_from(policy, minibatch),
            latents=minibatch.latents,
            first=minibatch.first,
        ).latents[-1]
        looks = [finished, *(self.last_step(policy, minibatch, finished, look) for look in range(self.lv))]
        rewards = torch.stack([judge(policy, minibatch, latents) for latents in looks])
        return Loss(-rewards.mean(), {"weighted_reward": rewards[0].detach().mean()})

    def last_step(self, policy: Policy, minibatch: Chain, finished: Tensor, look: int) -> Tensor:
        """Finished latents once more: noised to the last timestep, and denoised by one step."""
        denoiser, last = policy.denoiser, policy.schedule.num_steps - 1
        noise, _ = noise_and_uniform(minibatch.seeds, denoiser.latent_shape, look, denoiser.device)
        timesteps = policy.schedule.timesteps[last].expand(len(finished))
        latents = noised(denoiser.process, finished.detach(), noise, timesteps)
        noise_pred = policy.noise_pred(latents, timesteps, minibatch.conditioning)
        return denoiser.process.clean(latents, noise_pred, timesteps)


def check_steps(policy: Policy, steps: int, random_steps: bool) -> None:
    """Raise `UsageError` where the last `steps` steps cannot be walked by themselves."""
    num_steps = policy.schedule.num_steps
    if steps > num_steps:
        raise UsageError(
            f"draft: steps={steps} is more than the {num_steps} denoising steps there are",
            hint=f"take steps={num_steps} for the whole chain, or more --num-steps",
        )
    if policy.looks_back and (steps < num_steps or random_steps):
        raise UsageError(
            f"draft: {type(policy.sampler).__name__} looks back, so it cannot begin in the middle",
            hint=f"take draft,steps={num_steps}, or a sampler of single steps such as ddim",
        )


def chains(policy: Policy, judged: Judged, rows: Tensor, first: int, batch_size: int) -> Iterator[Chain]:
    """One update's samples `rows` [n] before step `first`, `batch_size` at a time; the weights sum to 1."""
    trajectory, device = judged.trajectory, policy.denoiser.device
    for chunk in torch.split(rows, batch_size):
        yield Chain(
            weight=len(chunk) / len(rows),
            first=first,
            latents=trajectory.latents[chunk, first].to(device),
            seeds=[judged.seeds[row] for row in chunk.tolist()],
            prompts=[trajectory.prompts[row] for row in chunk.tolist()],
            conditioning={name: tensor[chunk].to(device) for name, tensor in trajectory.conditioning.items()},
            reward=judged.differentiable,
        )


def noise_from(policy: Policy, minibatch: Chain) -> Noise:
    """Each sample's noise as it was when the walk stood before step `first`."""
    noise = Noise(minibatch.seeds, policy.denoiser.latent_shape, policy.denoiser.device)
    noise.draw()  # what the walk began with
    for t in policy.schedule.rated:
        if t < minibatch.first:
            noise.draw()
    return noise


def judge(policy: Policy, minibatch: Chain, latents: Tensor) -> Tensor:
    """Rewards [b] of finished latents, with a gradient to them."""
    return minibatch.reward(policy.denoiser.decode(latents.float()), minibatch.prompts)
