"""The settings that are specs (`NAME[:WEIGHT][,KEY=VALUE]…`), checked against what is installed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_core import spec as grammar
from ddpo_core.config import constraint_specs, task_specs
from ddpo_core.config.settings import RunConfig
from ddpo_core.errors import UnknownName, UsageError
from ddpo_core.info import Info, Option
from ddpo_core.nearest import did_you_mean, nearest_path
from ddpo_core.options import check_options
from ddpo_core.plugins import canonical as canonical_name

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

POLICY = ("on_error", "tries", "time_limit")  # what a reward that fails or is slow does to a run
PATH_OPTIONS = ("pretrained", "path")  # what may name something on this machine

ADVANTAGES = {
    "prompt": Info(
        name="prompt",
        summary="over each prompt's latest scores, once there are enough of them; else over the batch",
        factory="ddpo_core.advantages:Normaliser",
        options=(
            Option(name="buffer_size", type="int", default=32, minimum=2, help="scores kept for each prompt"),
            Option(
                name="min_count", type="int", default=16, minimum=2, help="fewer than this: over the batch"
            ),
        ),
    ),
    "batch": Info(
        name="batch", summary="over all samples of the epoch", factory="ddpo_core.advantages:Normaliser"
    ),
    "group": Info(
        name="group",
        summary="over the samples of one prompt in this epoch",
        factory="ddpo_core.advantages:Normaliser",
        options=(Option(name="size", type="int", default=8, minimum=2, help="samples of each prompt"),),
    ),
    "raw": Info(name="raw", summary="scores as they are", factory="ddpo_core.advantages:Normaliser"),
}


@dataclass(frozen=True)
class Found:
    """A spec, and what it names."""

    spec: grammar.Spec
    info: Any  # the Info of its kind
    distribution: str
    version: str  # empty for a loose file
    source: str  # the plugin's module, or the loose file


def find(registry: Registry, kind: str, text: str) -> Found:
    """Parse and look up. Raises `SpecError`, `UnknownName` or `BrokenPlugin`."""
    spec = grammar.parse(_spelled_out(registry, kind, text), weighted=kind == "reward")
    try:
        entry = registry.entry(kind, spec.name)
    except UnknownName as error:
        file = nearest_path(Path(text)) if kind == "prompts" and "." in text else ""
        if not file:
            raise
        raise UnknownName(f"there is no prompt set and no file {text}{file}", hint=error.hint) from None
    return Found(spec, entry.info, entry.plugin.distribution, entry.plugin.version, entry.plugin.module)


def _spelled_out(registry: Registry, kind: str, text: str) -> str:
    """A path or a hub id as the spec that it is short for."""
    if kind == "prompts":
        from ddpo_core.prompts import resolve_prompt_source

        source = resolve_prompt_source(text)
        return str(grammar.Spec(source[0], options=dict(source[1]))) if source else text
    if kind == "model" and _is_pretrained(registry, text):
        _refuse_misspelt_folder(text)
        return str(grammar.Spec(_family(registry, text), options={"pretrained": text}))
    return text


def _refuse_misspelt_folder(text: str) -> None:
    """`runs/mien` reads like a hub id, and beside `runs/mine` is none. Raises `UnknownName`."""
    meant = "" if Path(text).exists() else nearest_path(Path(text))
    if meant:
        raise UnknownName(
            f"there is no folder {text}{meant}",
            hint=f"if it is a hub id: NAME,pretrained={text}, with a name of `ddpo models list`",
        )


@functools.cache
def _family(registry: Registry, pretrained: str) -> str:
    """The model that adapts the pipeline of this folder or hub id, by the pipeline's own class."""
    from ddpo_core.denoisers.detect import pipeline_class

    found = pipeline_class(pretrained)
    families = {kind: info.name for info in registry.infos("model") for kind in info.pipelines}
    if found not in families:
        raise UsageError(
            f"--model {pretrained} is a {found}; there are adapters for {', '.join(sorted(families))}",
            hint="a package adds one with the hook ddpo_models, see CONTRIBUTING.md; `ddpo models list`",
        )
    return str(families[found])


def _is_pretrained(registry: Registry, text: str) -> bool:
    """A folder, or `owner/name` where no installed plugin is called `owner`."""
    if any(mark in text for mark in "/\\.") and Path(text).is_dir():
        return True
    owner, slash, name = text.partition("/")
    plugins = {canonical_name(plugin.distribution) for plugin in registry.plugins}
    return bool(owner and slash and name) and "," not in text and canonical_name(owner) not in plugins


def with_option(registry: Registry, kind: str, text: str, key: str, value: grammar.Value) -> str:
    """The spec with one option set."""
    found = find(registry, kind, text)
    return str(replace(found.spec, options={**found.spec.options, key: value}, text=""))


def with_suiting(registry: Registry, kind: str, text: str, suiting: str) -> str:
    """The spec `text` with the options of `suiting`, a spec of the same thing, where it leaves them open."""
    found, suits = find(registry, kind, text), find(registry, kind, suiting)
    return str(replace(found.spec, options={**suits.spec.options, **found.spec.options}, text=""))


def with_judges(registry: Registry, model: str, text: str) -> str:
    """A reward's spec with what suits the model's pictures for the options that it leaves open.

    The pocket world, say, has a captioner of its own; `align` takes it with `--model pocket`.
    """
    judges = find(registry, "model", model).info.judges
    found = find(registry, "reward", text)
    suits = judges.get(found.info.name, {})
    known = {option.name for option in found.info.options}
    added = {key: value for key, value in suits.items() if key in known and value is not None}
    return str(replace(found.spec, options={**added, **found.spec.options}, text=""))


def from_table(who: str, table: Mapping[str, object]) -> str:
    """A `[[reward]]` table (name, weight, options, as, on_error, tries, time_limit) as a spec string."""
    keys = ("name", "weight", "options", "as", *POLICY)
    unknown = sorted(set(table) - set(keys))
    if unknown:
        raise UnknownName(
            f"{who} has no key '{unknown[0]}'{did_you_mean(unknown[0], keys)}",
            hint=f"it takes {', '.join(keys)}",
        )
    if not isinstance(table.get("name"), str):
        raise UsageError(f'{who}: expects name = "…"; got {", ".join(sorted(table)) or "nothing"}')
    options = table.get("options", {})
    if not isinstance(options, Mapping):
        raise UsageError(f"{who}: options must be a table such as {{ quality = 80 }}; got {options!r}")
    weight = table.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UsageError(f"{who}: weight must be a number; got {weight!r}")
    spec = replace(grammar.parse(str(table["name"])), weight=float(weight), options=dict(options), text="")
    if "as" in table:
        spec = replace(spec, label=str(table["as"]))
    # read again later, and checked there
    return ",".join([str(spec), *(f"{key}={table[key]}" for key in POLICY if key in table)])


def canonical(config: RunConfig, registry: Registry) -> RunConfig:
    """The config with every spec checked and written the one way it is written.

    Raises `UnknownName`, `SpecError` or `BrokenPlugin` for what is not installed or not an option of it.
    """
    reward = [_reward(registry, config.model, text) for text in config.reward]
    watch = [_reward(registry, config.model, text) for text in config.watch]
    task = [_task(registry, config.model, config.advantages, text) for text in config.task]
    labels = [
        grammar.parse(text, weighted=True).label
        for text in (*reward, *watch, *(text for each in task for text in each.reward))
    ]
    constraint, unscored = constraint_specs.separate(config.constraint, labels)
    watch += [_reward(registry, config.model, text) for text in unscored]
    config = replace(
        config,
        reward=tuple(reward),
        watch=tuple(watch),
        constraint=tuple(constraint),
        task=tuple(map(str, task)),
        model=_canonical(registry, "model", config.model),
        sampler=_canonical(registry, "sampler", config.sampler),
        estimator=_canonical(registry, "estimator", config.estimator),
        prompts=_canonical(registry, "prompts", config.prompts) if config.prompts else "",
        advantages=str(_advantages(config.advantages)),
        pretrain=absolute(config.pretrain) if config.pretrain else "",
        plugin=tuple(map(absolute, config.plugin)),
    )
    for watched in (grammar.parse(text, weighted=True) for text in config.watch):
        if watched.weight != 1:
            raise watched.error("--watch scores without training, so it takes no weight")
    # refuses two with one label
    grammar.parse_all((*task_specs.rewards_of(config), *config.watch), weighted=True)
    return config


def _task(registry: Registry, model: str, advantages: str, text: str) -> task_specs.TaskText:
    task = task_specs.parse(text)
    size, _ = group_size(registry, advantages, task.reward)
    return replace(
        task,
        group_size=task.group_size or (size if size > 1 else 0),
        reward=tuple(_reward(registry, model, reward) for reward in task.reward),
        prompts=_canonical(registry, "prompts", task.prompts) if task.prompts else "",
    )


def _reward(registry: Registry, model: str, text: str) -> str:
    return with_judges(registry, model, _canonical(registry, "reward", text))


def _canonical(registry: Registry, kind: str, text: str) -> str:
    found = find(registry, kind, text)
    registry.check_options(found.info, found.spec)
    paths = {key: absolute(str(found.spec.options[key])) for key in PATH_OPTIONS if key in found.spec.options}
    return str(replace(found.spec, options={**found.spec.options, **paths}, text=""))


def check_files(config: RunConfig, registry: Registry) -> None:
    """Raise `UsageError` for a file to train on that is not there, with the nearest that is."""
    for text in (task.prompts for task in task_specs.tasks_of(config)):
        path = find(registry, "prompts", text).spec.options.get("path") if text else None
        if isinstance(path, str) and not Path(path).expanduser().is_file():
            raise UsageError(f"--prompts: there is no file {path}{nearest_path(Path(path))}")
    if config.pretrain and not Path(config.pretrain).expanduser().exists():
        meant = nearest_path(Path(config.pretrain))
        raise UsageError(f"--pretrain: there is no file or folder {config.pretrain}{meant}")


def absolute(text: str) -> str:
    """A path that is there, so that the run can be resumed from elsewhere; a hub id as it is."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def _advantages(text: str) -> grammar.Spec:
    spec = grammar.parse(text, weighted=False)
    if spec.name not in ADVANTAGES:
        near = did_you_mean(spec.name, ADVANTAGES)
        raise UnknownName(f"--advantages: '{spec.name}' is none of {', '.join(ADVANTAGES)}{near}")
    check_options(ADVANTAGES[spec.name], spec)
    return spec


def advantage_options(text: str) -> tuple[str, dict[str, Any]]:
    """What `--advantages` asks for: over what, and its options with their defaults."""
    spec = _advantages(text)
    defaults = {option.name: option.default for option in ADVANTAGES[spec.name].options}
    return spec.name, {**defaults, **spec.options}


def group_size(registry: Registry, advantages: str, rewards: Sequence[str]) -> tuple[int, str]:
    """Samples of one prompt that are drawn together, and who wants that."""
    over, options = advantage_options(advantages)
    wanted = [(int(options["size"]), f"advantages {advantages}")] if over == "group" else []
    for info in (find(registry, "reward", text).info for text in rewards):
        if info.scope == "group":
            wanted.append((info.group_size, f"reward {info.name}"))
    return max(wanted, default=(1, "default"))


def all_options(registry: Registry, kind: str, text: str) -> dict[str, Any]:
    """A spec's options, with the defaults of those that were not given."""
    found = find(registry, kind, text)
    return {**{option.name: option.default for option in found.info.options}, **found.spec.options}
