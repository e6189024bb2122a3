"""What the tests of the command line share: a registry with toys, and a shell."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
