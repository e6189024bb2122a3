"""scores → advantages, for a round over all processes: standardise, weigh, mix, and say what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddpo_core.advantages import Normaliser
from ddpo_core.constraints import Multipliers
from ddpo_core.mixing import Mixed, correlations
from ddpo_core.rewards import groups_of, settled
from ddpo_core.sharing import Sharing
from ddpo_core.tasks import Task
from ddpo_core.types import Prompt, Scores


@dataclass(frozen=True)
class Judgement:
    """A round's scores over all processes, and what became of them."""

    mixed: Mixed
    prompts: Sequence[str]  # N
    values: Mapping[str, np.ndarray]  # label → [N], failures settled: NaN where a sample was dropped
    weights: Mapping[str, float]  # label → weight in force
    metrics: Mapping[str, float]


def standard_error(values: np.ndarray, group_size: int) -> float:
    """Of the mean of values [N], `group_size` in a row for one prompt: what was drawn at random are prompts.

        SE² = G / (G − 1) · Σ_g (Σ_{i ∈ g} (x_i − x̄))² / n²    over G groups with n values in all

    (clustered; with one image to a group it is s² / n). One group says nothing of other prompts: s² / n then.
    Values that are not finite are left out. NaN where fewer than two are left.
    """
    finite = np.isfinite(values)
    count = int(finite.sum())
    if count < 2:
        return math.nan
    deviations = np.where(finite, values - values[finite].mean(), 0.0)
    groups = [group for group in groups_of(len(values), group_size) if finite[group].any()]
    if len(groups) == 1:
        groups = [[row] for row in np.flatnonzero(finite).tolist()]
    squares = sum(float(deviations[group].sum()) ** 2 for group in groups)
    return math.sqrt(len(groups) / (len(groups) - 1) * squares) / count


class Judge:
    """What a run remembers of earlier rounds, and what it makes of the next one's scores."""

    def __init__(self, tasks: Sequence[Task], normaliser: Normaliser, sharing: Sharing) -> None:
        self.normaliser = normaliser
        self.multipliers = {task.name: Multipliers(task.objective.constraints) for task in tasks}
        self.sharing = sharing

    def __call__(self, task: Task, prompts: Sequence[Prompt], scores: Mapping[str, Scores]) -> Judgement:
        """Directions over the epoch's samples of all processes, and what there is to say of each reward.

        Raises `RewardError`, on every process, where no sample of any process has a score.
        """
        objective, size = task.objective, task.prompts.group_size
        everyone = self.sharing.interleave(size, list(prompts))
        values = {
            label: np.array(self.sharing.interleave(size, list(score.values)))
            for label, score in scores.items()
        }
        metrics: dict[str, float] = {}
        for label, score in scores.items():
            metrics |= self.report(task, label, values[label], score)
        for term in objective.terms:  # after the report, which is of real scores only
            reasons = self.sharing.gather([scores[term.label].error])
            values[term.label] = settled(term, values[term.label], everyone, next(filter(None, reasons), ""))
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

    def report(self, task: Task, label: str, values: np.ndarray, score: Scores) -> dict[str, float]:
        """A reward's mean and standard error in its own unit, and how often it failed."""
        reported, group_size = values, task.prompts.group_size
        if score.levels is not None:  # one number for each set of images that were judged together
            levels = np.array(self.sharing.interleave(group_size, list(score.levels)))
            reported, group_size = levels[::group_size], 1
        finite = reported[np.isfinite(reported)]
        spread = finite.std(ddof=1) if len(finite) > 1 else math.nan
        return {
            f"reward/{label}/mean": float(finite.mean()) if len(finite) else math.nan,
            f"reward/{label}/stderr": standard_error(reported, group_size),
            f"reward/{label}/std": float(spread),
            f"reward/{label}/failures": sum(self.sharing.gather([score.failures])),
            f"reward/{label}/retries": sum(self.sharing.gather([score.retries])),
            f"reward/{label}/timeouts": sum(self.sharing.gather([score.timeouts])),
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
