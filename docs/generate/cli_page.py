"""The command line's reference, from the commands' own declarations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from ddpo_cli import main

HEAD = """\
# Command line

What the commands declare, as `ddpo COMMAND --help` shows it. [Specs](spec-grammar.md) name rewards,
models, samplers, estimators and prompts alike. Every command takes `--debug`, to show tracebacks.

"""
EXIT_CODES = re.compile(r"^    (\d+) +(.*)$", re.MULTILINE)


def page() -> str:
    return HEAD + "\n".join([*map(described, commands()), exit_codes()])


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, with the words that call it. Running commands are declared when a line names them."""
    for name in main.RUNNING:
        yield f"ddpo {name}", _app(name).commands[name]
    for name, command in _app("").commands.items():
        if name not in main.RUNNING:
            yield from _below(f"ddpo {name}", command)


def _app(first: str) -> Any:
    return typer.main.get_command(main.make_app(first))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield words, command
        return
    for name, each in inner.items():
        yield from _below(f"{words} {name}", each)


def described(called: tuple[str, Any]) -> str:
    """A heading, what the command does, its examples, and a table for each panel of its options."""
    words, command = called
    prose, examples = _told(command.help or command.short_help or "")
    parts = [f"## {words}", prose, "```text\n" + "\n\n".join([_usage(words, command), *examples]) + "\n```"]
    for panel, parameters in _panels(command).items():
        rows = "\n".join(
            f"| {_names(each)} | {_cell(each.help or '')}{_default(each)} |" for each in parameters
        )
        parts.append(f"| {panel} | |\n|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def _told(text: str) -> tuple[str, list[str]]:
    """The prose of a command's help, and its examples: paragraphs that begin with `ddpo `."""
    paragraphs = text.split("\n\n")
    examples = [paragraph for paragraph in paragraphs if paragraph.startswith("ddpo ")]
    return "\n\n".join(each for each in paragraphs if each not in examples), examples


def _usage(words: str, command: Any) -> str:
    arguments = [
        each.metavar or each.name.upper() for each in command.params if each.param_type_name == "argument"
    ]
    return " ".join([words, *arguments, "[OPTIONS]"])


def _panels(command: Any) -> dict[str, list[Any]]:
    panels: dict[str, list[Any]] = {}
    for each in command.params:
        if each.name != "help" and not getattr(each, "hidden", False):
            kind = "argument" if each.param_type_name == "argument" else "option"
            panels.setdefault(getattr(each, "rich_help_panel", None) or kind, []).append(each)
    return panels


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    if parameter.is_flag:
        return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    value = (
        parameter.metavar or "|".join(getattr(parameter.type, "choices", ())) or parameter.type.name.upper()
    )
    return " ".join([", ".join(f"`{name}`" for name in parameter.opts), f"`{value}`"])


def _default(parameter: Any) -> str:
    """Where the help's own words do not say it."""
    shown = parameter.default
    if not parameter.show_default or isinstance(shown, bool) or shown in (None, (), [], ""):
        return ""
    return f" (default: `{shown}`)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def exit_codes() -> str:
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.findall(main.__doc__ or ""))
    return f"## Exit codes\n\n| code | |\n|---|---|\n{rows}\n"
