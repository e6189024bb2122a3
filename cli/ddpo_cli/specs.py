"""The settings that are specs (`NAME[:WEIGHT][,KEY=VALUE]…`), checked against what is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ddpo_cli.settings import RunConfig
from ddpo_core import spec as grammar
from ddpo_core.errors import UsageError
from ddpo_core.info import Info, Option

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

ADVANTAGES = {
    "prompt": Info(
        name="prompt",
        summary="over each prompt's latest scores, once there are enough of them; else over the batch",
        factory="ddpo_core.advantages:Normaliser",
        options=(
            Option(name="buffer_size", type="int", default=32, minimum=2, help="scores kept for each prompt"),
            Option(name="min_count", type="int", default=16, minimum=2, help="fewer than this: over the batch"),
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
}


@dataclass(frozen=True)
class Found:
    """A spec, and what it names."""

    spec: grammar.Spec
    info: Any  # the Info of its kind


def find(registry: Registry, kind: str, text: str) -> Found:
    """Parse and look up. Raises `SpecError`, `UnknownName` or `BrokenPlugin`."""
    spec = grammar.parse(text, weighted=kind == "reward")
    return Found(spec, registry.find(kind, spec.name))


def with_option(registry: Registry, kind: str, text: str, key: str, value: object) -> str:
    """The spec with one option set."""
    found = find(registry, kind, text)
    return str(replace(found.spec, options={**found.spec.options, key: value}, text=""))


def from_table(who: str, table: Mapping[str, object]) -> str:
    """A `[[reward]]` table (name, weight, options, as, on_error) as a spec string."""
    unknown = set(table) - {"name", "weight", "options", "as", "on_error"}
    if unknown or not isinstance(table.get("name"), str):
        raise UsageError(f"{who} takes name, weight, options, as and on_error; got {', '.join(sorted(table))}")
    options = table.get("options", {})
    if not isinstance(options, Mapping):
        raise UsageError(f"{who}: options must be a table such as {{ quality = 80 }}; got {options!r}")
    weight = table.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UsageError(f"{who}: weight must be a number; got {weight!r}")
    spec = replace(grammar.parse(str(table["name"])), weight=float(weight), options=dict(options), text="")
    if "as" in table:
        spec = replace(spec, label=str(table["as"]))
    if "on_error" in table:
        spec = replace(spec, on_error=str(table["on_error"]))
    return str(spec)


def canonical(config: RunConfig, registry: Registry) -> RunConfig:
    """The config with every spec checked and written the one way it is written.

    Raises `UnknownName`, `SpecError` or `BrokenPlugin` for what is not installed or not an option of it.
    """
    config = replace(
        config,
        reward=tuple(_canonical(registry, "reward", text) for text in config.reward),
        watch=tuple(_canonical(registry, "reward", text) for text in config.watch),
        model=_canonical(registry, "model", config.model),
        sampler=_canonical(registry, "sampler", config.sampler),
        estimator=_canonical(registry, "estimator", config.estimator),
        prompts=_canonical(registry, "prompts", config.prompts) if config.prompts else "",
        advantages=str(_advantages(config.advantages)),
    )
    grammar.parse_all((*config.reward, *config.watch), weighted=True)  # refuses two with one label
    return config


def _canonical(registry: Registry, kind: str, text: str) -> str:
    found = find(registry, kind, text)
    registry.check_options(found.info, found.spec)
    return str(found.spec)


def _advantages(text: str) -> grammar.Spec:
    from ddpo_core.discovery import check_options

    from ddpo_cli.nearest import did_you_mean
    from ddpo_core.errors import UnknownName

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


def group_size(text: str) -> int:
    """Samples of one prompt that are drawn together: 1 unless `--advantages group`."""
    over, options = advantage_options(text)
    return int(options["size"]) if over == "group" else 1
