"""rollout → scores: the door where scores are checked, and several rewards at work in the background.

A score is checked here once and trusted afterwards. A failure is an error that names the reward and the
sample, or by policy a dropped sample or the mean of the others, and it is counted. It never becomes 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddpo_core.constraints import Constraint
from ddpo_core.errors import RewardError, UsageError
from ddpo_core.info import RewardInfo
from ddpo_core.mixing import GDPO, Mixer
from ddpo_core.protocols import Reward
from ddpo_core.types import Prompt, Scores

OnError = Literal["raise", "drop", "impute"]


@dataclass(frozen=True)
class Term:
    """One reward in the objective. Weight 0 watches: scored and reported, never trained on."""

    label: str
    weight: float
    reward: Reward
    info: RewardInfo
    on_error: OnError = "raise"


@dataclass(frozen=True)
class Objective:
    """What is maximised: weighted rewards, how they become one direction, and bounds on their means."""

    terms: Sequence[Term]
    mixer: Mixer = field(default_factory=GDPO)
    constraints: Sequence[Constraint] = ()

    def __post_init__(self) -> None:
        labels = [term.label for term in self.terms]
        for constraint in self.constraints:
            if constraint.label not in labels:
                raise UsageError(
                    f"the constraint on {constraint.label} expects one of the rewards {', '.join(labels)}"
                )

    @property
    def weights(self) -> dict[str, float]:
        """Label → weight, of the terms that are trained on."""
        return {term.label: term.weight for term in self.terms if term.weight != 0}

    @property
    def followed(self) -> set[str]:
        """The labels that training follows: by a weight, or by a constraint."""
        return {*self.weights, *(constraint.label for constraint in self.constraints)}

    @property
    def resolutions(self) -> dict[str, float]:
        """Label → the smallest spread that means something, in the reward's unit."""
        return {term.label: term.info.resolution for term in self.terms}

    def score(self, images: Tensor, prompts: Sequence[Prompt], *, group_size: int = 1) -> dict[str, Scores]:
        """Every reward's scores of images [B, 3, H, W] in [0, 1], groups of one prompt standing together."""
        with Judging(self, group_size=group_size) as judging:
            judging.submit(images, prompts)
            return judging.finish()

    def differentiable(
        self,
        images: Tensor,
        prompts: Sequence[Prompt],
        *,
        weights: Mapping[str, float],
        spreads: Mapping[str, float],
    ) -> Tensor:
        """Σ weight · reward / spread [b] of images [b, 3, H, W], with a gradient to them.

        A reward that declares itself differentiable has `score(images, prompts) -> [b]` beside its call.
        """
        total = images.new_zeros(len(images))
        for term in self.terms:
            if term.label in weights:
                score: Callable[[Tensor, Sequence[Prompt]], Tensor] = getattr(term.reward, "score")  # noqa: B009
                total = total + weights[term.label] / spreads[term.label] * score(images, prompts)
        return total

    def close(self) -> None:
        """Free the models that rewards hold. They cannot judge any more."""
        for term in self.terms:
            close: Callable[[], None] | None = getattr(term.reward, "close", None)
            if close is not None:
                close()


def as_scores(output: Tensor | Sequence[float] | Scores) -> Scores:
    """Whatever a reward returned, as float64 (an integer reward would truncate its own advantages)."""
    if isinstance(output, Scores):
        levels = None if output.levels is None else np.asarray(output.levels, dtype=np.float64)
        return replace(output, values=np.asarray(output.values, dtype=np.float64), levels=levels)
    values = output.detach().cpu().double().numpy() if isinstance(output, Tensor) else output
    return Scores(np.asarray(values, dtype=np.float64))


def checked_scores(
    label: str, output: Tensor | Sequence[float] | Scores, prompts: Sequence[Prompt]
) -> Scores:
    """Scores of shape [B]; NaN and infinities become NaN and count as failures.

    Raises `RewardError` for any other shape: N² or N × 1 scores are a reward that read its batch wrongly.
    """
    try:
        scores = as_scores(output)
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {label!r}: expected {len(prompts)} numbers, got {type(output).__name__}"
        ) from error
    if scores.values.shape != (len(prompts),):
        raise RewardError(
            f"reward {label!r}: expected one score per image, shape ({len(prompts)},);"
            f" got {scores.values.shape}"
        )
    if scores.levels is not None and scores.levels.shape != scores.values.shape:
        raise RewardError(
            f"reward {label!r}: expected one level per image or none; got {scores.levels.shape}"
        )
    if scores.details and len(scores.details) != len(prompts):
        raise RewardError(
            f"reward {label!r}: expected {len(prompts)} records of details or none, got {len(scores.details)}"
        )
    finite = np.isfinite(scores.values)
    return replace(scores, values=np.where(finite, scores.values, np.nan), failures=int((~finite).sum()))


def settle_failures(term: Term, scores: Scores, prompts: Sequence[Prompt]) -> Scores:
    """Apply the term's policy to the NaNs of a whole round. Dropped samples stay NaN."""
    failed = np.isnan(scores.values)
    if not failed.any():
        return scores
    first = int(failed.argmax())
    if term.on_error == "raise" or failed.all():
        raise RewardError(
            f"reward {term.label!r}: no finite score for {failed.sum()} of {len(prompts)} images;"
            f" first is sample {first}, prompt {prompts[first].text!r}",
            hint=f"to train on without such samples: --reward {term.label},on_error=drop (or impute)",
        )
    if term.on_error == "drop":
        return scores
    return replace(scores, values=np.where(failed, np.nanmean(scores.values), scores.values))


def call_reward(term: Term, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
    """One timed call. A crash raises `RewardError`, or under another policy fails all of these samples."""
    start = time.perf_counter()
    try:
        with torch.no_grad():
            scores = checked_scores(term.label, term.reward(images, prompts), prompts)
    except RewardError:
        raise
    except Exception as error:
        if term.on_error == "raise":
            raise RewardError(
                f"reward {term.label!r} failed on samples such as {prompts[0].text!r}:"
                f" {type(error).__name__}: {error}"
            ) from error
        scores = Scores(np.full(len(prompts), np.nan), failures=len(prompts))
    return replace(scores, seconds=time.perf_counter() - start)


def merge(parts: Sequence[tuple[Sequence[int], Scores]], count: int) -> Scores:
    """Scores of parts of a round, each with its samples' indices, in the round's order."""
    values, levels = np.full(count, np.nan), np.full(count, np.nan)
    details: list[Mapping[str, object]] = [{} for _ in range(count)]
    for indices, scores in parts:
        values[list(indices)] = scores.values
        levels[list(indices)] = np.nan if scores.levels is None else scores.levels
        for index, detail in zip(indices, scores.details, strict=False):  # no details is the usual case
            details[index] = detail
    return Scores(
        values,
        details if any(details) else (),
        levels if any(scores.levels is not None for _, scores in parts) else None,
        failures=sum(scores.failures for _, scores in parts),
        seconds=sum(scores.seconds for _, scores in parts),
    )


def group_indices(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The samples of each distinct prompt, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.text, []).append(index)
    return list(groups.values())


def groups_of(count: int, group_size: int) -> list[list[int]]:
    """The samples that were drawn together for one prompt: `group_size` in a row."""
    return [list(range(start, min(start + group_size, count))) for start in range(0, count, group_size)]


class Judging:
    """Scores one round in the background while the next batch is sampled.

    Rewards work side by side, each in a thread of its own so that none needs to be thread-safe. A reward
    of scope `sample` is called for every batch as it comes; the others once the round is complete, with
    `group_size` images in a row, or with all of them.
    """

    def __init__(self, objective: Objective, *, group_size: int = 1) -> None:
        self.objective = objective
        self.group_size = group_size
        # the network and each reward get a part of the cores: more threads than cores wait for one another
        share = max(1, torch.get_num_threads() // (1 + len(objective.terms)))
        self.threads = {
            term.label: ThreadPoolExecutor(
                1, f"reward-{term.label}", initializer=torch.set_num_threads, initargs=(share,)
            )
            for term in objective.terms
        }
        self.calls: dict[str, list[tuple[Sequence[int], Future[Scores]]]] = {
            term.label: [] for term in objective.terms
        }
        self.images: list[Tensor] = []
        self.prompts: list[Prompt] = []

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.threads.values():
            thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, images: Tensor, prompts: Sequence[Prompt]) -> None:
        """Hand over one finished batch."""
        start = len(self.prompts)
        self.prompts.extend(prompts)
        self.images.append(images)
        for term in self.objective.terms:
            if term.info.scope == "sample":
                self._call(term, range(start, len(self.prompts)), images, prompts)

    def finish(self, on_done: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Scores]:
        """All scores of the round by label. Raises the first `RewardError`."""
        for term in self.objective.terms:
            if term.info.scope != "sample":
                self._call_on_sets(term)
        results = {}
        for done, term in enumerate(self.objective.terms):
            on_done(done, len(self.objective.terms))
            parts = [(indices, call.result()) for indices, call in self.calls[term.label]]
            results[term.label] = settle_failures(term, merge(parts, len(self.prompts)), self.prompts)
        return results

    def _call_on_sets(self, term: Term) -> None:
        images, count = torch.cat(self.images), len(self.prompts)
        sets = groups_of(count, self.group_size if term.info.scope == "group" else count)
        for indices in sets:
            self._call(term, indices, images[indices], [self.prompts[index] for index in indices])

    def _call(self, term: Term, indices: Sequence[int], images: Tensor, prompts: Sequence[Prompt]) -> None:
        call = self.threads[term.label].submit(call_reward, term, images, prompts)
        self.calls[term.label].append((indices, call))
