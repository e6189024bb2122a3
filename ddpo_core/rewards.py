"""rollout → scores: the door where scores are checked, and several rewards at work in the background.

A score is checked here once and trusted afterwards. A failure is an error that names the reward and the
sample, or by policy a dropped sample or the mean of the others, and it is counted. It never becomes 0.
How often and how long a reward is asked before it has failed is in `calls`.
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

from ddpo_core.calls import NEVER, Patience, TookTooLong, Unfinished, ask
from ddpo_core.constraints import Constraint
from ddpo_core.errors import RewardError, UsageError, WrongScores
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
    tries: int = 1  # calls in all, where one raises or takes too long
    time_limit: float | None = None  # seconds of a call
    unfinished: Unfinished = field(default_factory=Unfinished, repr=False, compare=False)

    @property
    def patience(self) -> Patience:
        """What the reward is given to answer a call."""
        return Patience(self.tries, self.time_limit, self.info.thread_safe)


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
            scores = judging.finish()
        return {
            term.label: replace(said, values=settled(term, said.values, prompts, said.error))
            for term, said in zip(self.terms, scores.values(), strict=True)
        }

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
        """Free the models that rewards hold. They cannot judge any more.

        A reward that is still busy with an abandoned call is closed when that is over.
        """
        for term in self.terms:
            close: Callable[[], None] | None = getattr(term.reward, "close", None)
            if close is not None:
                term.unfinished.afterwards(close)


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

    Raises `WrongScores` for any other shape: N² or N × 1 scores are a reward that read its batch wrongly.
    """
    try:
        scores = as_scores(output)
    except (TypeError, ValueError) as error:
        raise WrongScores(
            f"reward {label!r}: expected {len(prompts)} numbers, got {type(output).__name__}"
        ) from error
    if scores.values.shape != (len(prompts),):
        raise WrongScores(
            f"reward {label!r}: expected one score per image, shape ({len(prompts)},);"
            f" got {scores.values.shape}"
        )
    if scores.levels is not None and scores.levels.shape != scores.values.shape:
        raise WrongScores(
            f"reward {label!r}: expected one level per image or none; got {scores.levels.shape}"
        )
    if scores.details and len(scores.details) != len(prompts):
        raise WrongScores(
            f"reward {label!r}: expected {len(prompts)} records of details or none, got {len(scores.details)}"
        )
    finite = np.isfinite(scores.values)
    return replace(scores, values=np.where(finite, scores.values, np.nan), failures=int((~finite).sum()))


def refuse_failures(term: Term, values: np.ndarray, prompts: Sequence[Prompt], reason: str = "") -> None:
    """Raise `RewardError` for NaNs that the term's policy does not allow: any, or nothing else.

    `reason` is what the latest call that failed had to say.
    """
    failed = np.isnan(values)
    if not failed.any() or (term.on_error != "raise" and not failed.all()):
        return
    first = int(failed.argmax())
    raise RewardError(
        f"reward {term.label!r}: no finite score for {failed.sum()} of {len(prompts)} images;"
        f" first is sample {first}, prompt {prompts[first].text!r}" + (f"; {reason}" if reason else ""),
        hint=f"to train on without such samples: --reward {term.label},on_error=drop (or impute)"
        if term.on_error == "raise"
        else "no policy settles that; once the reward answers again, `ddpo train --resume RUN` goes on",
    )


def settled(term: Term, values: np.ndarray, prompts: Sequence[Prompt], reason: str = "") -> np.ndarray:
    """A whole round's scores [N] after the term's policy: dropped ones stay NaN, others get the mean."""
    refuse_failures(term, values, prompts, reason)
    failed = np.isnan(values)
    if term.on_error == "drop" or not failed.any():
        return values
    return np.where(failed, np.nanmean(values), values)


def call_reward(
    term: Term, images: Tensor, prompts: Sequence[Prompt], stopped: Future[None] = NEVER
) -> Scores:
    """One timed call, with as many tries as the term has.

    A failure raises `RewardError`, or under another policy makes all of these samples NaN.
    """
    start = time.perf_counter()
    threads = torch.get_num_threads()

    def judge() -> Scores:
        torch.set_num_threads(threads)  # it and the gradient mode belong to a thread
        with torch.no_grad():
            return checked_scores(term.label, term.reward(images, prompts), prompts)

    answer = ask(judge, term.patience, term.unfinished, stopped)
    scores = answer.value
    if answer.error is not None:
        if term.on_error == "raise":
            raise gave_up(term, prompts, answer.error) from answer.error
        is_told = isinstance(answer.error, RewardError | TookTooLong)  # a sentence already
        reason = str(answer.error) if is_told else f"{type(answer.error).__name__}: {answer.error}"
        scores = Scores(np.full(len(prompts), np.nan), failures=len(prompts), error=reason)
    assert scores is not None  # a call has a value or an error
    seconds = time.perf_counter() - start
    return replace(scores, retries=answer.retries, timeouts=answer.timeouts, seconds=seconds)


def gave_up(term: Term, prompts: Sequence[Prompt], error: Exception) -> RewardError:
    """The error of a reward that failed in all of its tries, and what to type; or the reward's own."""
    if isinstance(error, RewardError):
        return error
    tried = f" in {term.tries} tries" if term.tries > 1 else ""
    samples = f"samples such as {prompts[0].text!r}"
    go_on = "to go on without such samples: on_error=drop (or impute)"
    if not isinstance(error, TookTooLong):
        return RewardError(
            f"reward {term.label!r} failed{tried} on {samples}: {type(error).__name__}: {error}",
            hint=f"to call it again first: --reward {term.label},tries=3; {go_on}"
            if term.tries == 1
            else go_on,
        )
    longer = f"--reward {term.label},time_limit={2 * (term.time_limit or 0):g}"
    return RewardError(
        f"reward {term.label!r} had no answer{tried} for {samples}: {error} (time_limit)",
        hint=f"to give it more time: {longer}; {go_on}",
    )


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
        retries=sum(scores.retries for _, scores in parts),
        timeouts=sum(scores.timeouts for _, scores in parts),
        error=next((scores.error for _, scores in reversed(parts) if scores.error), ""),
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
        self.stopped: Future[None] = Future()

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set_result(None)  # no pause and no limit is sat out
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
        """All scores of the round by label; NaN for a failure that the term's policy has yet to settle.

        Raises the first `RewardError`.
        """
        for term in self.objective.terms:
            if term.info.scope != "sample":
                self._call_on_sets(term)
        results = {}
        for done, term in enumerate(self.objective.terms):
            on_done(done, len(self.objective.terms))
            parts = [(indices, call.result()) for indices, call in self.calls[term.label]]
            results[term.label] = merge(parts, len(self.prompts))
            if term.on_error == "raise":
                refuse_failures(term, results[term.label].values, self.prompts)
        return results

    def _call_on_sets(self, term: Term) -> None:
        images, count = torch.cat(self.images), len(self.prompts)
        sets = groups_of(count, self.group_size if term.info.scope == "group" else count)
        for indices in sets:
            self._call(term, indices, images[indices], [self.prompts[index] for index in indices])

    def _call(self, term: Term, indices: Sequence[int], images: Tensor, prompts: Sequence[Prompt]) -> None:
        call = self.threads[term.label].submit(call_reward, term, images, prompts, self.stopped)
        self.calls[term.label].append((indices, call))
