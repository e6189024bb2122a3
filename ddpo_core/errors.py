"""Every error ddpo raises on purpose.

    DdpoError                 never raised itself
    ├── UsageError            what was asked for cannot be done; exit code 2
    │   ├── SpecError         a spec does not parse; carries a caret under the culprit
    │   ├── UnknownName       no such reward, sampler, … or option; carries the nearest valid ones
    │   └── BatchError        batch sizes that do not divide; carries the nearest that do
    ├── EnvironmentFault      the machine lacks something: a plugin, a package, weights; exit code 3
    │   └── BrokenPlugin      an installed plugin that was asked for cannot be loaded
    └── RunError              the run itself failed; exit code 1
        ├── RewardError       a reward failed: it raised, took too long, or had no finite score
        │   └── WrongScores   it returned what is not one score per image; no policy settles that
        ├── SelfCheckError    the run would have trained on wrong numbers
        └── CheckpointError   a checkpoint is missing, damaged or of another run

Each carries one message: who, expected, got, and what to type next.
"""

from __future__ import annotations


class DdpoError(Exception):
    """The root of the tree; `hint` is the command or edit that mends it, shown under the message."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(DdpoError):
    """What was asked for cannot be done."""


class SpecError(UsageError):
    """A spec such as `jpeg:0.5,quality=80` does not parse.

    `spec` is the text as typed and `position` the index of the first character that is wrong.
    """

    def __init__(self, message: str, *, spec: str, position: int, hint: str = "") -> None:
        super().__init__(f"{message}\n  {spec}\n  {' ' * position}^", hint=hint)
        self.spec = spec
        self.position = position


class UnknownName(UsageError):
    """No such reward, sampler, estimator, model, prompt set, option or key."""


class BatchError(UsageError):
    """Batch sizes that do not divide one another."""


class EnvironmentFault(DdpoError):
    """The environment lacks something that was asked for."""


class BrokenPlugin(EnvironmentFault):
    """A plugin that was asked for by name is installed and cannot be loaded."""


class RunError(DdpoError):
    """The run itself failed."""


class RewardError(RunError):
    """A reward failed. Raised by a reward, it is a failure like any other, told in the reward's own words."""


class WrongScores(RewardError):
    """A reward returned something that is not one score per image."""


class SelfCheckError(RunError):
    """A check before the first update failed; training would have been on wrong numbers."""


class CheckpointError(RunError):
    """A checkpoint is missing, damaged, or belongs to another run."""
