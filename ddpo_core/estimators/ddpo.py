"""DDPO's two policy-gradient estimators (arXiv 2305.13301 §4.3): score function and importance sampling.

Both walk the same minibatches. An update takes its share of the round's samples with all their rated
timesteps, or a random fraction of them, in an order shuffled for each sample; its gradient is the mean over
all those steps. Which sample goes to which update does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.losses import (
    approx_kl,
    clip_fraction,
    clip_range_from_nats,
    importance_sampling_loss,
    score_function_loss,
)
from ddpo_core.rollout import sample_seeds
from ddpo_core.types import Conditioning, Judged, Loss, Minibatch, Schedule


def early_steps(rated: Sequence[int], fraction: float) -> Sequence[int]:
    """The first part of the rated steps: those nearer to the noise."""
    return rated[: max(1, round(len(rated) * fraction))]


def shuffled_steps(seeds: Sequence[int], rated: Sequence[int], fraction: float, inner_epoch: int) -> Tensor:
    """Which steps of each sample to train on, in which order [B, k]: a shuffle of its own for each."""
    count = max(1, round(len(rated) * fraction))
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(sample_seeds(seed, inner_epoch, [0])[0])
        rows.append(torch.tensor(rated)[torch.randperm(len(rated), generator=generator)[:count]])
    return torch.stack(rows)


def gather_steps(
    judged: Judged, rows: Tensor, steps: Tensor, conditioning: Conditioning, weight: float
) -> Minibatch:
    """The minibatch of samples `rows` [b], each at its own step `steps` [b], where their conditioning is."""
    trajectory, device = judged.trajectory, next(iter(conditioning.values())).device
    return Minibatch(
        latents=trajectory.latents[rows, steps].to(device),
        next_latents=trajectory.latents[rows, steps + 1].to(device),
        steps=steps.to(device),
        conditioning=conditioning,
        old_log_prob=trajectory.log_probs[rows, steps].to(device),
        advantage=judged.advantages[rows].to(device),
        weight=weight,
    )


def policy_gradient_updates(
    judged: Judged,
    schedule: Schedule,
    *,
    num_updates: int,
    batch_size: int,
    inner_epochs: int = 1,
    timestep_fraction: float = 1.0,
    early_fraction: float = 1.0,
) -> Iterator[Iterator[Minibatch]]:
    """`num_updates` optimiser steps for each inner epoch, as iterators over their minibatches."""
    rated, rows = early_steps(schedule.rated, early_fraction), torch.arange(len(judged.seeds))
    for inner_epoch in range(inner_epochs):
        steps = shuffled_steps(judged.seeds, rated, timestep_fraction, inner_epoch)
        for update in rows.chunk(num_updates):
            yield minibatches(judged, update, steps[update], batch_size, schedule.timesteps.device)


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


def rate(policy: Policy, minibatch: Minibatch) -> Tensor:
    """log p [b] of the steps as they were taken, under the current weights."""
    step = policy.step(minibatch.steps, minibatch.latents, minibatch.conditioning)
    return step.log_prob(minibatch.next_latents)


class ImportanceSampling:
    """DDPO_IS: PPO-clipped importance sampling, several updates for each round of samples.

    clip_range      PPO's ε, in mean-reduced units (the paper's 1e-4)
    clip_nats       the same in nats of a step's summed log-prob; set, it takes the place of clip_range
    advantage_clip  advantages are clamped to ± this before the loss
    inner_epochs    passes over the round's samples
    timestep_fraction  part of each sample's steps that is trained on, drawn anew in each pass
    early_fraction  part of the steps, counted from the noise, that is trained on at all. Where the picture is
                    all but finished σ is small, and such a step outweighs the others in the gradient's noise
    """

    def __init__(
        self,
        *,
        clip_range: float = 1e-4,
        clip_nats: float | None = None,
        advantage_clip: float = 5.0,
        inner_epochs: int = 1,
        timestep_fraction: float = 1.0,
        early_fraction: float = 1.0,
    ) -> None:
        self.clip_range = clip_range
        self.clip_nats = clip_nats
        self.advantage_clip = advantage_clip
        self.inner_epochs = inner_epochs
        self.timestep_fraction = timestep_fraction
        self.early_fraction = early_fraction

    def updates(
        self, judged: Judged, schedule: Schedule, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Minibatch]]:
        """`num_updates` optimiser steps for each inner epoch; all but the very first are off-policy."""
        return policy_gradient_updates(
            judged,
            schedule,
            num_updates=num_updates,
            batch_size=batch_size,
            inner_epochs=self.inner_epochs,
            timestep_fraction=self.timestep_fraction,
            early_fraction=self.early_fraction,
        )

    def loss(self, policy: Policy, minibatch: Minibatch) -> Loss:
        log_prob, old_log_prob = rate(policy, minibatch), minibatch.old_log_prob
        advantage = minibatch.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        latent_elements = minibatch.latents[0].numel()
        clip_range = self.clip_range_for(latent_elements)
        value = importance_sampling_loss(log_prob, old_log_prob, advantage, clip_range).mean()
        log_prob = log_prob.detach()
        return Loss(
            value,
            {
                "approx_kl": approx_kl(log_prob, old_log_prob).mean(),
                "clip_fraction": clip_fraction(log_prob, old_log_prob, clip_range).mean(),
                "clip_range": clip_range,
                "clip_nats": clip_range * latent_elements,
            },
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

    def __init__(
        self, *, advantage_clip: float = 5.0, timestep_fraction: float = 1.0, early_fraction: float = 1.0
    ) -> None:
        self.advantage_clip = advantage_clip
        self.timestep_fraction = timestep_fraction
        self.early_fraction = early_fraction

    def updates(
        self, judged: Judged, schedule: Schedule, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Minibatch]]:
        """The one update. Raises `UsageError` for more: from the second on the gradient would be biased."""
        if num_updates != 1:
            raise UsageError(
                f"ddpo-sf makes exactly one update per round; got {num_updates} updates per epoch"
            )
        return policy_gradient_updates(
            judged,
            schedule,
            num_updates=1,
            batch_size=batch_size,
            timestep_fraction=self.timestep_fraction,
            early_fraction=self.early_fraction,
        )

    def loss(self, policy: Policy, minibatch: Minibatch) -> Loss:
        log_prob = rate(policy, minibatch)
        advantage = minibatch.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        value = score_function_loss(log_prob, advantage).mean()
        # nothing is clipped in SF; said so that every estimator's metrics can be plotted beside another's
        return Loss(
            value,
            {
                "approx_kl": approx_kl(log_prob.detach(), minibatch.old_log_prob).mean(),
                "clip_fraction": torch.zeros_like(value.detach()),
            },
        )
