"""Reward-weighted regression (arXiv 2305.13301 §4.2, Appendix D.2): denoise what came out well, again.

All of denoising is one step of the MDP: a prompt is the state, the finished picture the action. A round of
finished latents is learned by the denoising loss of pretraining, each sample with the weight that its reward
gave it among all samples of the round; many updates, in many passes, for one large round. No step is rated,
so any sampler serves, and no trajectory is kept. Left out: drawing new latents from the autoencoder's
posterior (the paper's code does so, having kept pictures only); what was sampled is at hand here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.estimators.forward import noise_and_uniform
from ddpo_core.info import Need
from ddpo_core.losses import denoising_loss, effective_sample_size, softmax_weights, top_weights
from ddpo_core.processes import noised
from ddpo_core.types import Conditioning, Judged, Loss, Part, Population

On = Literal["standardised", "raw"]
Over = Literal["round", "prompt"]


def values_of(population: Population, on: On) -> tuple[np.ndarray, np.ndarray]:
    """What a round's samples are weighed by [N] float64, and which have all their rewards [N] bool."""
    rewards = np.stack([population.rewards[label] for label in population.weights])
    scored = np.isfinite(rewards).all(0)
    if on == "standardised":
        return population.advantages, scored
    return np.array(list(population.weights.values())) @ np.nan_to_num(rewards), scored


def compared(prompts: Sequence[str], over: Over) -> list[list[int]]:
    """The samples that are weighed against each other, as places in the round."""
    if over == "round":
        return [list(range(len(prompts)))]
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    return list(groups.values())


def deal(weights: Tensor, num_updates: int, generator: np.random.Generator) -> list[Tensor]:
    """Shuffle the round's N samples and deal them out to updates, those that weigh something first.

    So every update has as many of these as any other, or one more.
    """
    order = torch.from_numpy(generator.permutation(len(weights)))
    order = order[torch.argsort((weights[order] == 0).int(), stable=True)]
    return [order[update::num_updates] for update in range(num_updates)]


@dataclass(frozen=True)
class Weighted(Part):
    """b finished samples, each at the timestep and with the noise that were drawn for this look at it."""

    clean: Tensor  # [b, c, h, w]
    noise: Tensor  # [b, c, h, w]
    timesteps: Tensor  # [b]
    conditioning: Conditioning  # [b, …]
    weights: Tensor  # [b], such that the update's loss is the mean of w · error over all of its samples
    effective_sample_size: float  # of the whole round's weights, as a part of its samples
    kept: float  # part of the round's samples that weigh anything


class RewardWeighted:
    """RWR: every sample weighs exp(β r), the weights' mean is one.

    inverse_temperature  β
    on                   what r is: "standardised", the advantage, or "raw", the weighted sum of the rewards
    over                 the softmax's samples: those of the "round", or of each "prompt" by itself
    inner_epochs         passes over the round's samples, each with new noise and timesteps
    timestep_count       timesteps drawn for each sample in each pass, one from each of equally likely parts
    guided               whether the guided prediction is trained (the paper's way), or the prompt's alone
    """

    needs: frozenset[Need] = frozenset()

    def __init__(
        self,
        *,
        inverse_temperature: float = 1.0,
        on: On = "standardised",
        over: Over = "round",
        inner_epochs: int = 1,
        timestep_count: int = 1,
        guided: bool = True,
    ) -> None:
        self.inverse_temperature = inverse_temperature
        self.on = on
        self.over = over
        self.inner_epochs = inner_epochs
        self.timestep_count = timestep_count
        self.guided = guided

    def weigh(self, values: Tensor) -> Tensor:
        """Weights [n] float64, their mean one, of samples that are weighed against each other."""
        return softmax_weights(values, self.inverse_temperature)

    def weights(self, population: Population) -> Tensor:
        """Weights [N] float64 of a whole round; a sample without a reward weighs nothing, the others one on
        average."""
        values, scored = values_of(population, self.on)
        weights = torch.zeros(len(values), dtype=torch.float64)
        for rows in compared(population.prompts, self.over):
            judged_rows = torch.tensor([row for row in rows if scored[row]], dtype=torch.int64)
            if len(judged_rows):
                weights[judged_rows] = self.weigh(torch.from_numpy(values)[judged_rows])
        return weights

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Weighted]]:
        """`num_updates` optimiser steps for each pass over the round."""
        weights = self.weights(judged.population)
        for inner_epoch in range(self.inner_epochs):
            for update in deal(weights, num_updates, np.random.default_rng([judged.epoch, inner_epoch])):
                yield self.minibatches(policy, judged, weights, update, inner_epoch, batch_size)

    def minibatches(
        self,
        policy: Policy,
        judged: Judged,
        weights: Tensor,
        update: Tensor,
        inner_epoch: int,
        batch_size: int,
    ) -> Iterator[Weighted]:
        """This process's part of an update that takes the samples `update` [n] of the round.

        A sample of weight 0 has no gradient and needs no network; what is left is scaled to what its sum is
        in a mean over all n samples and all processes. A process that is left with none takes part with one
        sample of weight 0, as processes share their gradients.
        """
        places = {place: row for row, place in enumerate(judged.population.places)}
        mine = [place for place in update.tolist() if place in places]
        kept = [place for place in mine if weights[place] > 0] or (mine or list(places))[:1]
        processes = len(weights) / len(places)
        scale = processes * len(kept) / len(update)
        round_size, round_kept = effective_sample_size(weights.log()), (weights > 0).double().mean()
        device, trajectory = policy.denoiser.device, judged.trajectory
        for start in range(0, len(kept), batch_size):
            chunk = kept[start : start + batch_size]
            rows = torch.tensor([places[place] for place in chunk])
            clean = trajectory.latents[rows, -1].float().to(device)
            seeds = [judged.seeds[row] for row in rows.tolist()]
            for look in range(self.timestep_count):
                draw = inner_epoch * self.timestep_count + look
                noise, uniform = noise_and_uniform(seeds, clean.shape[1:], draw, device)
                # one timestep from each of equally likely parts: every one is as likely as any other
                timesteps = policy.denoiser.process.draw_timesteps((look + uniform) / self.timestep_count)
                yield Weighted(
                    weight=len(chunk) / len(kept) / self.timestep_count,
                    clean=clean,
                    noise=noise,
                    timesteps=timesteps.to(device),
                    conditioning={
                        name: tensor[rows].to(device) for name, tensor in trajectory.conditioning.items()
                    },
                    weights=(scale * weights[chunk]).float().to(device),
                    effective_sample_size=float(round_size),
                    kept=float(round_kept),
                )

    def loss(self, policy: Policy, minibatch: Weighted) -> Loss:
        process = policy.denoiser.process
        latents = noised(process, minibatch.clean, minibatch.noise, minibatch.timesteps)
        predict = policy.noise_pred if self.guided else policy.denoiser.noise_pred
        noise_pred = predict(latents, minibatch.timesteps, minibatch.conditioning)
        errors = denoising_loss(noise_pred, process.target(minibatch.clean, minibatch.noise))
        return Loss(
            (minibatch.weights * errors).mean(),
            {
                "denoising_error": errors.detach().mean(),
                "effective_sample_size": minibatch.effective_sample_size,
                "kept": minibatch.kept,
            },
        )


class Sparse(RewardWeighted):
    """RWR-sparse: the samples from a percentile of the rewards on weigh the same, the others nothing.

    percentile  part of the samples that is left out; the other options are `RewardWeighted`'s
    """

    def __init__(
        self,
        *,
        percentile: float = 0.9,
        on: On = "standardised",
        over: Over = "round",
        inner_epochs: int = 1,
        timestep_count: int = 1,
        guided: bool = True,
    ) -> None:
        super().__init__(
            on=on, over=over, inner_epochs=inner_epochs, timestep_count=timestep_count, guided=guided
        )
        self.percentile = percentile

    def weigh(self, values: Tensor) -> Tensor:
        return top_weights(values, self.percentile)
