"""What is maximised, on pictures of which prompts; and whether a run can do that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddpo_core.errors import UsageError
from ddpo_core.prompts import PromptStream
from ddpo_core.protocols import Estimator, Sampler
from ddpo_core.rewards import Objective


@dataclass(frozen=True)
class Task:
    """What is maximised, and on pictures of which prompts."""

    prompts: PromptStream
    objective: Objective
    name: str = "all"


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
