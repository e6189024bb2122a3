"""Checks of what a reward says of itself: its record, its options, how it is listed and built.

Each returns a note, or raises `Broken`, `Advice` or `NotMade`. They judge no picture.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from ddpo_core.discovery import imported
from ddpo_core.errors import DdpoError
from ddpo_core.info import Option, OptionType, OptionValue, RewardInfo
from ddpo_core.options import check_options, spelled
from ddpo_core.spec import Spec
from ddpo_core.testing.trial import Advice, Broken, NotMade, Trial

SCOPES = ("sample", "group", "batch")
BOUNDS_TIME = 60.0  # seconds, after which no further bound is tried
PATIENCE = 60  # seconds that listing may take


# ---- the record --------------------------------------------------------------------------------------


def record(trial: Trial) -> str:
    """The fields that a run relies on make sense; those that people rely on are there."""
    info = trial.info
    low, high = info.range
    faults = {
        "a summary: the line in `ddpo rewards list`": bool(info.summary.strip()),
        f"range=(lowest, highest), got {info.range}": low < high,
        f"a resolution above 0, got {info.resolution}": info.resolution > 0,
        f"scope to be one of {', '.join(SCOPES)}, got '{info.scope}'": info.scope in SCOPES,
        f"group_size to be 2 or more for scope 'group', got {info.group_size}": info.scope != "group"
        or info.group_size >= 2,
        "the licence of each of its weights": all(weights.licence for weights in info.weights),
    }
    for expected, holds in faults.items():
        if not holds:
            raise Broken(f"expected {expected}")
    missing = [name for name in ("higher_is", "fooled_by", "licence") if not getattr(info, name).strip()]
    if missing:
        raise Advice(f"say {', '.join(missing)} in the RewardInfo: `ddpo rewards show` has room for it")
    return ""


# ---- how it is listed --------------------------------------------------------------------------------

PROBE = """
import json, sys
from importlib.metadata import EntryPoint
from pathlib import Path
from ddpo_core.plugins import Found, from_file, load

place = sys.argv[1]
if place.endswith(".py"):
    plugin = from_file(Path(place))
else:
    plugin = load(Found("", "", "", place, EntryPoint("", place, "ddpo").load))
print(json.dumps({"reason": plugin.reason, "heavy": plugin.heavy, "ms": plugin.load_ms}))
"""


def light(trial: Trial) -> str:
    """A fresh interpreter that lists this plugin, and no other, imports nothing heavy."""
    if not trial.subject.listed:
        raise NotMade("it came without the plugin that lists it")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "DDPO_STRICT_PLUGINS": "0",
    }
    command = [sys.executable, "-c", PROBE, trial.subject.listed]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Broken(f"expected to be listed by a fresh interpreter, got nothing in {PATIENCE} s") from None
    if done.returncode:
        raise Broken(f"expected to be listed by a fresh interpreter, got: {_last_line(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["reason"]:
        raise Broken(f"expected to be listed by a fresh interpreter, got: {found['reason']}")
    if found["heavy"]:
        got = f"{', '.join(found['heavy'])} in {found['ms']:.0f} ms"
        if trial.subject.listed.endswith(".py"):
            raise Advice(f"the file imports {got}; once it is a package, import them where it judges")
        raise Broken(
            f"expected to be listed without heavy imports, got {got}: import them in the module that"
            " `factory` names"
        )
    return f"in {found['ms']:.0f} ms"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


# ---- its options -------------------------------------------------------------------------------------


def options(trial: Trial) -> str:
    """Each option's default fits its declaration, and the factory takes exactly the declared keywords."""
    for option in trial.info.options:
        _check_declaration(trial.info, option)
    undeclared = _check_keywords(trial.info)
    if undeclared:
        raise Advice(
            f"the factory also takes {', '.join(undeclared)}, which no user can set: declare it as an Option"
        )
    return ", ".join(option.name for option in trial.info.options) or "none"


def _check_declaration(info: RewardInfo, option: Option) -> None:
    who = f"the option '{option.name}'"
    if option.type not in get_args(OptionType):
        raise Broken(f"expected {who} to be of type {', '.join(get_args(OptionType))}, got '{option.type}'")
    if option.minimum > option.maximum:
        raise Broken(f"expected {who} to have minimum ≤ maximum, got {option.minimum} and {option.maximum}")
    if option.default is None:
        return
    only = replace(info, options=(option,))
    try:
        value = check_options(only, Spec(info.name, options={option.name: option.default}))[option.name]
    except DdpoError as error:
        raise Broken(
            f"expected the default of {who} to fit its own declaration, got {option.default!r}:"
            f" {str(error).splitlines()[0]}"
        ) from error
    if type(value) is not type(option.default) and not isinstance(option.default, int):
        raise Broken(f"expected the default of {who} to be of type {option.type}, got {option.default!r}")


def _check_keywords(info: RewardInfo) -> list[str]:
    """What the factory takes and the record does not declare. Raises `Broken` for what does not fit."""
    parameters = _parameters(info)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for option in info.options:
        if option.name not in named:
            if takes_all:
                continue
            raise Broken(
                f"expected the factory to take each declared option as a keyword, got none named"
                f" '{option.name}': {info.factory} takes {', '.join(named) or 'nothing'}"
            )
        _check_default(option, named[option.name])
    declared = {option.name for option in info.options}
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in declared:
            raise Broken(f"expected an Option for each keyword that the factory needs, got none for '{name}'")
    return [name for name in named if name not in declared]


def _check_default(option: Option, parameter: inspect.Parameter) -> None:
    if parameter.default is parameter.empty:
        if option.default is None and not option.required:
            raise Broken(
                f"expected required=True or a default for the option '{option.name}', which the factory needs"
            )
        return
    if None not in (option.default, parameter.default) and _plain(option.default) != _plain(
        parameter.default
    ):
        raise Broken(
            f"expected one default for '{option.name}', got {option.default!r} in its Option and"
            f" {parameter.default!r} in the factory"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parameters(info: RewardInfo) -> Mapping[str, inspect.Parameter]:
    try:
        factory = imported(info.factory) if isinstance(info.factory, str) else info.factory
        return inspect.signature(factory).parameters
    except Exception as error:  # `builds` tells of it
        raise NotMade(f"the factory {info.factory} cannot be looked at") from error


# ---- how it is built ---------------------------------------------------------------------------------


def builds(trial: Trial) -> str:
    """Its factory makes something that can be called."""
    if trial.subject.build is None:
        raise NotMade("it was given ready-made")
    try:
        reward = trial.reward
    except DdpoError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise Broken(f"expected to be built, got {type(error).__name__}: {error}{hint}") from error
    except Exception as error:
        raise Broken(f"expected to be built, got {type(error).__name__}: {error}") from error
    if not callable(reward):
        raise Broken(
            f"expected the factory to return something to call with (images, prompts), got {reward!r}"
        )
    return f"in {trial.build_seconds:.1f} s" if trial.build_seconds >= 0.1 else ""


def bounds(trial: Trial) -> str:
    """The values at the edges of what an option may be build, or are refused with a `DdpoError`."""
    edges = list(_edges(trial.info))
    if not edges:
        raise NotMade("no option has a minimum, maximum or choices to try")
    deadline = time.monotonic() + BOUNDS_TIME
    for place, (name, value, which) in enumerate(edges):
        if time.monotonic() > deadline:
            return f"{place} of {len(edges)} tried, in {BOUNDS_TIME:.0f} s"
        _build_at(trial, name, value, which)
    return f"{len(edges)} tried"


def _build_at(trial: Trial, name: str, value: OptionValue, which: str) -> None:
    try:
        built = trial.build(**{name: value})
    except DdpoError:
        return  # a clear refusal: options that do not go together, a package that is missing
    except Exception as error:
        raise Broken(
            f"expected to be built with {name}={spelled(value)}, {which}, got {type(error).__name__}:"
            f" {error}; declare a narrower bound or raise UsageError"
        ) from error
    getattr(built, "close", lambda: None)()


def _edges(info: RewardInfo) -> Iterator[tuple[str, OptionValue, str]]:
    """Option, value and what it is. Choices of a reward with weights may name others, and are left out."""
    for option in info.options:
        for value, which in ((option.minimum, "its minimum"), (option.maximum, "its maximum")):
            if math.isfinite(value):
                yield option.name, int(value) if option.type == "int" else float(value), which
        if not info.weights:
            yield from ((option.name, choice, "one of its choices") for choice in option.choices)
