"""From what an author types to the reward on trial: a spec, a loose file, or a folder that is not installed.

Only the plugin in question is loaded, so that another one that is broken breaks nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from ddpo_core import plugins
from ddpo_core.discovery import Entry, Registry
from ddpo_core.errors import BrokenPlugin, UnknownName, UsageError
from ddpo_core.info import OptionValue, RewardInfo
from ddpo_core.options import check_options
from ddpo_core.plugins import Found, Plugin, canonical
from ddpo_core.protocols import Reward
from ddpo_core.spec import Spec, Value, parse
from ddpo_core.testing.trial import Subject

Judges = Mapping[str, Mapping[str, OptionValue]]  # reward → options, as a model's record has them

NO_JUDGES: Judges = {}


def subject_of(registry: Registry, entry: Entry, spec: Spec) -> Subject:
    """A reward with the options of a spec, built as a run builds it. Raises where an option does not fit."""
    check_options(entry.info, spec)

    def build(options: dict[str, OptionValue]) -> Reward:
        given = {key: value for key, value in options.items() if value is not None}
        changed = replace(spec, name=entry.qualified, options={**spec.options, **given}, text="")
        reward: Reward = registry.build("reward", changed)
        return reward

    return Subject(
        name=f"reward {entry.info.name!r}", info=entry.info, build=build, listed=entry.plugin.module
    )


def subjects_of(plugin: Plugin, judges: Judges = NO_JUDGES) -> list[Subject]:
    """Every reward of one plugin, with its default options or those that suit a model's pictures."""
    registry = Registry([plugin])
    return [
        subject_of(registry, entry, Spec(entry.info.name, options=suiting(entry.info, judges)))
        for entry in registry.entries("reward")
    ]


def suiting(info: RewardInfo, judges: Judges) -> dict[str, Value]:
    """The options of a reward that suit a model's pictures."""
    known = {option.name for option in info.options}
    return {
        key: value for key, value in judges.get(info.name, {}).items() if key in known and value is not None
    }


def find(text: str, model: str = "") -> Subject:
    """The one reward that a spec, a file or a folder names, with the options that suit a model's pictures.

    Raises `UnknownName`, `UsageError` or `BrokenPlugin`.
    """
    judges = providing("model", model)[1].info.judges if model else NO_JUDGES
    if plugins.is_path(text):
        found = [
            subject for plugin in plugins.from_path(Path(text)) for subject in subjects_of(plugin, judges)
        ]
        if len(found) != 1:
            names = ", ".join(subject.name for subject in found) or "none"
            raise UsageError(f"expected one reward in {text}, got {names}")
        return found[0]
    spec = parse(text, weighted=True)
    registry, entry = providing("reward", spec.name)
    return subject_of(
        registry, entry, replace(spec, options={**suiting(entry.info, judges), **spec.options}, text="")
    )


def providing(kind: str, name: str) -> tuple[Registry, Entry]:
    """The installed plugin with a part of that name; those that are called most like it are asked first."""
    distribution, _, bare = name.rpartition("/")
    allowed = plugins.Filter.from_environment()
    found = [
        each
        for each in plugins.entry_points()
        if canonical(distribution) in ("", canonical(each.distribution))
        and not allowed.reason(each.distribution)
    ]
    known: list[str] = []
    for each in sorted(found, key=lambda each: not _likely(each, bare)):
        plugin = _loaded(each)
        registry = Registry([plugin])
        entries = registry.entries(kind)
        if any(entry.is_called(bare) for entry in entries):
            return registry, registry.entry(kind, name)
        if plugin.status != "ok" and _likely(each, bare):
            raise BrokenPlugin(f"plugin {plugin.distribution}: {plugin.reason}", hint=plugin.hint)
        known += [known_as for entry in entries for known_as in entry.names]
    near = get_close_matches(bare, known, n=1)
    meant = f"; did you mean '{near[0]}'?" if near else ""
    raise UnknownName(
        f"no {kind} named '{name}' is installed{meant}",
        hint="`pip install -e .` in the plugin's folder, or name that folder or a .py file",
    )


def _likely(found: Found, name: str) -> bool:
    return found.entry_point == name or canonical(found.distribution).endswith(f"-{name}")


def _loaded(found: Found) -> Plugin:
    try:
        return plugins.load(found)
    except BrokenPlugin as error:  # DDPO_STRICT_PLUGINS is for the plugin in question, not for its neighbours
        return plugins.Plugin(
            distribution=found.distribution,
            version=found.version,
            entry_point=found.entry_point,
            module=found.module,
            status="broken",
            reason=str(error),
        )
