"""Rewards × prompt sets × models: which pictures are drawn, how they are scored, and what came of it.

Every model draws the same prompts from the same noise, so all comparisons are paired. A reward that judges
the pictures of one prompt together gets pictures of its own: whole groups, as many in all as the others get.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ddpo_cli.estimates import Estimate, Units, change, estimate, gain_share, raw_share, units_of

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo_core.denoising import Policy
    from ddpo_core.protocols import PromptSet
    from ddpo_core.rewards import Term
    from ddpo_core.types import Prompt, Scores

BASE = "base"  # the model before training
EVAL_EPOCH = (
    0x6576616C  # "eval": no epoch of a run comes this far, so no picture has a training sample's noise
)


# ---- what is drawn -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The pictures of one prompt set: groups of one prompt each, standing together."""

    prompts_name: str
    group_size: int
    prompts: Sequence[Prompt]  # N
    seeds: Sequence[int]  # N


def plan_pictures(name: str, prompt_set: PromptSet, samples: int, group_size: int, seed: int) -> Plan:
    """At least `samples` pictures in whole groups; each prompt once, as long as the set has more of them."""
    from ddpo_core.rollout import sample_seeds

    order = _drawn(len(prompt_set), -(-samples // group_size), seed)
    prompts = [prompt_set[index] for index in order for _ in range(group_size)]
    return Plan(name, group_size, prompts, sample_seeds(seed, EVAL_EPOCH, range(len(prompts))))


def _drawn(size: int, count: int, seed: int) -> list[int]:
    """`count` of `size` indices without repetition, in whole rounds where there are too few."""
    generator = random.Random(seed)
    rounds, rest = divmod(count, size)
    sizes = [size] * rounds + [rest]
    return [index for part in sizes for index in generator.sample(range(size), part)]


def group_size_of(term: Term) -> int:
    """How many pictures of one prompt the reward judges together: 1 unless its scope is a group."""
    return max(2, term.info.group_size) if term.info.scope == "group" else 1


def draw(policy: Policy, plan: Plan, batch_size: int, on_drawn: Callable[[int], None]) -> Tensor:
    """The plan's pictures [N, 3, H, W] uint8: what a file of them would hold."""
    import torch

    from ddpo_core.judges import to_uint8
    from ddpo_core.rollout import rollout

    drawn = []
    for start in range(0, len(plan.prompts), batch_size):
        rows = slice(start, start + batch_size)
        drawn.append(to_uint8(rollout(policy, plan.prompts[rows], plan.seeds[rows]).images))
        on_drawn(len(drawn[-1]))
    return torch.cat(drawn)


def score(
    term: Term, pictures: Tensor, plan: Plan, batch_size: int, on_scored: Callable[[int], None]
) -> Scores:
    """One reward's scores of a plan's pictures; NaN where it had none. Raises `RewardError`."""
    from ddpo_core.rewards import call_reward, merge

    count = len(pictures)
    size = {"sample": batch_size, "group": plan.group_size, "batch": count}[term.info.scope]
    parts = []
    for start in range(0, count, size):
        rows = range(start, min(start + size, count))
        images = pictures[start : start + size].float() / 255
        parts.append((rows, call_reward(term, images, plan.prompts[start : start + size])))
        on_scored(len(rows))
    return merge(parts, count)


# ---- what came of it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A model that was looked at."""

    name: str
    epoch: int = 0
    folder: str = ""  # of the run; empty for the model before training
    trained_on: tuple[str, ...] = ()  # names of the rewards


@dataclass(frozen=True)
class Row:
    """One reward, or one statistic that it told besides, on one prompt set."""

    prompts: str
    reward: str  # label
    name: str  # of the reward, whatever its label
    statistic: str  # empty for the reward itself
    unit: str
    direction: int  # 1: higher is better, −1: a negative weight asks for less, 0: who knows
    units: Mapping[str, Units]  # column → [U]
    failures: Mapping[str, int]  # column → pictures without a score

    @property
    def title(self) -> str:
        return f"{self.reward}/{self.statistic}" if self.statistic else self.reward

    def at(self, column: str) -> Estimate:
        """The mean under this model."""
        return estimate(self.units[column])

    def since_base(self, column: str) -> Estimate:
        """The paired change from the model before training."""
        return change(self.units[column], self.units[BASE])


@dataclass(frozen=True)
class Share:
    """How much of a specialist's score a run reached, said in two ways."""

    row: Row
    column: str
    specialist: str  # the column it is measured by
    alone: bool  # the specialist was trained on this reward and no other; else it merely scored best
    raw: Estimate
    gain: Estimate


@dataclass
class Matrix:
    """All results, and what could not be had."""

    columns: Sequence[Column]
    plans: Sequence[Plan]
    rows: list[Row] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)  # (reward, why it is not there)

    @property
    def prompts(self) -> list[str]:
        """The prompt sets, in order."""
        return list(dict.fromkeys(plan.prompts_name for plan in self.plans))

    @property
    def runs(self) -> list[Column]:
        """The columns besides the base model."""
        return [column for column in self.columns if column.folder]

    def shares(self) -> list[Share]:
        """Every run against the specialist of every reward; empty for fewer than two runs."""
        if len(self.runs) < 2:
            return []
        return [share for row in self.rows if row.direction for share in self._shares_of(row)]

    def _shares_of(self, row: Row) -> list[Share]:
        turned = {name: row.direction * units for name, units in row.units.items()}
        alone = [run.name for run in self.runs if run.trained_on == (row.name,)]
        candidates = alone or [run.name for run in self.runs]
        best = max(candidates, key=lambda name: np.nan_to_num(estimate(turned[name]).mean, nan=-np.inf))
        return [
            Share(
                row=row,
                column=run.name,
                specialist=best,
                alone=bool(alone),
                raw=raw_share(turned[run.name], turned[best]),
                gain=gain_share(turned[run.name], turned[best], turned[BASE]),
            )
            for run in self.runs
        ]


def rows_of(term: Term, plan: Plan, scores: Mapping[str, Scores]) -> list[Row]:
    """The reward's row and those of its statistics, from its scores under each model.

    What a reward that judges pictures together thinks of them are its levels; its values share out credit.
    """
    size = {"sample": 1, "group": plan.group_size, "batch": len(plan.prompts)}[term.info.scope]
    reported = {name: said.values if said.levels is None else said.levels for name, said in scores.items()}
    told = {name: _statistics(said, len(plan.prompts)) for name, said in scores.items()}
    statistics = list(dict.fromkeys(key for values in told.values() for key in values))
    nothing = np.full(len(plan.prompts), np.nan)
    direction = -1 if term.weight < 0 else 1

    def row(statistic: str, unit: str, direction: int, values: Mapping[str, np.ndarray]) -> Row:
        units = {name: units_of(of_model, size) for name, of_model in values.items()}
        missing = {name: int(np.isnan(of_model).sum()) for name, of_model in values.items()}
        return Row(plan.prompts_name, term.label, term.info.name, statistic, unit, direction, units, missing)

    return [
        row("", term.info.unit, direction, reported),
        *(
            row(key, "", 0, {name: values.get(key, nothing) for name, values in told.items()})
            for key in statistics
        ),
    ]


def _statistics(scores: Scores, count: int) -> dict[str, np.ndarray]:
    """The numbers [N] that stand under "statistics" in the details, by name."""
    found: dict[str, np.ndarray] = {}
    for index, detail in enumerate(scores.details):
        numbers = detail.get("statistics")
        if isinstance(numbers, Mapping):
            for key, value in numbers.items():
                if value is not None:
                    found.setdefault(str(key), np.full(count, np.nan))[index] = float(value)
    return found
