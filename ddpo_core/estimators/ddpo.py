"""DDPO's two policy-gradient estimators (arXiv 2305.13301 §4.3): score function and importance sampling.

Both walk the same minibatches. An update takes its share of the round's samples with all their rated
timesteps, or those that were chosen, in an order shuffled for each sample; its gradient is the mean over
all those steps. Which sample goes to which update does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ddpo_core.denoising import GaussianStep, Policy
from ddpo_core.errors import UsageError
from ddpo_core.info import Need
from ddpo_core.losses import (
    approx_kl,
    clip_fraction,
    clip_range_from_nats,
    effective_sample_size,
    importance_sampling_loss,
    score_function_loss,
)
from ddpo_core.timesteps import TimestepChoice
from ddpo_core.types import Conditioning, Judged, Loss, Minibatch


def gather_steps(
    judged: Judged, rows: Tensor, steps: Tensor, conditioning: Conditioning, weight: float
) -> Minibatch:
    """The minibatch of samples `rows` [b], each at its own step `steps` [b], where their conditioning is."""
    trajectory, device = judged.trajectory, next(iter(conditioning.values())).device
    return Minibatch(
        weight=weight,
        latents=trajectory.latents[rows, steps].to(device),
        next_latents=trajectory.latents[rows, steps + 1].to(device),
        steps=steps.to(device),
        conditioning=conditioning,
        old_log_prob=trajectory.log_probs[rows, steps].to(device),
        advantage=judged.advantages[rows].to(device),
    )


def policy_gradient_updates(
    policy: Policy,
    judged: Judged,
    choice: TimestepChoice,
    *,
    num_updates: int,
    batch_size: int,
    inner_epochs: int = 1,
) -> Iterator[Iterator[Minibatch]]:
    """`num_updates` optimiser steps for each inner epoch, as iterators over their minibatches."""
    rows, device = torch.arange(len(judged.seeds)), policy.denoiser.device
    for inner_epoch in range(inner_epochs):
        picked = choice.pick(policy.schedule.rated, judged.seeds, epoch=judged.epoch, inner_epoch=inner_epoch)
        for update in rows.chunk(num_updates):
            for steps in choice.updates(picked[update]):
                yield minibatches(judged, update, steps, batch_size, device)


def minibatches(
    judged: Judged, rows: Tensor, steps: Tensor, batch_size: int, device: torch.device
) -> Iterator[Minibatch]:
    """One update's samples `rows` [n] with their `steps` [n, k], `batch_size` pairs at a time.

    Each weighs as many of the update's n · k pairs as it holds; the weights sum to 1.
    """
    for chunk, chunk_steps in zip(torch.split(rows, batch_size), torch.split(steps, batch_size), strict=True):
        conditioning = {
            name: tensor[chunk].to(device) for name, tensor in judged.trajectory.conditioning.items()
        }
        for t in range(steps.shape[1]):
            yield gather_steps(judged, chunk, chunk_steps[:, t], conditioning, len(chunk) / steps.numel())


class ImportanceSampling:
    """DDPO_IS: PPO-clipped importance sampling, several updates for each round of samples.

    clip_range      PPO's ε, in mean-reduced units (the paper's 1e-4)
    clip_nats       the same in nats of a step's summed log-prob; set, it takes the place of clip_range
    advantage_clip  advantages are clamped to ± this before the loss
    inner_epochs    passes over the round's samples
    timesteps       the fields of `TimestepChoice`
    """

    needs: frozenset[Need] = frozenset({"trajectory", "log_probs"})

    def __init__(
        self,
        *,
        clip_range: float = 1e-4,
        clip_nats: float | None = None,
        advantage_clip: float = 5.0,
        inner_epochs: int = 1,
        **timesteps: Any,
    ) -> None:
        self.clip_range = clip_range
        self.clip_nats = clip_nats
        self.advantage_clip = advantage_clip
        self.inner_epochs = inner_epochs
        self.choice = TimestepChoice(**timesteps)

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Minibatch]]:
        """`num_updates` optimiser steps for each inner epoch; all but the very first are off-policy."""
        return policy_gradient_updates(
            policy,
            judged,
            self.choice,
            num_updates=num_updates,
            batch_size=batch_size,
            inner_epochs=self.inner_epochs,
        )

    def loss(self, policy: Policy, minibatch: Minibatch) -> Loss:
        step = policy.step(minibatch.steps, minibatch.latents, minibatch.conditioning)
        return self.loss_of(step, minibatch)

    def loss_of(self, step: GaussianStep, minibatch: Minibatch) -> Loss:
        """The loss of steps whose distribution under the current weights is `step`."""
        log_prob, old_log_prob = step.log_prob(minibatch.next_latents), minibatch.old_log_prob
        advantage = minibatch.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        latent_elements = minibatch.latents[0].numel()
        clip_range = self.clip_range_for(latent_elements)
        value = importance_sampling_loss(log_prob, old_log_prob, advantage, clip_range).mean()
        log_prob = log_prob.detach()
        clipped = clip_fraction(log_prob, old_log_prob, clip_range)
        return Loss(
            value,
            {
                "approx_kl": approx_kl(log_prob, old_log_prob).mean(),
                "clip_fraction": clipped.mean(),
                "clip_range": clip_range,
                "clip_nats": clip_range * latent_elements,
                "effective_sample_size": effective_sample_size((log_prob - old_log_prob) * latent_elements),
            },
            {"clip_fraction": (minibatch.steps, clipped)},
        )

    def clip_range_for(self, latent_elements: int) -> float:
        """ε in mean-reduced units for latents of this size."""
        return (
            self.clip_range
            if self.clip_nats is None
            else clip_range_from_nats(self.clip_nats, latent_elements)
        )


class ScoreFunction:
    """DDPO_SF: REINFORCE over denoising steps, exactly one update for each round of samples."""

    needs: frozenset[Need] = frozenset({"trajectory", "log_probs"})

    def __init__(self, *, advantage_clip: float = 5.0, **timesteps: Any) -> None:
        self.advantage_clip = advantage_clip
        self.choice = TimestepChoice(**timesteps)

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Minibatch]]:
        """The one update. Raises `UsageError` for more: from the second on the gradient would be biased."""
        if num_updates != 1 or self.choice.update_per_timestep:
            got = "one per timestep" if num_updates == 1 else f"{num_updates} updates per epoch"
            raise UsageError(f"ddpo-sf makes exactly one update per round; got {got}")
        return policy_gradient_updates(policy, judged, self.choice, num_updates=1, batch_size=batch_size)

    def loss(self, policy: Policy, minibatch: Minibatch) -> Loss:
        step = policy.step(minibatch.steps, minibatch.latents, minibatch.conditioning)
        log_prob = step.log_prob(minibatch.next_latents)
        advantage = minibatch.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        value = score_function_loss(log_prob, advantage).mean()
        # nothing is clipped in SF; said so that every estimator's metrics can be plotted beside another's
        moved = (log_prob.detach() - minibatch.old_log_prob) * minibatch.latents[0].numel()
        return Loss(
            value,
            {
                "approx_kl": approx_kl(log_prob.detach(), minibatch.old_log_prob).mean(),
                "clip_fraction": torch.zeros_like(value.detach()),
                "effective_sample_size": effective_sample_size(moved),
            },
        )
