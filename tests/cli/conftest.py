"""What the tests of the command line share: a registry with toys, and a shell."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ddpo_core.discovery import Registry, registry

TOY_WORLD = Path(__file__).parent / "toy_world.py"


@pytest.fixture
def toys() -> Registry:
    """ddpo's own parts and the toy plugin."""
    spec = importlib.util.spec_from_file_location("toy_world", TOY_WORLD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_world"] = module
    spec.loader.exec_module(module)
    return Registry.of(module)


@dataclass(frozen=True)
class Shell:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def ddpo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Shell]]:
    """`ddpo("train", "--reward", …)` in an empty folder, with no plugin but those that are named."""
    from ddpo_cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPO_ONLY", "")
    monkeypatch.setenv("NO_COLOR", "1")
    registry.cache_clear()

    def run(*arguments: object) -> Shell:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Shell(code, captured.out, captured.err)

    yield run
    registry.cache_clear()


VOID = {"meta", "img", "line", "circle", "br"}


class PageChecker(HTMLParser):
    """Tags that do not match, and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.images: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = {key: value or "" for key, value in attrs}
        self.images += [values["src"]] if tag == "img" else []
        self.fetched += [v for k, v in values.items() if k in ("src", "href") and not v.startswith("data:")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def checked() -> Callable[[str], PageChecker]:
    """`checked(page)`: what is in a page, whose tags all match."""

    def check(page: str) -> PageChecker:
        checker = PageChecker()
        checker.feed(page)
        assert checker.open == []
        return checker

    return check
