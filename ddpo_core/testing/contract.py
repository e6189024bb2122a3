"""The contract of a reward: small checks by name, in the order in which they are told.

    trial = Trial(Subject(name="reward 'redness'", info=info, build=build))
    for outcome in outcomes(trial):
        print(outcome.status, outcome.says, outcome.told)

A check is made once for a trial. One that rests on another that failed is not made, so that a single fault is
told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ddpo_core.testing import declared, judged
from ddpo_core.testing.trial import Advice, Broken, NotMade, Trial

Status = Literal["passed", "advised", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One sentence of the contract, and the function that holds a reward to it."""

    key: str
    says: str  # "it …"
    run: Callable[[Trial], str]
    after: tuple[str, ...] = ()  # made only where these did not fail
    later: tuple[str, ...] = ()  # made after these, whatever came of them


@dataclass(frozen=True)
class Outcome:
    """What came of one check."""

    check: Check
    status: Status
    told: str = ""  # failed: expected, got, what to do; skipped: why; else what was seen, or nothing
    blocked: bool = False  # skipped because of a check that failed


CHECKS = (
    Check("record", "says what it is", declared.record),
    Check("light", "is listed without heavy imports", declared.light),
    Check("options", "declares the options that it takes", declared.options),
    Check("builds", "is built from its options", declared.builds),
    Check("bounds", "is built at the bounds of its options", declared.bounds, after=("options", "builds")),
    Check("one-score", "gives one score per image", judged.one_score, after=("builds",)),
    Check("finite", "gives finite scores", judged.finite, after=("one-score",)),
    Check("digits", "gives scores as fine as it declares", judged.digits, after=("record", "finite")),
    Check("inputs", "leaves images and prompts as they are", judged.inputs, after=("one-score",)),
    Check("randomness", "leaves global random state alone", judged.randomness, after=("one-score",)),
    Check("graph", "keeps no graph", judged.graph, after=("one-score",)),
    Check("deterministic", "scores the same twice", judged.deterministic, after=("finite",)),
    Check("order", "does not mind the order of a batch", judged.order, after=("deterministic",)),
    Check("neighbours", "judges each image by itself", judged.neighbours, after=("deterministic",)),
    Check("levels", "gives a set one level", judged.levels, after=("order",)),
    Check("alone", "judges a single picture", judged.alone, after=("deterministic",), later=("neighbours",)),
    Check("sizes", "judges other sizes, or refuses them", judged.sizes, after=("finite",)),
    Check("flat", "judges black, white and grey", judged.flat, after=("finite",)),
    Check(
        "range",
        "stays in its declared range",
        judged.in_range,
        after=("record", "finite"),
        later=("alone", "sizes", "flat"),
    ),
    Check("direction", "scores better pictures higher", judged.direction, after=("finite",)),
    Check("gradient", "has the gradient that it declares", judged.gradient, after=("one-score",)),
    Check("rebuilt", "scores the same when built again", judged.rebuilt, after=("deterministic",)),
    Check(
        "close", "lets go when it is closed, twice", judged.close, after=("one-score",), later=("rebuilt",)
    ),
)
BY_KEY = {check.key: check for check in CHECKS}


def outcomes(trial: Trial) -> Iterator[Outcome]:
    """The outcome of every check, one by one as they are made."""
    for check in CHECKS:
        yield outcome(trial, check.key)


def outcome(trial: Trial, key: str) -> Outcome:
    """The outcome of one check; it and what it rests on are made where they have not been yet."""
    found: Outcome | None = trial.outcomes.get(key)
    if found is None:
        found = trial.outcomes[key] = _made(trial, BY_KEY[key])
    return found


def _made(trial: Trial, check: Check) -> Outcome:
    for key in check.later:
        outcome(trial, key)
    for key in check.after:
        before = outcome(trial, key)
        if before.status == "failed" or before.blocked:
            return Outcome(check, "skipped", f"waits until it {BY_KEY[key].says}", blocked=True)
    try:
        return Outcome(check, "passed", check.run(trial))
    except NotMade as reason:
        return Outcome(check, "skipped", str(reason))
    except Advice as advice:
        return Outcome(check, "advised", str(advice))
    except Broken as broken:
        return Outcome(check, "failed", str(broken))
    except Exception as error:
        return Outcome(check, "failed", f"expected no error, got {type(error).__name__}: {error}")
