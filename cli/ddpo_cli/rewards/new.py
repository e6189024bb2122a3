"""`ddpo rewards new`: a distribution to start from, which installs, passes its tests and trains as it stands.

The files are under templates/reward: those of every kind in `common/`, the others in a folder for each kind.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ddpo_core import __version__
from ddpo_core.discovery import registry
from ddpo_core.errors import UsageError
from ddpo_core.hookspecs import PLUGIN_API
from ddpo_core.nearest import did_you_mean
from ddpo_core.plugins import canonical

TEMPLATES = Path(__file__).parents[1] / "templates/reward"
WEIGHTS = "src/PACKAGE/weights.safetensors"
PREFIX = "ddpo-reward-"


@dataclass(frozen=True)
class Kind:
    """A kind of reward, and the example of it that is written."""

    name: str  # its folder of templates
    summary: str  # of the example, where the author gives none
    dependencies: tuple[str, ...] = ()  # besides ddpo
    files: Mapping[str, str] = field(default_factory=dict)  # besides FILES


FILES = {
    "src/PACKAGE/reward.py": "what it measures: begin here",
    "src/PACKAGE/__init__.py": "what it says of itself: name, options, range, how it is fooled",
    "tests/test_NAME.py": "the contract, and scores told by hand",
    "README.md": "questions to answer before you publish, the licence among them",
    "pyproject.toml": "the distribution and its entry point",
    ".github/workflows/test.yml": "the tests, on each push",
    ".gitignore": "",
}  # path → what it is for, in the order to read them
KINDS = {
    kind.name: kind
    for kind in (
        Kind("sample", "how near a picture's brightness is to the one wanted"),
        Kind("group", "how far a prompt's pictures are apart in colour", ("numpy>=1.26",)),
        Kind(
            "model",
            "how sharp a picture is to a small network",
            ("torch>=2.4", "safetensors>=0.4", "huggingface_hub>=0.24"),
            {WEIGHTS: "the network's weights"},
        ),
        Kind(
            "remote",
            "what a judge behind an HTTP server says",
            ("torch>=2.4", "httpx2>=2.16", "pillow>=10"),
            {"tests/little_server.py": "a judge to try it with"},
        ),
    )
}


def new(
    name: Annotated[
        str, typer.Argument(help="The reward's name: words in lower case, joined by '-'.", metavar="NAME")
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="What it judges: each picture by itself; the pictures of one prompt together; each with a"
            " model whose weights it loads; each by asking a server.",
            metavar="|".join(KINDS),
        ),
    ] = "sample",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write, new or empty (default: ddpo-reward-NAME).",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    summary: Annotated[
        str,
        typer.Option(
            help="What it measures, in one line for `ddpo rewards list`.", metavar="TEXT", show_default=False
        ),
    ] = "",
    author: Annotated[
        str, typer.Option(help="Whom pyproject.toml names.", metavar="TEXT", show_default=False)
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Although an installed reward has the name.")
    ] = False,
) -> None:
    """Write a distribution with a reward in it: package, tests, README and CI.

    It installs, passes its tests and trains as it stands: put your own measure in the example's place.

    ddpo rewards new redness

    ddpo rewards new sharpness --kind model --summary "how sharp a picture is"
    """
    example = kind_called(kind)
    check_name(name)
    if not force:
        check_unused(name)
    folder = out or Path(PREFIX + name)
    check_empty(folder)
    words = words_of(name, example, one_line("summary", summary), one_line("author", author))
    write(folder, example, words)
    print(told(folder, example, words))


# ---- what is refused ---------------------------------------------------------------------------------


def kind_called(name: str) -> Kind:
    """The kind of that name. Raises `UsageError`."""
    if name not in KINDS:
        raise UsageError(
            f"--kind expects one of {', '.join(KINDS)}; got '{name}'{did_you_mean(name, KINDS)}",
            hint="`ddpo rewards new --help` says what each is",
        )
    return KINDS[name]


def check_name(name: str) -> None:
    """Raise `UsageError` for what would be no reward's name, with the nearest that would."""
    if name.startswith(PREFIX):
        raise UsageError(f"NAME is what --reward takes; '{PREFIX}' is put before it", hint=_new(name))
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(
            f"a reward's name is lower-case words joined by '-', as red-pixels; got '{name}'",
            hint=_new(name),
        )


def _new(name: str) -> str:
    """The command with the valid name that is nearest, or nothing."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    near = re.sub(r"[^a-z0-9]+", "-", words).strip("-").removeprefix(PREFIX).lstrip("0123456789-")
    return f"ddpo rewards new {near}" if near else ""


def check_unused(name: str) -> None:
    """Raise `UsageError` where an installed reward, or its distribution, has the name."""
    for entry in registry().entries("reward"):
        plugin = entry.plugin
        if entry.is_called(name) or canonical(plugin.distribution) == PREFIX + name:
            origin = f"{plugin.distribution} {plugin.version}".strip()
            raise UsageError(
                f"the name '{name}' is taken by {origin}, which is installed",
                hint="take another name; or write it all the same, with --force",
            )


def check_empty(folder: Path) -> None:
    """Raise `UsageError` where something would be overwritten."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} is there already, and nothing is overwritten",
            hint="name a folder that is new or empty: --out DIR",
        )


def one_line(flag: str, text: str) -> str:
    """The text, checked. Raises `UsageError` for what would break the files that it stands in."""
    if not text.isprintable():
        raise UsageError(f"--{flag} expects one line of text, got {text!r}")
    return text.strip()


# ---- writing -----------------------------------------------------------------------------------------


def words_of(name: str, kind: Kind, summary: str = "", author: str = "") -> dict[str, object]:
    """What the templates are told."""
    major, minor = __version__.split(".")[:2]
    return {
        "name": name,
        "distribution": PREFIX + name,
        "package": canonical(PREFIX + name).replace("-", "_"),
        # never a word that the example uses otherwise, or that Python does
        "class_name": "".join(word.capitalize() for word in name.split("-")) + "Reward",
        "kind": kind,
        "summary": summary or kind.summary,
        "author": author,
        "ddpo": f"ddpo>={major}.{minor},<{major}.{int(minor) + 1}",
        "api": PLUGIN_API,
        "sha256": hashlib.sha256(template(KINDS["model"], WEIGHTS).read_bytes()).hexdigest(),
    }


def write(folder: Path, kind: Kind, words: Mapping[str, object]) -> None:
    """Write the distribution into `folder`."""
    contents = {target: content(template(kind, path), words) for path, target in targets(kind, words)}
    for target, made in contents.items():
        file = folder / target
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made)


def targets(kind: Kind, words: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The files of a kind: the path of each in the tables above, and in the distribution."""
    name = str(words["name"]).replace("-", "_")
    for path in (*FILES, *kind.files):
        yield path, path.replace("PACKAGE", str(words["package"])).replace("NAME", name)


def template(kind: Kind, path: str) -> Path:
    """What a file is made from: a template, or the file as it is."""
    own, common = TEMPLATES / kind.name / path, TEMPLATES / "common" / f"{path}.jinja"
    made = own.with_name(f"{own.name}.jinja")
    return next(source for source in (made, own, common) if source.exists())


def content(source: Path, words: Mapping[str, object]) -> bytes:
    """A template, filled in; what is no template, as it is."""
    if source.suffix != ".jinja":
        return source.read_bytes()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    # a text in double quotes, as JSON, TOML and Python all read it
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    found = environment.get_template(source.relative_to(TEMPLATES).as_posix())
    return found.render(**words).encode()


# ---- telling -----------------------------------------------------------------------------------------


def told(folder: Path, kind: Kind, words: Mapping[str, object]) -> str:
    """What was written, and what to type next."""
    meanings = {**FILES, **kind.files}
    width = max(len(target) for _, target in targets(kind, words))
    files = [f"  {target.ljust(width)}  {meanings[path]}".rstrip() for path, target in targets(kind, words)]
    return "\n".join(
        [f"{folder}/", *files, "", "next:", *(f"  {line}" for line in next_steps(folder, kind, words))]
    )


def next_steps(folder: Path, kind: Kind, words: Mapping[str, object]) -> list[str]:
    """The commands from here to a trained model."""
    name = words["name"]
    return [
        f"cd {folder}",
        'pip install -e ".[test]"',
        *(["python tests/little_server.py &"] if kind.name == "remote" else []),
        f"ddpo rewards check {name}",
        "pytest",
        f"ddpo train --reward {name} --epochs 4",
    ]
