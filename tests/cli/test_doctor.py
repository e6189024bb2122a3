"""`ddpo doctor`: every fault is named, with what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpo_cli import doctor
from ddpo_cli.main import main

Install = Callable[..., Path]
ALL_BAD = ("broken-import", "exits", "misspelt-hook", "future-api")


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for devices imports torch, which takes seconds."""
    monkeypatch.setattr(doctor, "_devices", lambda: ["cpu (2 cores)"])


def test_without_faults_it_says_so_and_exits_with_0(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "no faults found" in out
    assert "ddpo-reward-brightness" in out


def test_every_broken_plugin_is_a_fault_and_it_exits_with_3(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good", *ALL_BAD)
    assert main(["doctor"]) == 3
    out = capsys.readouterr().out
    for distribution in ("broken", "exits", "misspelt", "future"):
        assert f"fault: plugin ddpo-reward-{distribution} is not loaded" in out


def test_a_missing_package_is_a_fault_with_the_command_that_mends_it(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("heavy-import")
    assert main(["doctor", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == [
        {
            "what": "package 'package_that_nobody_has' is missing; needed by reward heavy",
            "mend": 'pip install "ddpo-reward-heavy[judge]"',
        }
    ]
    assert not report["ok"]
    assert report["versions"]["ddpo"]
