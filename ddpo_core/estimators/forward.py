"""What methods without log-probs share: finished latents are noised, and the network is asked about them.

Noise and timestep of a sample follow from its own seed and the number of the draw, so they depend neither
on the batch size nor on the number of processes, and no draw repeats the noise that the sample began with.
What the network answered under the weights that sampled is asked for once a round, before the first update,
and kept on the host: there is no second copy of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.info import Need
from ddpo_core.losses import denoising_loss
from ddpo_core.pretraining import uniform
from ddpo_core.processes import noised
from ddpo_core.rollout import Noise, sample_seeds
from ddpo_core.timesteps import TimestepChoice
from ddpo_core.types import Conditioning, Judged, Loss, Part

FORWARD = 0x5DEECE66D  # keeps these seeds apart from those that pick timesteps

Timesteps = Literal["schedule", "uniform"]


# ---- noise -------------------------------------------------------------------------------------------


def draw_seeds(seeds: Sequence[int], draw: int) -> list[int]:
    """A seed for the `draw`-th look (from 0) at each sample, all passes counted through."""
    return [sample_seeds(seed ^ FORWARD, draw, [0])[0] for seed in seeds]


def noise_and_uniform(
    seeds: Sequence[int], latent_shape: Sequence[int], draw: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Standard normal noise [b, c, h, w] and a number in [0, 1) [b] float64 for each sample's `draw`-th look.

    The noise is on `device`, the numbers on the host: some devices have no float64.
    `process.draw_timesteps` makes a timestep of the number.
    """
    drawn = draw_seeds(seeds, draw)
    return Noise(drawn, latent_shape, device).draw(), uniform(drawn)


# ---- minibatches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """Where one pass looks at a round's samples: k timesteps for each of B."""

    timesteps: Tensor  # [B, k]
    steps: Tensor | None  # [B, k] int64, index into the schedule; None: they are not of the schedule
    first_draw: int  # the number of the first column's draw, all passes counted through


@dataclass(frozen=True)
class Noised(Part):
    """b finished samples, noised again."""

    clean: Tensor  # [b, c, h, w]
    latents: Tensor  # [b, c, h, w], clean ones with noise as of the timestep
    target: Tensor  # [b, c, h, w], what a perfect network would answer
    timesteps: Tensor  # [b]
    steps: Tensor | None  # [b] int64, index into the schedule
    conditioning: Conditioning  # [b, …]
    advantage: Tensor  # [b]
    old: Tensor  # [b, …], what was asked about these under the weights that sampled


# What to remember of a minibatch under the weights that sampled, [b, …]; its `old` is empty then.
Remember = Callable[[Policy, Noised], Tensor]


@torch.no_grad()
def remembered(policy: Policy, judged: Judged, looks: Looks, remember: Remember, batch_size: int) -> Tensor:
    """What `remember` says of every look at every sample under the present weights, [B, k, …] on the host."""
    rows = torch.arange(len(judged.seeds))
    return torch.stack(
        [
            torch.cat(
                [
                    remember(policy, noised_batch(policy, judged, looks, chunk, look, 1.0)).cpu()
                    for chunk in torch.split(rows, batch_size)
                ]
            )
            for look in range(looks.timesteps.shape[1])
        ],
        dim=1,
    )


def minibatches(
    policy: Policy,
    judged: Judged,
    looks: Looks,
    memory: Tensor,
    rows: Tensor,
    columns: Sequence[int],
    batch_size: int,
) -> Iterator[Noised]:
    """One update's samples `rows` [n] at some of their looks, `batch_size` samples at a time.

    Each weighs as many of the update's pairs of sample and look as it holds; the weights sum to 1.
    """
    for chunk in torch.split(rows, batch_size):
        for look in columns:
            weight = len(chunk) / (len(rows) * len(columns))
            batch = noised_batch(policy, judged, looks, chunk, look, weight)
            yield replace(batch, old=memory[chunk, look].to(batch.latents.device))


def noised_batch(
    policy: Policy, judged: Judged, looks: Looks, rows: Tensor, look: int, weight: float
) -> Noised:
    """The samples `rows` [b], noised for one of their looks; nothing is remembered yet."""
    denoiser, trajectory = policy.denoiser, judged.trajectory
    seeds = [judged.seeds[row] for row in rows.tolist()]
    noise, _ = noise_and_uniform(seeds, denoiser.latent_shape, looks.first_draw + look, denoiser.device)
    clean = trajectory.latents[rows, -1].float().to(denoiser.device)
    timesteps = looks.timesteps[rows, look].to(denoiser.device)
    return Noised(
        weight=weight,
        clean=clean,
        latents=noised(denoiser.process, clean, noise, timesteps),
        target=denoiser.process.target(clean, noise),
        timesteps=timesteps,
        steps=None if looks.steps is None else looks.steps[rows, look].to(denoiser.device),
        conditioning={
            name: tensor[rows].to(denoiser.device) for name, tensor in trajectory.conditioning.items()
        },
        advantage=judged.advantages[rows].to(denoiser.device),
        old=clean.new_empty(len(rows), 0),
    )


# ---- what estimators share -----------------------------------------------------------------------------


class ForwardProcess:
    """The options that forward-process estimators share, and what these mean.

    kl_weight     weight of ‖v_θ − v‖² from the model before training, the mean over latent elements
    inner_epochs  passes over the round's samples, each with new noise
    timesteps     "schedule": steps of the sampling schedule, as the fields of `TimestepChoice` say;
                  "uniform": as many timesteps from the whole process, one from each of equally likely parts
    guided        whether the guided prediction is trained, which is what sampled, or the prompt's alone
    choice        the fields of `TimestepChoice`
    """

    def __init__(
        self,
        *,
        kl_weight: float = 0.0,
        inner_epochs: int = 1,
        timesteps: Timesteps = "schedule",
        guided: bool = True,
        **choice: Any,
    ) -> None:
        self.kl_weight = kl_weight
        self.needs: frozenset[Need] = frozenset({"untrained"} if kl_weight else ())
        self.inner_epochs = inner_epochs
        self.timesteps = timesteps
        self.guided = guided
        self.choice = TimestepChoice(**choice)
        if timesteps not in ("schedule", "uniform"):
            raise UsageError(f"timesteps: expected schedule or uniform, got {timesteps!r}")
        if timesteps == "uniform" and (self.choice.window or self.choice.early_fraction < 1):
            raise UsageError(
                "window and early_fraction choose among the steps of the schedule; got timesteps=uniform",
                hint="leave them out, or take timesteps=schedule",
            )

    def looks(self, policy: Policy, judged: Judged, inner_epoch: int) -> Looks:
        """The timesteps of one pass over the round."""
        schedule, process = policy.schedule, policy.denoiser.process
        if self.timesteps == "schedule":
            steps = self.choice.pick(
                range(schedule.num_steps), judged.seeds, epoch=judged.epoch, inner_epoch=inner_epoch
            )
            return Looks(schedule.timesteps.cpu()[steps], steps, inner_epoch * steps.shape[1])
        count = self.choice.count(schedule.num_steps)
        columns = []
        for look in range(count):
            numbers = uniform(draw_seeds(judged.seeds, inner_epoch * count + look))
            columns.append(process.draw_timesteps((look + numbers) / count))
        return Looks(torch.stack(columns, 1), None, inner_epoch * count)

    def updates(
        self, policy: Policy, judged: Judged, remember: Remember, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Noised]]:
        """`num_updates` optimiser steps for each pass, each with its share of the samples and their looks."""
        passes = [self.looks(policy, judged, inner_epoch) for inner_epoch in range(self.inner_epochs)]
        memories = [remembered(policy, judged, looks, remember, batch_size) for looks in passes]
        for looks, memory in zip(passes, memories, strict=True):
            columns = torch.arange(looks.timesteps.shape[1]).unsqueeze(0)
            for rows in torch.arange(len(judged.seeds)).chunk(num_updates):
                for some in self.choice.updates(columns):
                    yield minibatches(policy, judged, looks, memory, rows, some[0].tolist(), batch_size)

    def predict(self, policy: Policy, minibatch: Noised) -> Tensor:
        """What the network answers, [b, c, h, w]."""
        predict = policy.noise_pred if self.guided else policy.denoiser.noise_pred
        return predict(minibatch.latents, minibatch.timesteps, minibatch.conditioning)

    def loss(
        self,
        policy: Policy,
        minibatch: Noised,
        noise_pred: Tensor,
        value: Tensor,
        diagnostics: Mapping[str, Tensor],
        **by_step: Tensor,
    ) -> Loss:
        """An estimator's own `value` [] with the KL term; `by_step` is told for each timestep, [b]."""
        if self.kl_weight:
            kl = self.from_untrained(policy, minibatch, noise_pred).mean()
            value = value + self.kl_weight * kl
            diagnostics = {**diagnostics, "kl": kl.detach()}
        steps = minibatch.steps
        return Loss(
            value, diagnostics, {} if steps is None else {name: (steps, of) for name, of in by_step.items()}
        )

    def from_untrained(self, policy: Policy, minibatch: Noised, noise_pred: Tensor) -> Tensor:
        """‖noise_pred − the model's before training‖² [b], the mean over latent elements."""
        with torch.no_grad(), policy.denoiser.untrained():
            before = self.predict(policy, minibatch)
        return denoising_loss(noise_pred, before)
