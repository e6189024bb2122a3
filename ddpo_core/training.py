"""The whole path, once an epoch: prompts → rollout → scores → advantages → loss → update.

`train` is a generator that yields one `Epoch` at a time and writes nothing; what to keep, draw or print is
its caller's. It knows no reward, sampler, estimator or model by name. A run has one task or several, which
take turns in every epoch (arXiv 2401.12244, Algorithm 1). Left out: a value function, EMA.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object
from torch import Tensor

from ddpo_core.advantages import Normaliser
from ddpo_core.batches import check_batches
from ddpo_core.checkpoint import RunState, capture_random, restore_random
from ddpo_core.constraints import Multipliers
from ddpo_core.denoising import Policy
from ddpo_core.diagnostics import StepMeans
from ddpo_core.errors import RunError, UsageError
from ddpo_core.mixing import Mixed, correlations
from ddpo_core.optimizers import make_optimizer
from ddpo_core.pretraining import Pretraining
from ddpo_core.prompts import PromptStream
from ddpo_core.protocols import Denoiser, Estimator, Sampler
from ddpo_core.rewards import Judging, Objective
from ddpo_core.rollout import concatenate, rollout, sample_seeds
from ddpo_core.selfcheck import self_check
from ddpo_core.types import Judged, Loss, Part, Population, Prompt, Scores, Trajectory

T = TypeVar("T")
P = TypeVar("P", bound=Part)


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


@dataclass(frozen=True)
class Task:
    """What is maximised, and on pictures of which prompts."""

    prompts: PromptStream
    objective: Objective
    name: str = "all"


@dataclass(frozen=True)
class Round:
    """A task's samples of an epoch, those of this process."""

    task: str
    judged: Judged
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Epoch:
    """One round of every task, and what came of it."""

    number: int  # from 1
    metrics: Mapping[str, float]
    rounds: Sequence[Round]
    policy: Policy  # to sample from between epochs
    capture: Callable[[], RunState]  # the run's state after this epoch, for a checkpoint


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
) -> Iterator[Epoch]:
    """Fine-tune `denoiser` (already adapted: it knows which weights are trained), one `Epoch` at a time.

    With `state`, goes on exactly where that state was captured. Raises `UsageError` before anything is
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
    )
    if state is not None:
        trainer.restore(state)
    check = settings.self_check
    while trainer.epoch < settings.epochs:
        yield trainer.run_epoch(check=check)
        check = False


@dataclass(frozen=True)
class Judgement:
    """A round's scores over all processes, and what became of them."""

    mixed: Mixed
    prompts: Sequence[str]  # N
    values: Mapping[str, np.ndarray]  # label → [N]
    weights: Mapping[str, float]  # label → weight in force
    metrics: Mapping[str, float]


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
        self.estimator = estimator
        self.keeps_steps = "trajectory" in estimator.needs
        self.tasks = tasks
        self.multipliers = {task.name: Multipliers(task.objective.constraints) for task in tasks}
        self.settings = settings
        self.normaliser = normaliser
        self.pretraining = pretraining
        self.on_progress = on_progress
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
        denoiser.network, self.optimizer = self.accelerator.prepare(denoiser.network, optimizer)
        self.parameters = parameters
        schedule = sampler.schedule(denoiser, settings.num_steps)
        self.policy = Policy(denoiser, sampler, schedule, settings.guidance_scale)
        self.epoch = 0
        self.updates = 0
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
            mine = self.indices(task)
            trajectory, seeds, scores = self.sample_and_score(task, place, number, mine)
            judgement = self.judge(task, trajectory.prompts, scores)
            directions = [
                self.judged(task, number, trajectory, seeds, scores, judgement, direction)
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
        return Epoch(number, metrics, rounds, self.policy, self.capture)

    def indices(self, task: Task, process: int | None = None) -> list[int]:
        """The samples of an epoch that a process makes (this one): every n-th group of one prompt, whole."""
        process = self.accelerator.process_index if process is None else process
        size, processes = task.prompts.group_size, self.accelerator.num_processes
        return [i for i in range(self.settings.samples_per_epoch) if i // size % processes == process]

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

    def judge(self, task: Task, prompts: Sequence[Prompt], scores: Mapping[str, Scores]) -> Judgement:
        """Directions over the epoch's samples of all processes, and what there is to say of each reward."""
        objective = task.objective
        everyone = self.interleave(task, list(prompts))
        values = {
            label: np.array(self.interleave(task, list(score.values))) for label, score in scores.items()
        }
        metrics: dict[str, float] = {}
        for label, score in scores.items():
            metrics |= self.report(task, label, values[label], score)
        weights = self.weights_in_force(task, metrics)
        resolutions = objective.resolutions
        mixed = objective.mixer.mix(
            values,
            weights,
            lambda label, scores: self.normaliser(
                label, scores, everyone, resolution=resolutions.get(label, min(resolutions.values()))
            ),
        )
        for label in scores:
            metrics[f"reward/{label}/share"] = mixed.shares.get(label, 0.0)
        for (a, b), correlation in correlations(values).items():
            metrics[f"correlation/{a}~{b}"] = correlation
        return Judgement(mixed, [prompt.text for prompt in everyone], values, weights, metrics)

    def judged(
        self,
        task: Task,
        number: int,
        trajectory: Trajectory,
        seeds: Sequence[int],
        scores: Mapping[str, Scores],
        judgement: Judgement,
        direction: str,
    ) -> Judged:
        """This process's samples with the advantages of one direction."""
        mine, objective = self.indices(task), task.objective
        directions = judgement.mixed.directions
        advantages, weights = directions[direction], judgement.weights
        if len(directions) > 1 and direction in weights:  # a mixer that takes a gradient of each reward
            weights = {direction: weights[direction]}
        spreads = {
            label: max(float(np.nanstd(values)), objective.resolutions[label])
            for label, values in judgement.values.items()
        }
        return Judged(
            trajectory,
            torch.tensor(advantages[mine], dtype=torch.float32),
            {label: score.values for label, score in scores.items()},
            seeds,
            number,
            Population(advantages, judgement.values, judgement.prompts, weights, mine),
            partial(objective.differentiable, weights=weights, spreads=spreads),
        )

    def report(self, task: Task, label: str, values: np.ndarray, score: Scores) -> dict[str, float]:
        """A reward's mean and standard error in its own unit, and how often it failed."""
        reported = values
        if score.levels is not None:  # one number for each set of images that were judged together
            levels = np.array(self.interleave(task, list(score.levels)))
            reported = levels[:: task.prompts.group_size]
        finite = reported[np.isfinite(reported)]
        spread = finite.std(ddof=1) if len(finite) > 1 else math.nan
        self.seconds[f"reward/{label}"] += score.seconds
        return {
            f"reward/{label}/mean": float(finite.mean()) if len(finite) else math.nan,
            f"reward/{label}/stderr": float(spread / math.sqrt(max(1, len(finite)))),
            f"reward/{label}/std": float(spread),
            f"reward/{label}/failures": sum(self.gather([score.failures])),
        }

    def weights_in_force(self, task: Task, metrics: dict[str, float]) -> dict[str, float]:
        """The objective's weights, raised by what its constraints have come to after this round."""
        weights = task.objective.weights
        multipliers = self.multipliers[task.name]
        resolutions = task.objective.resolutions
        for constraint in task.objective.constraints:
            label = constraint.label
            mean, spread = metrics[f"reward/{label}/mean"], metrics[f"reward/{label}/std"]
            if math.isfinite(mean):
                spread = spread if spread > resolutions[label] else resolutions[label]
                multipliers.update(constraint, mean, spread)
            weights[label] = weights.get(label, 0.0) + multipliers.weight(label)
            metrics[f"constraint/{label}/weight"] = multipliers.weight(label)
        return {label: weight for label, weight in weights.items() if weight != 0}

    def interleave(self, task: Task, mine: list[T]) -> list[T]:
        """Every process's items in the epoch's order."""
        gathered = self.gather(mine)
        places = [i for process in range(self.accelerator.num_processes) for i in self.indices(task, process)]
        return [item for _, item in sorted(zip(places, gathered, strict=True), key=lambda pair: pair[0])]

    def gather(self, mine: list[T]) -> list[T]:
        """Every process's items, process after process."""
        if self.accelerator.num_processes == 1:
            return mine
        gathered: list[T] = gather_object(mine)
        return gathered

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
                self.on_progress(Progress("update", done, settings.updates_per_epoch))
                generator = np.random.default_rng([settings.seed, number, place, done])
                totals: defaultdict[str, float] = defaultdict(float)
                gradients = []
                for each in minibatches:
                    for name, value in self.accumulate(each, self.estimator.loss).items():
                        totals[name] += value / len(directions)
                    if len(directions) > 1:
                        gradients.append(self.take_gradient())
                if gradients:
                    self.put_gradient(task.objective.mixer.gradient(torch.stack(gradients), generator))
                for name, value in self.step(totals).items():
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
            return self.step(self.accumulate(minibatches, pretraining.loss))

    def step(self, totals: Mapping[str, float]) -> dict[str, float]:
        """One optimiser step along the gradient that was added up; `totals` are its metrics.

        Raises `RunError` when loss or gradient is not finite (under fp16 the scaler skips such a step).
        """
        self.set_learning_rate()
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        metrics = {**totals, "grad_norm": float(grad_norm)}
        if self.settings.mixed_precision != "fp16" and not all(map(math.isfinite, metrics.values())):
            raise RunError(
                f"epoch {self.epoch + 1}: loss or gradient is not finite ({metrics}); the weights are as"
                " they were before this update",
                hint="try a lower --learning-rate",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return metrics

    def set_learning_rate(self) -> None:
        """The rate of the coming update. Adam's first steps are the longest, and they follow one batch."""
        share = min(1.0, (self.updates + 1) / max(1, self.settings.warmup_updates))
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.settings.learning_rate

    def accumulate(self, minibatches: Iterable[P], loss_of: Callable[[Policy, P], Loss]) -> dict[str, float]:
        """Add up the minibatches' weighted gradients; means of loss and diagnostics over all processes."""
        totals: defaultdict[str, Tensor | float] = defaultdict(float)
        by_step = StepMeans(self.policy.schedule)
        for minibatch, is_last in mark_last(minibatches):
            network = self.policy.denoiser.network
            with nullcontext() if is_last else self.accelerator.no_sync(network):
                loss = loss_of(self.policy, minibatch)
                self.accelerator.backward(loss.value * minibatch.weight)
            for name, value in {"loss": loss.value.detach(), **loss.diagnostics}.items():
                totals[name] = totals[name] + value * minibatch.weight
            by_step.add(loss)
        means = {name: self.mean_over_processes(total) for name, total in totals.items()}
        return {**means, **by_step.means(lambda sums: self.accelerator.reduce(sums, reduction="sum"))}

    def take_gradient(self) -> Tensor:
        """The gradient of all trained weights, flat [P]; they have none afterwards."""
        flat = torch.cat(
            [
                (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten().float()
                for parameter in self.parameters
            ]
        )
        self.optimizer.zero_grad(set_to_none=True)
        return flat

    def put_gradient(self, flat: Tensor) -> None:
        """Give the trained weights a gradient [P]."""
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, torch.split(flat, sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def mean_over_processes(self, value: Tensor | float) -> float:
        tensor = torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, reduction="mean"))

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
            updates=self.updates,
            reward_queries=self.reward_queries,
            weights=self.policy.denoiser.trainable_state(),
            optimizer=self.optimizer.state_dict(),
            scaler=scaler.state_dict() if scaler else {},
            normaliser=self.normaliser.state_dict(),
            prompts={task.name: task.prompts.state_dict() for task in self.tasks},
            multipliers={name: values.state_dict() for name, values in self.multipliers.items()},
            random=gather_object([capture_random()]),
        )

    def restore(self, state: RunState) -> None:
        """Go on from a captured state. Raises `CheckpointError` where it does not fit this run."""
        self.policy.denoiser.load_trainable_state(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.normaliser.load_state_dict(state.normaliser)
        for task in self.tasks:
            task.prompts.load_state_dict(state.prompts.get(task.name, {}))
            self.multipliers[task.name].load_state_dict(state.multipliers.get(task.name, {}))
        restore_random(state.random[self.accelerator.process_index % len(state.random)])
        self.epoch = state.epoch
        self.updates = state.updates
        self.reward_queries = state.reward_queries


def check_needs(estimator: Estimator, sampler: Sampler, tasks: Sequence[Task]) -> None:
    """Raise `UsageError` where the estimator is not given what it needs."""
    name, kernel = type(estimator).__name__, type(sampler).__name__
    if "log_probs" in estimator.needs and not sampler.has_log_prob:
        raise UsageError(
            f"the estimator {name} needs the log-prob of every step, and {kernel} has none",
            hint="take a sampler with noise, such as ddim,eta=1, or an estimator that rates no step",
        )
    if "gradient" not in estimator.needs:
        return
    for task in tasks:
        for term in task.objective.terms:
            if term.label in task.objective.followed and not term.info.differentiable:
                raise UsageError(
                    f"the estimator {name} needs rewards that can be differentiated; {term.label!r} cannot",
                    hint="`ddpo rewards list` marks those that can; any other estimator takes this reward",
                )


def fresh_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator of this precision, also in a process (a notebook, say) that has had another.

    Accelerate keeps precision and gradient accumulation for the whole process; ours are what we ask for.
    """
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(mixed_precision=mixed_precision)


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raise `UsageError` for no task, or for two tasks or rewards of one name: metrics go by them."""
    labels = [term.label for task in tasks for term in task.objective.terms]
    for what, names in (("tasks", [task.name for task in tasks]), ("rewards", labels)):
        if not names:
            raise UsageError(f"a run expects at least one of its {what}, got none")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UsageError(f"two {what} are both called {twice[0]!r}", hint="name one of them: as=OTHER")


def check_scopes(task: Task, processes: int) -> None:
    """Raise `UsageError` for a reward that would not see the images it judges together."""
    for term in task.objective.terms:
        if term.info.scope == "group" and task.prompts.group_size < 2:
            raise UsageError(
                f"reward {term.label!r} judges the images of one prompt together, and each prompt is drawn"
                " once",
                hint=f"draw more of each: --group-size {max(2, term.info.group_size)}",
            )
        if term.info.scope == "batch" and processes > 1:
            raise UsageError(
                f"reward {term.label!r} judges all images of a round together, which needs them in one"
                f" process; got {processes}"
            )


def mark_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last one."""
    iterator = iter(items)
    try:
        item = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield item, False
        item = following
    yield item, True
