"""Every `--json` output has the keys and types that docs/reference/json.md says, and so have its examples."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from ddpo_cli.main import RUNNING, make_app

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
TOY = f"--plugin {Path(__file__).parent / 'toy_world.py'}"
FAILED = "any command that fails"
Schema = dict[str, dict[str, str]]  # command or record → key → type


def columns(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]


def rows(text: str) -> Iterator[list[str]]:
    """The rows of all tables in a text, headings left out."""
    table = [columns(line) for line in text.splitlines() if line.startswith("|")]
    yield from (row for row in table if set(row[0]) != {"-"} and row[0] not in ("key", "command"))


def read_commands() -> Schema:
    said: Schema = {}
    for command, key, kind, _ in rows(PAGE.partition("## Commands")[2].partition("## Records")[0]):
        said.setdefault(command, {})[key] = kind
    return said


def read_records() -> Schema:
    said: Schema = {}
    for section in PAGE.partition("## Records")[2].partition("## Examples")[0].split("\n### ")[1:]:
        name, _, text = section.partition("\n")
        of = re.search(r"keys of \[(\w+)\]", text)
        said[name] = {**(said[of[1]] if of else {}), **{key: kind for key, kind, _ in rows(text)}}
    return said


COMMANDS, RECORDS = read_commands(), read_records()


# ---- comparing ---------------------------------------------------------------------------------------


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


PLAIN: dict[str, Callable[[Any], bool]] = {
    "anything": lambda value: True,
    "null": lambda value: value is None,
    "text": lambda value: isinstance(value, str),
    "number": is_number,
    "number or null": lambda value: value is None or is_number(value),
    "whole number": lambda value: is_number(value) and isinstance(value, int),
    "true or false": lambda value: isinstance(value, bool),
}


def wrong(value: Any, kind: str, at: str) -> list[str]:
    """Where a value is not what the page says."""
    first, *others = kind.split(", or ")
    if any(fits(value, other, at) == [] for other in others if other != "absent"):
        return []
    return fits(value, first, at)


def fits(value: Any, kind: str, at: str) -> list[str]:
    if kind in PLAIN:
        return [] if PLAIN[kind](value) else [f"{at}: {value!r} is no {kind}"]
    if kind.startswith("list of "):
        items = enumerate(value) if isinstance(value, list) else [(at, "no list")]
        return [w for place, item in items for w in fits(item, kind[8:], f"{at}[{place}]")]
    if kind.startswith("map to "):
        pairs = value.items() if isinstance(value, dict) else [(at, "no map")]
        return [w for key, item in pairs for w in fits(item, kind[7:], f"{at}.{key}")]
    return record(value, RECORDS[re.fullmatch(r"\[(\w+)\]\(#\1\)", kind)[1]], at)


def record(value: Any, said: dict[str, str], at: str) -> list[str]:
    """Keys that are missing or not on the page, and values of another type."""
    if not isinstance(value, dict):
        return [f"{at}: {value!r} is no record"]
    found = [f"{at}.{key} is not on the page" for key in value if key not in said]
    for key, kind in said.items():
        if key in value:
            found += wrong(value[key], kind, f"{at}.{key}")
        elif not kind.endswith(", or absent"):
            found.append(f"{at}.{key} is missing")
    return found


def against_page(command: str, text: str) -> list[str]:
    return record(json.loads(text), {"schema": "whole number", **COMMANDS[command]}, command)


# ---- every command -----------------------------------------------------------------------------------

LOOKING = [f"{noun} list" for noun in ("rewards", "samplers", "estimators", "models", "prompts", "plugins")]
RUNS = [
    *[(line, line, 0) for line in LOOKING],
    ("rewards show", "rewards show brightness", 0),
    ("samplers show", "samplers show ddim", 0),
    ("estimators show", "estimators show rwr", 0),
    ("models show", "models show sd", 0),
    ("prompts show", "prompts show file", 0),
    ("doctor", "doctor", 3),  # one of the plugins is broken
    ("train --dry-run", f"train {TOY} --model toy --reward brightness --dry-run --no-measure", 0),
    pytest.param(
        "train --dry-run",
        f"train {TOY} --model toy --reward brightness --dry-run --measure",
        0,
        marks=pytest.mark.slow,  # loads the libraries for models
    ),
    ("rewards score", f"rewards score brightness,gamma=2 {TOY} --images pictures", 0),
    ("rewards score", f"rewards score brightness {TOY} --images pictures/a.png", 0),
    ("rewards check", f"rewards check brightness {TOY}", None),
    ("rewards bench", f"rewards bench brightness {TOY} --sizes 1,2 --side 16", 0),
    (FAILED, "rewards show brigthness", 2),
    (FAILED, "rewards list --nosuch", 2),
    (FAILED, "rewards show broken", 3),
]


@pytest.fixture
def pictures(tmp_path: Path) -> None:
    """A folder with two."""
    (tmp_path / "pictures").mkdir()
    for name, colour in (("a", "red"), ("b", "white")):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "pictures" / f"{name}.png")


@pytest.mark.parametrize(("command", "line", "code"), RUNS)
def test_a_command_prints_what_the_page_says(
    install: Callable[..., Path],
    ddpo: Callable[..., Any],
    pictures: None,
    command: str,
    line: str,
    code: int | None,
) -> None:
    if TOY not in line:  # the toy has a `brightness` of its own
        install("good", "broken-import")
    shell = ddpo(*shlex.split(line), "--json")
    name = command if command == FAILED else f"ddpo {command}"
    assert against_page(name, shell.out) == []
    assert code is None or shell.code == code


def test_every_command_that_takes_json_is_on_the_page_and_is_tried() -> None:
    have = {
        " ".join(path)
        for running in RUNNING
        for path, parameters in leaves(typer.main.get_command(make_app(running)), ["ddpo"])
        if any("--json" in parameter.opts for parameter in parameters)
    }
    said = {command.removesuffix(" --dry-run") for command in COMMANDS} - {FAILED}
    assert have == said
    tried = {getattr(run, "values", run)[0] for run in RUNS}
    assert {f"ddpo {command}" for command in tried - {FAILED}} == set(COMMANDS) - {FAILED}


def leaves(command: Any, path: list[str]) -> Iterator[tuple[list[str], list[Any]]]:
    if not hasattr(command, "commands"):
        yield path, command.params
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, [*path, name])


# ---- the page's own examples -------------------------------------------------------------------------

EXAMPLES = re.findall(r"### `(ddpo [^`]*) --json`\n\n```json\n(.*?)\n```", PAGE, re.S)


def test_there_is_an_example_for_each_kind_of_command() -> None:
    assert len(EXAMPLES) == PAGE.count("```json") == 9


@pytest.mark.parametrize(("line", "text"), EXAMPLES, ids=[line for line, _ in EXAMPLES])
def test_an_example_is_as_the_tables_say(line: str, text: str) -> None:
    command = "ddpo train --dry-run" if "--dry-run" in line else " ".join(line.split()[:3])
    assert against_page(FAILED if "error" in json.loads(text) else command, text) == []


# ---- the comparison can fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (1, "text", "x: 1 is no text"),
        (True, "whole number", "x: True is no whole number"),
        (1.5, "whole number", "x: 1.5 is no whole number"),
        (None, "number", "x: None is no number"),
        ("a", "number, or null", "x: 'a' is no number"),
        ([1, "a"], "list of number", "x[1]: 'a' is no number"),
        ({"a": [1]}, "map to list of text", "x.a[0]: 1 is no text"),
        ({"what": "a"}, "[fault](#fault)", "x.mend is missing"),
        ({"what": "a", "mend": "b", "c": 1}, "[fault](#fault)", "x.c is not on the page"),
        ([{"what": 1, "mend": "b"}], "list of [fault](#fault)", "x[0].what: 1 is no text"),
    ],
)
def test_a_difference_is_told(value: Any, kind: str, problem: str) -> None:
    assert wrong(value, kind, "x") == [problem]
