"""What the tutorial and the how-to pages show is true: their files are written, their commands typed.

    ```python title="redness.py"     a file, in an empty folder that belongs to the page
    ```python                        runs in one namespace for the whole page
    ```console                       `$ command`, then what it prints; … stands for what varies

A block after `<!-- slow -->` runs in slow tests only, one after `<!-- not run: why -->` never. A run of many
epochs has one here, and what it prints is not compared.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
OTHERS = ("tutorial.md", "pocket.md", "reference/spec-grammar.md")
PAGES = sorted([*(DOCS / name for name in OTHERS), *DOCS.glob("how-to/*.md")])
OURS = ("ddpo-pocket", "ddpo-reward-jpeg", "ddpo-reward-aesthetic")  # what the pages take for installed

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>slow|not run: [^>]+?) -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
VARIES = "…"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    title: str
    text: str
    slow: bool


@dataclass(frozen=True)
class Typed:
    """A command of a console block, and what the page says that it prints."""

    command: str
    shown: str


def blocks_of(page: str) -> Iterator[Block]:
    """The blocks that can be run, in order."""
    for match in BLOCK.finditer(page):
        mark = match["mark"] or ""
        if not mark.startswith("not run"):
            line = page.count("\n", 0, match.start("language")) + 1
            yield Block(line, match["language"], match["title"] or "", match["text"], mark == "slow")


def typed_in(block: Block) -> Iterator[Typed]:
    """The commands of a console block."""
    head, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not head.strip(), f"line {block.line}: a console block begins with `$ `"
    for part in parts:
        command, _, shown = part.partition("\n")
        yield Typed(command, shown)


def agrees(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed: … is anything, and how wide a column is does not matter."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == VARIES else re.escape(line).replace(VARIES, ".*?") + r"\n"
        for line in _narrow(shown)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _narrow(printed))) is not None


def _narrow(text: str) -> list[str]:
    lines = [re.sub(r"([ ─])\1+", r"\1", line).strip() for line in text.strip().splitlines()]
    return [line for line in lines if line]


@dataclass
class Reader:
    """Somebody who does what a page says, in a folder of their own."""

    folder: Path
    install: Callable[[Path], None]  # what `pip install -e FOLDER` does
    names: dict[str, Any] = field(default_factory=dict)
    here: Path = field(init=False)

    def __post_init__(self) -> None:
        self.here = self.folder

    def read(self, page: Path, *, slow: bool) -> None:
        """Do everything, or all but what is slow. Raises `AssertionError` that names page and line."""
        for block in blocks_of(page.read_text(encoding="utf-8")):
            if slow or not block.slow:
                self._do(block, f"{page.name}, line {block.line}")

    def _do(self, block: Block, where: str) -> None:
        if block.title:
            file = self.here / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            with chdir(self.here):
                exec(compile(block.text, where, "exec"), self.names)
        elif block.language == "console":
            for typed in typed_in(block):
                self._type(typed, where)

    def _type(self, typed: Typed, where: str) -> None:
        command = re.sub(r"--epochs \d+", "--epochs 1", typed.command)
        code, printed = self.run(command)
        fails = typed.shown.startswith("error:")
        assert (code != 0) == fails, f"{where}: `{typed.command}` ended with {code}\n{printed}"
        if typed.shown.strip() and command == typed.command:
            assert agrees(typed.shown, printed), f"{where}: `{typed.command}` printed\n{printed}"

    def run(self, command: str) -> tuple[int, str]:
        """Exit code, and what was printed on stdout and stderr."""
        words = shlex.split(command)
        if words[0] == "cd":
            self.here = (self.here / words[1]).resolve()
            return 0, ""
        if words[:3] == ["pip", "install", "-e"]:
            self.install((self.here / words[3].partition("[")[0]).resolve())
            return 0, ""
        with chdir(self.here):
            if words[0] == "ddpo":
                return self._ddpo(words[1:])
            if words[0] == "python" and words[1].endswith(".py"):
                return _printed(lambda: _script(words[1:]))
            return _shell(command)

    def _ddpo(self, words: list[str]) -> tuple[int, str]:
        from ddpo_cli.main import main
        from ddpo_core.discovery import registry

        registry.cache_clear()
        return _printed(lambda: main(words))


def _printed(call: Callable[[], int]) -> tuple[int, str]:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = call()
    return code, printed.getvalue()


def _script(words: list[str]) -> int:
    before, sys.argv = sys.argv, words
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv = before
    return 0


def _shell(command: str) -> tuple[int, str]:
    """In a shell that finds this environment's programs first."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PATH": programs},
        check=False,
    )
    return done.returncode, done.stdout


# ---- the pages ---------------------------------------------------------------------------------------


@pytest.fixture
def reader(tmp_path: Path, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Somebody with an empty folder, ddpo, the pocket model and a few rewards."""
    site = install()
    monkeypatch.setenv("DDPO_ONLY", ",".join(OURS))
    monkeypatch.setenv("PYTHONPATH", str(site))  # for the programs that a page starts
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    folder = tmp_path / "empty"
    folder.mkdir()
    home = tmp_path / "home"  # a page may write there: never into the home of who runs the tests
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for elsewhere in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR"):
        monkeypatch.delenv(elsewhere, raising=False)
    monkeypatch.syspath_prepend(folder)  # as where Python is started
    modules = set(sys.modules)
    yield Reader(folder, lambda distribution: install(str(distribution)))
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_is_what_happens(page: Path, reader: Reader) -> None:
    reader.read(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- slow -->" in page.read_text()], ids=lambda page: page.stem
)
def test_what_a_page_shows_is_what_happens_with_its_training(page: Path, reader: Reader) -> None:
    reader.read(page, slow=True)


# ---- the reader --------------------------------------------------------------------------------------


def test_a_page_that_shows_something_else_is_found(tmp_path: Path, reader: Reader) -> None:
    page = tmp_path / "page.md"
    page.write_text("One.\n\n```console\n$ echo two\nthree\n```\n")
    with pytest.raises(AssertionError, match=r"page.md, line 3: `echo two` printed\n\s*two"):
        reader.read(page, slow=False)


def test_a_command_that_fails_is_found_and_one_that_is_shown_to_fail_is_not(
    tmp_path: Path, reader: Reader
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ false\n```\n")
    with pytest.raises(AssertionError, match="`false` ended with 1"):
        reader.read(page, slow=False)
    page.write_text("```console\n$ ddpo rewards show jepg\nerror: …did you mean 'jpeg'…\n…\n```\n")
    reader.read(page, slow=False)
    page.write_text("```console\n$ echo fine\nerror: …\n```\n")
    with pytest.raises(AssertionError, match="`echo fine` ended with 0"):
        reader.read(page, slow=False)


def test_files_stand_where_the_page_has_gone_and_python_remembers(tmp_path: Path, reader: Reader) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '```python title="deep/one.py"\nX = 1\n```\n\n```console\n$ cd deep\n$ cat one.py\nX = 1\n```\n\n'
        "```python\nfrom pathlib import Path\n```\n\n```python\nassert Path('one.py').exists()\n```\n"
    )
    reader.read(page, slow=False)


def test_a_page_that_writes_into_its_readers_home_writes_into_none_that_is_real(
    tmp_path: Path, reader: Reader
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ touch ~/written\n```\n\n"
        "```python\nfrom pathlib import Path\n\nhome = Path.home()\n```\n"
    )
    reader.read(page, slow=False)
    assert reader.names["home"] == tmp_path / "home"
    assert (tmp_path / "home/written").exists()


def test_slow_blocks_wait_for_slow_tests_and_others_never_run(tmp_path: Path, reader: Reader) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: no GPU here -->\n```console\n$ false\n```\n\n<!-- slow -->\n```console\n$ false\n```\n"
    )
    reader.read(page, slow=False)
    with pytest.raises(AssertionError, match=r"page.md, line 7: `false`"):
        reader.read(page, slow=True)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  b", "a      b", True),  # how wide a column is does not matter
        ("mean … of 4", "mean 0.27 ± 0.01 of 4", True),
        ("mean … of 4", "mean 0.27\nof 4", False),  # … within a line stays in it
        ("first\n…\nlast", "first\nlast", True),
        ("first\n…\nlast", "first\n2\n3\nlast", True),
        ("first\nlast", "first\n2\nlast", False),
        ("a.b", "axb", False),  # no pattern but …
    ],
)
def test_what_is_shown_agrees_with_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert agrees(shown, printed) is same
