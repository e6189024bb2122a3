"""The whole path, once an epoch: prompts → rollout → scores → advantages → loss → update.

`train` is a generator that yields one `Epoch` at a time and writes nothing; what to keep, draw or print is
its caller's. It knows no reward, sampler, estimator or model by name. Left out: a value function, EMA.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object
from torch import Tensor

from ddpo_core.advantages import Combined, Normaliser, combine
from ddpo_core.batches import check_batches
from ddpo_core.checkpoint import RunState, capture_random, restore_random
from ddpo_core.denoising import Policy
from ddpo_core.errors import RunError, UsageError
from ddpo_core.prompts import PromptStream
from ddpo_core.protocols import Denoiser, Estimator, Sampler
from ddpo_core.rewards import Judging, Objective
from ddpo_core.rollout import concatenate, rollout, sample_seeds
from ddpo_core.selfcheck import self_check
from ddpo_core.types import Judged, Minibatch, Prompt, Scores, Trajectory

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every number that shapes a run. Batch sizes are of one process."""

    epochs: int = 100
    samples_per_epoch: int = 256  # over all processes
    sample_batch_size: int = 8
    train_batch_size: int = 8
    updates_per_epoch: int = 4
    num_steps: int = 50
    guidance_scale: float = 5.0
    learning_rate: float = 3e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    # Log-probs are means over latent elements, so gradients are small: under Adam's usual 1e-8 at times.
    adam_epsilon: float = 1e-10
    weight_decay: float = 1e-4
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
class Epoch:
    """One round and what came of it. `capture` is the run's state after it, for a checkpoint."""

    number: int  # from 1
    metrics: Mapping[str, float]
    judged: Judged  # this process's samples
    scores: Mapping[str, Scores]  # of the same samples
    policy: Policy  # to sample from between epochs
    capture: Callable[[], RunState]


def train(
    *,
    denoiser: Denoiser,
    sampler: Sampler,
    estimator: Estimator,
    objective: Objective,
    prompts: PromptStream,
    settings: Settings,
    normaliser: Normaliser | None = None,
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
        objective,
        prompts,
        settings,
        normaliser or Normaliser(),
        accelerator,
        on_progress,
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
        objective: Objective,
        prompts: PromptStream,
        settings: Settings,
        normaliser: Normaliser,
        accelerator: Accelerator | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.accelerator = accelerator or fresh_accelerator(settings.mixed_precision)
        check_batches(
            samples_per_epoch=settings.samples_per_epoch,
            sample_batch_size=settings.sample_batch_size,
            train_batch_size=settings.train_batch_size,
            updates_per_epoch=settings.updates_per_epoch,
            processes=self.accelerator.num_processes,
            group_size=prompts.group_size,
        )
        check_scopes(objective, self.accelerator.num_processes)
        self.estimator = estimator
        self.objective = objective
        self.prompts = prompts
        self.settings = settings
        self.normaliser = normaliser
        self.on_progress = on_progress
        parameters = denoiser.trainable_parameters()
        optimizer = torch.optim.AdamW(
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
        self.reward_queries = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    # ---- one epoch -------------------------------------------------------------------------------

    def run_epoch(self, *, check: bool) -> Epoch:
        """Sample, judge and learn from one round."""
        number = self.epoch + 1
        self.seconds.clear()
        trajectory, seeds, scores = self.sample_and_score(number)
        combined, reward_metrics = self.judge(trajectory.prompts, scores)
        mine = combined.advantages[self.accelerator.process_index :: self.accelerator.num_processes]
        judged = Judged(
            trajectory,
            torch.tensor(mine, dtype=torch.float32),
            {label: score.values for label, score in scores.items()},
            seeds,
        )
        ratio_metrics = self.check(judged) if check else {}
        update_metrics = self.learn(judged)
        self.epoch = number
        self.reward_queries += self.settings.samples_per_epoch
        metrics = {
            "epoch": number,
            "reward_queries": self.reward_queries,
            **reward_metrics,
            **update_metrics,
            **ratio_metrics,
            **{f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()},
        }
        return Epoch(number, metrics, judged, scores, self.policy, self.capture)

    def sample_and_score(self, number: int) -> tuple[Trajectory, list[int], dict[str, Scores]]:
        """This process's every n-th sample of the epoch, scored while the next batch is sampled."""
        settings, accelerator = self.settings, self.accelerator
        everyone = self.prompts.take(settings.samples_per_epoch)
        indices = range(accelerator.process_index, settings.samples_per_epoch, accelerator.num_processes)
        seeds = sample_seeds(settings.seed, number, indices)
        prompts = [everyone[index] for index in indices]
        batches = []
        with Judging(self.objective) as judging:
            with self.timed("rollout"):
                for start in range(0, len(prompts), settings.sample_batch_size):
                    self.on_progress(Progress("rollout", start, len(prompts)))
                    rows = slice(start, start + settings.sample_batch_size)
                    batches.append(rollout(self.policy, prompts[rows], seeds[rows]))
                    judging.submit(batches[-1].images, prompts[rows])
            with self.timed("scores"):
                scores = judging.finish(lambda done, total: self.on_progress(Progress("scores", done, total)))
        return concatenate(batches), seeds, scores

    def judge(
        self, prompts: Sequence[Prompt], scores: Mapping[str, Scores]
    ) -> tuple[Combined, dict[str, float]]:
        """Advantages of the epoch's samples over all processes, and each reward's mean, error and share."""
        everyone = self.interleave(list(prompts))
        values = {label: np.array(self.interleave(list(score.values))) for label, score in scores.items()}
        weights, resolutions = self.objective.weights, self.objective.resolutions
        combined = combine(
            {
                label: self.normaliser(label, values[label], everyone, resolution=resolutions[label])
                for label in weights
            },
            weights,
        )
        metrics: dict[str, float] = {}
        for label, score in scores.items():
            finite = values[label][np.isfinite(values[label])]
            spread = finite.std(ddof=1) if len(finite) > 1 else math.nan
            metrics[f"reward/{label}/mean"] = float(finite.mean())
            metrics[f"reward/{label}/stderr"] = float(spread / math.sqrt(len(finite)))
            metrics[f"reward/{label}/share"] = combined.shares.get(label, 0.0)
            metrics[f"reward/{label}/failures"] = sum(self.interleave([score.failures]))
            self.seconds[f"reward/{label}"] = score.seconds
        return combined, metrics

    def interleave(self, mine: list[T]) -> list[T]:
        """Every process's items in the epoch's order: process r holds samples r, r + n, r + 2n, …"""
        if self.accelerator.num_processes == 1:
            return mine
        gathered = gather_object(mine)
        share = len(mine)
        return [
            gathered[process * share + row]
            for row in range(share)
            for process in range(len(gathered) // share)
        ]

    def check(self, judged: Judged) -> dict[str, float]:
        """The self-check, on a round sampled under the present weights."""
        self.on_progress(Progress("self-check", 0, 1))
        with self.timed("self-check"):
            worst = self_check(
                self.policy,
                judged,
                batch_size=self.settings.train_batch_size,
                half_precision=self.settings.mixed_precision != "no",
                trained=set(self.objective.weights),
            )
        return {"self_check/ratio_error": worst}

    def learn(self, judged: Judged) -> dict[str, float]:
        """All updates of the epoch; the means of what the estimator had to say."""
        settings = self.settings
        updates = self.estimator.updates(
            judged,
            self.policy.schedule,
            num_updates=settings.updates_per_epoch,
            batch_size=settings.train_batch_size,
        )
        history: defaultdict[str, list[float]] = defaultdict(list)
        with self.timed("update"):
            for done, minibatches in enumerate(updates):
                self.on_progress(Progress("update", done, settings.updates_per_epoch))
                for name, value in self.update(minibatches).items():
                    history[name].append(value)
        return {name: float(np.mean(values)) for name, values in history.items()}

    def update(self, minibatches: Iterable[Minibatch]) -> dict[str, float]:
        """One optimiser step on the sum of the minibatches' weighted gradients.

        Raises `RunError` when loss or gradient is not finite (under fp16 the scaler skips such a step).
        """
        totals: defaultdict[str, Tensor | float] = defaultdict(float)
        for minibatch, is_last in mark_last(minibatches):
            network = self.policy.denoiser.network
            with nullcontext() if is_last else self.accelerator.no_sync(network):
                loss = self.estimator.loss(self.policy, minibatch)
                self.accelerator.backward(loss.value * minibatch.weight)
            for name, value in {"loss": loss.value.detach(), **loss.diagnostics}.items():
                totals[name] = totals[name] + value * minibatch.weight
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        metrics = {name: self.mean_over_processes(total) for name, total in totals.items()}
        metrics["grad_norm"] = float(grad_norm)
        if self.settings.mixed_precision != "fp16" and not all(map(math.isfinite, metrics.values())):
            raise RunError(
                f"epoch {self.epoch + 1}: loss or gradient is not finite ({metrics}); the weights are as"
                " they were before this update",
                hint="try a lower --learning-rate",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return metrics

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
            reward_queries=self.reward_queries,
            weights=self.policy.denoiser.trainable_state(),
            optimizer=self.optimizer.state_dict(),
            scaler=scaler.state_dict() if scaler else {},
            normaliser=self.normaliser.state_dict(),
            prompts=self.prompts.state_dict(),
            random=gather_object([capture_random()]),
        )

    def restore(self, state: RunState) -> None:
        """Go on from a captured state. Raises `CheckpointError` where it does not fit this run."""
        self.policy.denoiser.load_trainable_state(state.weights)
        self.optimizer.load_state_dict(state.optimizer)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.normaliser.load_state_dict(state.normaliser)
        self.prompts.load_state_dict(state.prompts)
        restore_random(state.random[self.accelerator.process_index % len(state.random)])
        self.epoch = state.epoch
        self.reward_queries = state.reward_queries


def fresh_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator of this precision, also in a process (a notebook, say) that has had another.

    Accelerate keeps precision and gradient accumulation for the whole process; ours are what we ask for.
    """
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(mixed_precision=mixed_precision)


def check_scopes(objective: Objective, processes: int) -> None:
    """Group and batch rewards see the samples of one process only; refuse them where there are several."""
    wide = [term.label for term in objective.terms if term.info.scope != "sample"]
    if wide and processes > 1:
        raise UsageError(
            f"reward {wide[0]!r} judges several images together, which needs them in one process;"
            f" got {processes}"
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
