"""What a run's tasks are: one, or several that take turns, each with rewards and prompts of its own.

    --task "--reward aesthetic --prompts animals"   a task, written as for `ddpo train` itself
    --task tasks.toml                               [[task]] tables of the same
    --mixer sequential                              each --reward is a task

A task that names no prompts draws from the run's.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ddpo_core import spec as grammar
from ddpo_core.config.settings import RunConfig
from ddpo_core.errors import UnknownName, UsageError
from ddpo_core.nearest import did_you_mean

SEQUENTIAL = "sequential"
ONLY_TASK = "all"
_FLAGS = ("--name", "--reward", "--prompts", "--prompt", "--group-size")


@dataclass(frozen=True)
class TaskText:
    """A task as it is written; where it names no prompts it draws from the run's."""

    name: str
    reward: tuple[str, ...]
    prompts: str = ""
    prompt: tuple[str, ...] = ()
    group_size: int = 0  # pictures of each prompt drawn together; 0: as the run says and its rewards want

    def __str__(self) -> str:
        """The one way it is written: `parse(str(task)) == task`."""
        words = ["--name", self.name]
        for reward in self.reward:
            words += ["--reward", reward]
        words += ["--prompts", self.prompts] if self.prompts else []
        for prompt in self.prompt:
            words += ["--prompt", prompt]
        words += ["--group-size", str(self.group_size)] if self.group_size else []
        return shlex.join(words)


def parse(text: str) -> TaskText:
    """Read a task. Raises `UsageError` or `UnknownName`."""
    try:
        words = [part for word in shlex.split(text) for part in _flag_and_value(word)]
    except ValueError as error:
        raise UsageError(f"--task {text!r}: {error}") from error
    given: dict[str, list[str]] = {flag: [] for flag in _FLAGS}
    while words:
        flag = words.pop(0)
        if flag not in given:
            near = did_you_mean(flag, _FLAGS)
            raise UnknownName(f"--task {text!r}: a task takes {', '.join(_FLAGS)}; got '{flag}'{near}")
        if not words:
            raise UsageError(f"--task {text!r}: {flag} expects a value")
        given[flag].append(words.pop(0))
    for flag in ("--name", "--prompts", "--group-size"):
        if len(given[flag]) > 1:
            raise UsageError(f"--task {text!r}: {flag} is given twice")
    if not given["--reward"]:
        raise UsageError(
            f"--task {text!r}: a task needs a reward",
            hint='write it as for `ddpo train`: --task "--reward jpeg --prompts animals"',
        )
    if given["--prompts"] and given["--prompt"]:
        raise UsageError(f"--task {text!r}: --prompts and --prompt were both given; one of them has to go")
    name = "".join(given["--name"]) or "+".join(
        grammar.parse(r, weighted=True).label for r in given["--reward"]
    )
    size = "".join(given["--group-size"]) or "0"
    if not size.isdecimal():
        raise UsageError(f"--task {text!r}: --group-size must be a whole number; got {size!r}")
    return TaskText(
        name, tuple(given["--reward"]), "".join(given["--prompts"]), tuple(given["--prompt"]), int(size)
    )


def _flag_and_value(word: str) -> list[str]:
    """`--reward=jpeg` as two words."""
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and flag in _FLAGS else [word]


def from_table(who: str, table: Mapping[str, object]) -> str:
    """A `[[task]]` table as it would be typed."""
    words: list[str] = []
    for key, value in table.items():
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int) for item in items):
            raise UsageError(f"{who}: {key} must be a text or a list of texts; got {value!r}")
        for item in items:
            words += [f"--{key.replace('_', '-')}", str(item)]
    return str(parse(shlex.join(words)))


def from_file(path: Path) -> list[str]:
    """The `[[task]]` tables of a TOML file. Raises `UsageError` where there are none."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("task")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--task {path}: not readable as TOML: {error}") from error
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"--task {path}: the file has no [[task]] table")
    return [from_table(f"{path}: [[task]]", table) for table in tables]


def tasks_of(config: RunConfig) -> list[TaskText]:
    """The tasks that a config means, each with its prompts and the size of its groups."""
    if config.task:
        tasks = [parse(text) for text in config.task]
    elif config.mixer == SEQUENTIAL:
        labels = [grammar.parse(text, weighted=True).label for text in config.reward]
        tasks = [TaskText(label, (text,)) for label, text in zip(labels, config.reward, strict=True)]
    else:
        tasks = [TaskText(ONLY_TASK, config.reward)]
    return [_complete(task, config) for task in tasks]


def _complete(task: TaskText, config: RunConfig) -> TaskText:
    """The task with the run's prompts and group size where it names none."""
    task = replace(task, group_size=task.group_size or config.group_size)
    if task.prompts or task.prompt:
        return task
    return replace(task, prompts=config.prompts, prompt=config.prompt)


def rewards_of(config: RunConfig) -> tuple[str, ...]:
    """The specs of all rewards that are trained on, of whichever task."""
    return tuple(reward for task in tasks_of(config) for reward in task.reward)
