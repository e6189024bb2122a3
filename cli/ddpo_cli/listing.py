"""`ddpo rewards list`, `ddpo samplers show NAME` and so on: one implementation for all five kinds.

Nothing here imports torch, and nothing a plugin says of itself may.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, NamedTuple

import typer

from ddpo_cli.console import emit_json, style, table
from ddpo_cli.options import AsJson
from ddpo_cli.rewards.bench import bench
from ddpo_cli.rewards.check import check
from ddpo_cli.rewards.new import new
from ddpo_cli.rewards.score import score
from ddpo_core import __version__
from ddpo_core.discovery import KINDS, Entry, Plugin, Registry, missing_packages, registry
from ddpo_core.info import EstimatorInfo, ModelInfo, Option, RewardInfo, SamplerInfo
from ddpo_core.nearest import did_you_mean
from ddpo_core.options import spelled


class Noun(NamedTuple):
    """A group of commands and the kind of part it is about."""

    command: str
    kind: str


NOUNS = tuple(Noun(kind.command.split()[1], name) for name, kind in KINDS.items())


def commands_for(noun: Noun) -> typer.Typer:
    """`list` and `show` for one kind, and for rewards what else is done with them; the bare noun lists."""
    word = KINDS[noun.kind].word
    more = "; score pictures; start, check and time one of your own" if noun.kind == "reward" else ""
    commands = typer.Typer(help=f"List the installed {word}s, or show one{more}.")

    @commands.callback(invoke_without_command=True)
    def bare(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            list_entries(noun, as_json=False)

    @commands.command("list", help=f"List the installed {word}s.")
    def list_command(as_json: AsJson = False) -> None:
        list_entries(noun, as_json)

    @commands.command("show", help=f"Show one {word}: what it takes and gives.")
    def show_command(
        name: Annotated[str, typer.Argument(help="A name, an alias, or distribution/name.")],
        as_json: AsJson = False,
    ) -> None:
        show_entry(noun, name, as_json)

    if noun.kind == "reward":
        commands.command("score")(score)
        commands.command("new")(new)
        commands.command("check")(check)
        commands.command("bench")(bench)
    return commands


def list_entries(noun: Noun, as_json: bool) -> None:
    """Print all of one kind."""
    known = registry()
    entries = known.entries(noun.kind)
    if as_json:
        emit_json({noun.command: [described(entry) for entry in entries]})
        return
    warn(known)
    if not entries:
        print(f"no {KINDS[noun.kind].word}s are installed", file=sys.stderr)
        return
    rows = [(*_names(entry, entries), entry.info.summary) for entry in entries]
    print(table(rows, ("name", "from", "summary")))


def _names(entry: Entry, entries: list[Entry]) -> tuple[str, str]:
    """The name to type, and where it comes from; the qualified name where the bare one is ambiguous."""
    clash = sum(other.is_called(entry.info.name) for other in entries) > 1
    name = entry.qualified if clash else entry.info.name
    aliases = "".join(f", {alias}" for alias in entry.info.aliases)
    return name + aliases, f"{entry.plugin.distribution} {entry.plugin.version}".strip()


def show_entry(noun: Noun, name: str, as_json: bool) -> None:
    """Print everything that is known of one."""
    known = registry()
    entry = known.entry(noun.kind, name)
    if as_json:
        emit_json({KINDS[noun.kind].word.replace(" ", "_"): described(entry)})
        return
    warn(known)
    print(shown(entry))


def described(entry: Entry) -> dict[str, object]:
    """An entry for programs."""
    factory = entry.info.factory
    told = factory if isinstance(factory, str) else f"{factory.__module__}:{factory.__qualname__}"
    return {
        **asdict(entry.info),
        "factory": told,
        "qualified": entry.qualified,
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
        "missing": missing_packages(entry.info),
    }


def shown(entry: Entry) -> str:
    """An entry for people."""
    info, plugin = entry.info, entry.plugin
    facts = {
        "from": f"{plugin.distribution} {plugin.version}".strip(),
        "aliases": ", ".join(info.aliases),
        **(reward_facts(info) if isinstance(info, RewardInfo) else _other_facts(info)),
        "needs": _needs(entry),
    }
    width = max(map(len, facts))
    parts = [f"{style(info.name, 'bold')}: {info.summary}"]
    parts.append("\n".join(f"  {key.ljust(width)}  {value}" for key, value in facts.items() if value))
    if info.options:
        rows = [(f"  {o.name}", type_text(o), default_text(o), o.help) for o in info.options]
        parts.append(table(rows, ("  option", "type", "default", "meaning")))
    if isinstance(info, RewardInfo):
        parts += _with_models(info)
    if info.doc:
        parts.append(info.doc.strip())
    return "\n\n".join(parts)


def _with_models(info: RewardInfo) -> list[str]:
    """The options that models of worlds of their own give this reward."""
    lines = []
    for entry in registry().entries("model"):
        options = [f"{key}={spelled(value)}" for key, value in entry.info.judges.get(info.name, {}).items()]
        if options:
            lines.append(f"  with --model {entry.info.name}, unless given: {', '.join(options)}")
    return ["\n".join(lines)] if lines else []


def reward_facts(info: RewardInfo) -> dict[str, str]:
    low, high = info.range
    bounded = math.isfinite(low) or math.isfinite(high)
    return {
        "unit": info.unit,
        "range": f"{_bound(low)} to {_bound(high)}" if bounded else "",
        "higher is": info.higher_is,
        "judges": {"sample": "each image by itself", "group": "the images of one prompt together"}.get(
            info.scope, "all images of an epoch together"
        ),
        "gradient": "yes" if info.differentiable else "no",
        "weights": "; ".join(f"{w.name} ({w.megabytes:g} MB, {w.licence})" for w in info.weights),
        "licence": info.licence,
        "fooled by": info.fooled_by,
    }


def _other_facts(info: Any) -> dict[str, str]:
    """The fields that a sampler's, an estimator's or a model's record has besides the common ones."""
    if isinstance(info, SamplerInfo):
        rated = "have log-probs" if info.has_log_prob else "have none: only estimators that rate no step"
        return {"models": " and ".join(info.paths), "its steps": rated}
    if isinstance(info, EstimatorInfo):
        return _estimator_facts(info)
    if isinstance(info, ModelInfo):
        together = {f"with {name}": _settings(values) for name, values in info.estimators.items()}
        return {
            "kind": info.path,
            "pipelines": ", ".join(info.pipelines),
            "prompts": f"{info.prompts} unless told otherwise" if info.prompts else "",
            "settings": _settings(info.defaults),
            **together,
        }
    return {}


NEEDS = {
    "log_probs": "a sampler whose steps have log-probs",
    "gradient": "rewards that can be differentiated",
    "untrained": "a LoRA, to look at the model before training",
}


def _estimator_facts(info: EstimatorInfo) -> dict[str, str]:
    only = " exactly" if info.fixed_updates else " unless told otherwise"
    return {
        "works with": "; ".join(NEEDS[need] for need in info.needs if need in NEEDS),
        "updates": f"{info.updates_per_epoch} per epoch{only}",
        "settings": _settings(info.defaults),
    }


def _settings(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={_setting(value)}" for key, value in values.items())


def _setting(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _needs(entry: Entry) -> str:
    missing = missing_packages(entry.info)
    if not missing:
        return ", ".join(entry.info.requires)
    mend = f"; {entry.info.install_hint}" if entry.info.install_hint else ""
    return f"{', '.join(entry.info.requires)} (not installed: {', '.join(missing)}{mend})"


def type_text(option: Option) -> str:
    if option.choices:
        return "|".join(option.choices)
    low, high = option.minimum, option.maximum
    if math.isinf(low) and math.isinf(high):
        return option.type
    if math.isinf(high):
        return f"{option.type} ≥ {low:g}"
    return f"{option.type} {_bound(low)} to {_bound(high)}"


def _bound(number: float) -> str:
    return f"{number:g}".replace("inf", "∞")


def default_text(option: Option) -> str:
    if option.required:
        return "required"
    return "" if option.default is None else spelled(option.default)


plugins_app = typer.Typer(help="List the installed plugins and what each provides.")


@plugins_app.callback(invoke_without_command=True)
def plugins_bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        plugins_list()


@plugins_app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """List the installed plugins: version, what each provides, and why one does not work."""
    plugins = registry().plugins
    if as_json:
        emit_json({"plugins": [described_plugin(plugin) for plugin in plugins]})
        return
    warn_unmatched(registry())
    rows = [(p.distribution, p.version, p.status, _provides(p)) for p in plugins]
    print(table(rows, ("plugin", "version", "status", "provides")))


def described_plugin(plugin: Plugin) -> dict[str, object]:
    """A plugin for programs."""
    return {
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point,
        "module": plugin.module,
        "status": plugin.status,
        "reason": plugin.reason,
        "hint": plugin.hint,
        "load_ms": round(plugin.load_ms, 1),
        "heavy": list(plugin.heavy),
        "provides": provided(plugin),
    }


def provided(plugin: Plugin) -> Mapping[str, list[str]]:
    """What a plugin provides: names under the command that lists them."""
    return {
        noun.command: [info.name for info in plugin.infos[noun.kind]]
        for noun in NOUNS
        if plugin.infos.get(noun.kind)
    }


def _provides(plugin: Plugin) -> str:
    if plugin.status != "ok":
        return plugin.reason
    text = "; ".join(f"{command}: {', '.join(names)}" for command, names in provided(plugin).items())
    return f"{text} (slow to load: imports {', '.join(plugin.heavy)})" if plugin.heavy else text


def print_versions() -> None:
    """`ddpo --version`: ddpo's own and each plugin's."""
    print(f"ddpo {__version__}")
    for plugin in registry().plugins[1:]:
        status = "" if plugin.status == "ok" else f"  ({plugin.status}: {plugin.reason})"
        print(f"{plugin.distribution} {plugin.version}{status}")


def warn(known: Registry) -> None:
    """Tell on stderr of plugins that could not be loaded, and of names listed in vain."""
    for plugin in known.broken:
        message = f"plugin {plugin.distribution} {plugin.version} is not loaded: {plugin.reason}"
        print(f"{style('warning:', 'yellow', sys.stderr)} {message}\n  {plugin.hint}", file=sys.stderr)
    warn_unmatched(known)


def warn_unmatched(known: Registry) -> None:
    """Tell of names in DDPO_BLOCK or DDPO_ONLY that no plugin has."""
    for name in known.unmatched:
        meant = did_you_mean(name, [plugin.distribution for plugin in known.plugins])
        message = f"DDPO_BLOCK or DDPO_ONLY names '{name}', and no installed plugin is called that{meant}"
        print(f"{style('warning:', 'yellow', sys.stderr)} {message}", file=sys.stderr)
