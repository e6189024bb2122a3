"""From a line and its cursor to what may stand there: commands, options, or one option's values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from ddpo_cli.completion.values import Answer, Candidate, Place, values_of


@dataclass(frozen=True)
class Line:
    """A command line up to the cursor, without the program's name."""

    words: Sequence[str]  # complete ones
    current: str  # the word at the cursor, as far as it is typed; without quotes
    quoted: bool = False  # its opening quote is not closed yet


def read(text: str) -> Line:
    """Split as a shell would; what is not closed yet is the current word."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError as error:  # "No closing quotation", or "No escaped character"
        return Line(words[1:], lexer.token or "", quoted="quotation" in str(error))
    if text[-1:].isspace() and not text.endswith("\\ "):
        return Line(words[1:], "")
    return Line(words[1:-1], words[-1])


def answer(program: typer.core.TyperGroup, line: Line) -> Answer:
    """What the word at the cursor may become. Candidates are whole words."""
    command, path, words = follow(program, line.words)
    # only reads the words: nothing is checked, required or run
    context = command.make_context(path[-1] if path else "ddpo", list(words), resilient_parsing=True)
    options = {name: p for p in command.get_params(context) for name in (*p.opts, *p.secondary_opts)}
    asked, before, typed = asked_for(options, words, line.current)
    if asked is not None:
        plugins = context.params.get("plugin") or ()
        return values_of(Place(path, asked, typed, [str(file) for file in plugins])).after(before)
    if line.current.startswith("-"):
        return Answer(list(option_names(options, words, line.current)))
    if hasattr(command, "commands"):
        found = [
            Candidate(name, each.get_short_help_str(100))
            for name, each in command.commands.items()
            if name.startswith(line.current) and not each.hidden
        ]
        return Answer(found)
    return Answer(list(option_names(options, words, line.current or "--")))


def follow(program: Any, words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """The command that the words lead to, its names, and the words that are its own."""
    command = program
    path: list[str] = []
    rest: list[str] = []
    for word in words:
        if word in getattr(command, "commands", {}):
            command, rest = command.commands[word], []
            path.append(word)
        else:
            rest.append(word)
    return command, path, rest


def asked_for(options: dict[str, Any], words: Sequence[str], current: str) -> tuple[Any, str, str]:
    """The parameter whose value is being typed, or None; what stands before the value; and the value."""
    last = options.get(words[-1]) if words else None
    if last is not None and takes_value(last):
        return last, "", current
    name, equals, value = current.partition("=")
    if equals and name in options:
        return options[name], f"{name}=", value
    if current.startswith("-"):
        return None, "", current
    arguments = [p for p in dict.fromkeys(options.values()) if p.param_type_name == "argument"]
    filled = len(positional(options, words))
    open_ended = arguments[-1:] if arguments and arguments[-1].nargs == -1 else []
    return next(iter([*arguments[filled:], *open_ended]), None), "", current


def takes_value(parameter: Any) -> bool:
    return parameter.param_type_name == "option" and not parameter.is_flag


def positional(options: dict[str, Any], words: Sequence[str]) -> list[str]:
    """The words that are neither options nor their values."""
    found = []
    before = None
    for word in words:
        is_value = before is not None and takes_value(before)
        before = None if is_value else options.get(word)
        if not is_value and not word.startswith("-"):
            found.append(word)
    return found


def option_names(options: dict[str, Any], words: Sequence[str], start: str) -> list[Candidate]:
    """Options that begin so and may still be given."""
    given = {options[word].name for word in words if word in options}
    return [
        Candidate(name, parameter.help or "")
        for name, parameter in options.items()
        if name.startswith(start)
        and parameter.param_type_name == "option"
        and not parameter.hidden
        and (parameter.multiple or parameter.name not in given)
    ]
