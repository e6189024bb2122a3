"""The whole path, once an epoch: prompts → rollout → scores → advantages → loss → update.

`train` is a generator that yields one `Epoch` at a time and writes nothing; what to keep, draw or print is
its caller's, and an `Epoch` has the means. It knows no reward, sampler, estimator or model by name: from
names and functions `ddpo_core.train` leads here. A run has one task or several, which take turns in every
epoch (arXiv 2401.12244, Algorithm 1). Left out: a value function, EMA.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object

from ddpo_core.advantages import Normaliser
from ddpo_core.batches import check_batches
from ddpo_core.checkpoint import RunState, capture_random, restore_random
from ddpo_core.denoising import Policy
from ddpo_core.epoch import Epoch, Round
from ddpo_core.judgement import Judge, Judgement
from ddpo_core.pretraining import Pretraining
from ddpo_core.protocols import Denoiser, Estimator, Sampler
from ddpo_core.rewards import Judging
from ddpo_core.rollout import concatenate, rollout, sample_seeds
from ddpo_core.selfcheck import self_check
from ddpo_core.sharing import Sharing
from ddpo_core.tasks import Task, check_needs, check_scopes, check_tasks
from ddpo_core.types import Judged, Population, Scores, Trajectory
from ddpo_core.updating import Updater, make_optimizer

__all__ = ["Epoch", "Progress", "Round", "Settings", "Task", "Trainer", "train"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every number that shapes a run. Batch sizes are of one process."""

    epochs: int = 100
    samples_per_epoch: int = 256  # of each task, over all processes
    sample_batch_size: int = 8
    train_batch_size: int = 8
    updates_per_epoch: int = 4
    num_steps: int = 50
    guidance_scale: float = 5.0
    learning_rate: float = 3e-4
    warmup_updates: int = 0  # the learning rate rises to its value over so many optimiser steps
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    # Log-probs are means over latent elements, so gradients are small: under Adam's usual 1e-8 at times.
    adam_epsilon: float = 1e-10
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    self_check: bool = True


@dataclass(frozen=True)
class Progress:
    """How far a phase of the running epoch has come."""

    phase: Literal["rollout", "scores", "self-check", "update"]
    done: int
    total: int


def train(
    *,
    denoiser: Denoiser,
    sampler: Sampler,
    estimator: Estimator,
    tasks: Sequence[Task],
    settings: Settings,
    normaliser: Normaliser | None = None,
    pretraining: Pretraining | None = None,
    state: RunState | None = None,
    accelerator: Accelerator | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> Iterator[Epoch]:
    """Fine-tune `denoiser` (already adapted: it knows which weights are trained), one `Epoch` at a time.

    With `state`, goes on exactly where that state was captured. `beside` are files (name → content) that
    `Epoch.checkpoint` puts into every checkpoint. Raises `UsageError` before anything is
    sampled, `RewardError` and `SelfCheckError` while running, `RunError` when the loss is not finite.
    """
    trainer = Trainer(
        denoiser,
        sampler,
        estimator,
        tasks,
        settings,
        normaliser or Normaliser(),
        pretraining,
        accelerator,
        on_progress,
        beside,
    )
    if state is not None:
        trainer.restore(state)
    check = settings.self_check
    while trainer.epoch < settings.epochs:
        yield trainer.run_epoch(check=check)
        check = False


class Trainer:
    """The parts of a run, and one epoch of it."""

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        estimator: Estimator,
        tasks: Sequence[Task],
        settings: Settings,
        normaliser: Normaliser,
        pretraining: Pretraining | None,
        accelerator: Accelerator | None,
        on_progress: Callable[[Progress], None],
        beside: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self.accelerator = accelerator or fresh_accelerator(settings.mixed_precision)
        check_tasks(tasks)
        check_needs(estimator, sampler, tasks)
        for task in tasks:
            check_batches(
                samples_per_epoch=settings.samples_per_epoch,
                sample_batch_size=settings.sample_batch_size,
                train_batch_size=settings.train_batch_size,
                updates_per_epoch=settings.updates_per_epoch,
                processes=self.accelerator.num_processes,
                group_size=task.prompts.group_size,
            )
            check_scopes(task, self.accelerator.num_processes)
        if pretraining is not None:
            pretraining.check(self.accelerator.num_processes)
        if "untrained" in estimator.needs:
            with denoiser.untrained():  # where it cannot, it says so now, and not after the first round
                pass
        self.estimator = estimator
        self.keeps_steps = "trajectory" in estimator.needs
        self.tasks = tasks
        self.settings = settings
        self.sharing = Sharing(self.accelerator, settings.samples_per_epoch)
        self.judge = Judge(tasks, normaliser, self.sharing)
        self.pretraining = pretraining
        self.on_progress = on_progress
        self.beside = beside
        parameters = denoiser.trainable_parameters()
        optimizer = make_optimizer(
            settings.optimizer,
            parameters,
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
        )
        # the prepared network is the one that all forward passes go through, or gradients would not be shared
        denoiser.network, optimizer = self.accelerator.prepare(denoiser.network, optimizer)
        self.updater = Updater(
            self.accelerator,
            optimizer,
            parameters,
            learning_rate=settings.learning_rate,
            warmup_updates=settings.warmup_updates,
            max_grad_norm=settings.max_grad_norm,
        )
        schedule = sampler.schedule(denoiser, settings.num_steps)
        self.policy = Policy(denoiser, sampler, schedule, settings.guidance_scale)
        self.epoch = 0
        self.reward_queries = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    # ---- one epoch -------------------------------------------------------------------------------

    def run_epoch(self, *, check: bool) -> Epoch:
        """Sample, judge and learn from one round of every task, one task after the other."""
        number = self.epoch + 1
        self.seconds.clear()
        history: defaultdict[str, list[float]] = defaultdict(list)
        metrics: dict[str, float] = {}
        rounds = []
        for place, task in enumerate(self.tasks):
            mine = self.sharing.indices(task.prompts.group_size)
            trajectory, seeds, scores = self.sample_and_score(task, place, number, mine)
            judgement = self.judge(task, trajectory.prompts, scores)
            for label, score in scores.items():
                self.seconds[f"reward/{label}"] += score.seconds
            directions = [
                self.judged(task, number, mine, trajectory, seeds, judgement, direction)
                for direction in judgement.mixed.directions
            ]
            metrics |= judgement.metrics
            if check:
                history["self_check/ratio_error"].append(self.check(task, directions[0]))
            for name, values in self.learn(task, place, number, directions).items():
                history[name] += values
            rounds.append(Round(task.name, directions[0], scores))
            self.reward_queries += self.settings.samples_per_epoch * len(task.objective.followed)
        if self.pretraining is not None:
            for name, value in self.pretrain(self.pretraining, number).items():
                history[f"pretraining/{name}"].append(value)
        self.epoch = number
        metrics = {
            "epoch": number,
            "reward_queries": self.reward_queries,
            **metrics,
            **{name: float(np.mean(values)) for name, values in history.items()},
            **{f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()},
        }
        return Epoch(number, metrics, rounds, self.policy, self)

    def sample_and_score(
        self, task: Task, place: int, number: int, indices: Sequence[int]
    ) -> tuple[Trajectory, list[int], dict[str, Scores]]:
        """This process's samples of the epoch, scored while the next batch is sampled."""
        settings = self.settings
        everyone = task.prompts.take(settings.samples_per_epoch)
        # no two tasks share noise: each counts its samples on from where the one before ended
        first = place * settings.samples_per_epoch
        seeds = sample_seeds(settings.seed, number, [first + index for index in indices])
        prompts = [everyone[index] for index in indices]
        batches = []
        with Judging(task.objective, group_size=task.prompts.group_size) as judging:
            with self.timed("rollout"):
                for start in range(0, len(prompts), settings.sample_batch_size):
                    self.on_progress(Progress("rollout", start, len(prompts)))
                    rows = slice(start, start + settings.sample_batch_size)
                    batches.append(
                        rollout(self.policy, prompts[rows], seeds[rows], keep_steps=self.keeps_steps)
                    )
                    judging.submit(batches[-1].images, prompts[rows])
            with self.timed("scores"):
                scores = judging.finish(lambda done, total: self.on_progress(Progress("scores", done, total)))
        return concatenate(batches), seeds, scores

    def judged(
        self,
        task: Task,
        number: int,
        mine: Sequence[int],
        trajectory: Trajectory,
        seeds: Sequence[int],
        judgement: Judgement,
        direction: str,
    ) -> Judged:
        """This process's samples with the advantages of one direction."""
        objective, directions = task.objective, judgement.mixed.directions
        advantages, weights = directions[direction], judgement.weights
        if len(directions) > 1 and direction in weights:  # a mixer that takes a gradient of each reward
            weights = {direction: weights[direction]}
        spreads = {
            label: max(float(np.nanstd(values)), objective.resolutions[label])
            for label, values in judgement.values.items()
        }
        return Judged(
            trajectory,
            torch.tensor(advantages[list(mine)], dtype=torch.float32),
            {label: values[list(mine)] for label, values in judgement.values.items()},
            seeds,
            number,
            Population(advantages, judgement.values, judgement.prompts, weights, mine),
            partial(objective.differentiable, weights=weights, spreads=spreads),
        )

    def check(self, task: Task, judged: Judged) -> float:
        """The self-check, on a round sampled under the present weights: the largest |ratio − 1| seen."""
        self.on_progress(Progress("self-check", 0, 1))
        with self.timed("self-check"):
            return self_check(
                self.policy,
                judged,
                batch_size=self.settings.train_batch_size,
                half_precision=self.settings.mixed_precision != "no",
                trained=set(task.objective.weights),
                rated="log_probs" in self.estimator.needs,
            )

    def learn(
        self, task: Task, place: int, number: int, directions: Sequence[Judged]
    ) -> dict[str, list[float]]:
        """All updates of the round; what the estimator had to say of each."""
        settings = self.settings
        updates = [
            self.estimator.updates(
                self.policy,
                judged,
                num_updates=settings.updates_per_epoch,
                batch_size=settings.train_batch_size,
            )
            for judged in directions
        ]
        history: defaultdict[str, list[float]] = defaultdict(list)
        with self.timed("update"):
            for done, minibatches in enumerate(zip(*updates, strict=True)):
                self.on_progress(Progress("update", done, max(settings.updates_per_epoch, done + 1)))
                generator = np.random.default_rng([settings.seed, number, place, done])
                totals: defaultdict[str, float] = defaultdict(float)
                gradients = []
                for each in minibatches:
                    for name, value in self.updater.accumulate(
                        self.policy, each, self.estimator.loss
                    ).items():
                        totals[name] += value / len(directions)
                    if len(directions) > 1:
                        gradients.append(self.updater.take_gradient())
                if gradients:
                    joined = task.objective.mixer.gradient(torch.stack(gradients), generator)
                    self.updater.put_gradient(joined)
                for name, value in self.updater.step(totals).items():
                    history[name].append(value)
        return history

    def pretrain(self, pretraining: Pretraining, number: int) -> dict[str, float]:
        """The pretraining loss's own optimiser step (arXiv 2401.12244, Algorithm 1)."""
        with self.timed("pretraining"):
            minibatches = pretraining.minibatches(
                self.policy,
                epoch=number,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            )
            totals = self.updater.accumulate(self.policy, minibatches, pretraining.loss)
            return self.updater.step(totals)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to the phase's seconds."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    # ---- what a run is ---------------------------------------------------------------------------

    def capture(self) -> RunState:
        """Copy everything that a run is between two epochs. Call it on every process."""
        scaler = self.accelerator.scaler
        return RunState(
            epoch=self.epoch,
            updates=self.updater.updates,
            reward_queries=self.reward_queries,
            weights=self.policy.denoiser.trainable_state(),
            optimizer=self.updater.optimizer.state_dict(),
            scaler=scaler.state_dict() if scaler else {},
            normaliser=self.judge.normaliser.state_dict(),
            prompts={task.name: task.prompts.state_dict() for task in self.tasks},
            multipliers={name: values.state_dict() for name, values in self.judge.multipliers.items()},
            random=gather_object([capture_random()]),
        )

    def restore(self, state: RunState) -> None:
        """Go on from a captured state. Raises `CheckpointError` where it does not fit this run."""
        self.policy.denoiser.load_trainable_state(state.weights)
        self.updater.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.judge.normaliser.load_state_dict(state.normaliser)
        for task in self.tasks:
            task.prompts.load_state_dict(state.prompts.get(task.name, {}))
            self.judge.multipliers[task.name].load_state_dict(state.multipliers.get(task.name, {}))
        restore_random(state.random[self.accelerator.process_index % len(state.random)])
        self.epoch = state.epoch
        self.updater.updates = state.updates
        self.reward_queries = state.reward_queries


def fresh_accelerator(mixed_precision: str, *, cpu: bool = False) -> Accelerator:
    """An accelerator of this precision and device, also in a process (a notebook, say) that has had another.

    Accelerate keeps device, precision and gradient accumulation for the whole process; we get what we ask
    for.
    """
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    AcceleratorState._reset_state(reset_partial_state=alone)
    GradientState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, cpu=cpu)
