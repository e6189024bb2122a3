"""The flags of `ddpo train`, made from the settings: one declaration for help, file and command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from ddpo_core.config.settings import LEARNING, RUN, WHAT, Setting, declared

Command = TypeVar("Command", bound=Callable[..., None])
BESIDES = inspect.Parameter.KEYWORD_ONLY


def with_setting_flags(command: Command) -> Command:
    """Give `command`, which ends in `**flags`, one option for every setting. None means: not given."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is BESIDES]
    made = [_parameter(setting) for setting in declared().values()]
    command.__signature__ = inspect.Signature([*made, *own])  # type: ignore[attr-defined]
    return command


def _parameter(setting: Setting) -> inspect.Parameter:
    names = [f"{setting.flag}/--no-{setting.flag[2:]}"] if setting.type is bool else [setting.flag]
    if setting.name == "reward":
        names.append("-r")
    option = typer.Option(
        *names,
        help=_help(setting),
        rich_help_panel=setting.panel,
        metavar=_metavar(setting),
        show_default=False,
    )
    kind: Any = list[str] if setting.many else setting.type
    return inspect.Parameter(setting.name, BESIDES, default=None, annotation=Annotated[kind | None, option])


def _metavar(setting: Setting) -> str | None:
    if setting.type is bool:
        return None
    if setting.choices:
        return "|".join(setting.choices)
    return setting.metavar or {int: "N", float: "X"}.get(setting.type)


def _help(setting: Setting) -> str:
    default = setting.default
    if default in (None, (), "") or isinstance(default, bool):
        return setting.help
    shown = (
        ",".join(default)
        if isinstance(default, tuple)
        else f"{default:g}"
        if isinstance(default, float)
        else default
    )
    return f"{setting.help.rstrip('.')} (default: {shown})."


def given(flags: Mapping[str, Any]) -> dict[str, object]:
    """The flags that were typed, as values of a layer."""
    values = {name: value for name, value in flags.items() if value is not None and value != []}
    if "lora_targets" in values:
        values["lora_targets"] = [name for text in values["lora_targets"] for name in text.split(",") if name]
    return values


# What else `ddpo train` takes: these are no settings of a run.

CLIP_RANGE = typer.Option(
    "--clip-range",
    help="The estimator's clip range; short for --estimator NAME,clip_range=X.",
    metavar="X",
    rich_help_panel=LEARNING,
)
CONFIG = typer.Option("--config", help="Settings from a TOML file.", metavar="FILE", rich_help_panel=WHAT)
PRESET = typer.Option(
    "--preset",
    help="Settings that ship with ddpo, such as paper/aesthetic or demo.",
    metavar="NAME",
    rich_help_panel=WHAT,
)
OUT = typer.Option(
    "--out",
    help="The run's folder, new or empty (default: runs/REWARD-MODEL-TIME).",
    metavar="DIR",
    rich_help_panel=RUN,
)
RESUME = typer.Option(
    "--resume",
    help="Go on with the run in this folder; --epochs may be raised.",
    metavar="DIR",
    rich_help_panel=RUN,
)
ALLOW_PLUGIN_CHANGE = typer.Option(
    "--allow-plugin-change",
    help="Resume with other plugins than the run began with.",
    rich_help_panel=RUN,
)
DRY_RUN = typer.Option("--dry-run", help="Show what would be done, and do nothing.")
MEASURE = typer.Option(
    "--measure/--no-measure",
    help="With --dry-run: load the model and time one step (default: where that takes seconds).",
)
JSON = typer.Option("--json", help="With --dry-run: as JSON.")
