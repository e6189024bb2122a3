"""`ddpo … list`, `ddpo … show` and the error boundary around every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpo_cli import listing
from ddpo_cli import main as program
from ddpo_cli.main import main
from ddpo_core.errors import RewardError

Install = Callable[..., Path]
HEAVY = ("torch", "numpy", "PIL", "transformers", "diffusers")


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_rewards_list_shows_name_alias_origin_and_summary(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good")
    code, out, err = told(capsys, "rewards", "list")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split("  ") == [
        "brightness, bright",
        "ddpo-reward-brightness 0.3.0",
        "Mean brightness of the picture",
    ]


@pytest.mark.parametrize("noun", listing.NOUNS)
def test_the_bare_noun_lists(
    noun: listing.Noun, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good")
    assert told(capsys, noun.command) == told(capsys, noun.command, "list")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("rewards", "show", "bright"), "brightness"),
        (("samplers", "show", "ddim"), "ddim"),
        (("estimators", "show", "ddpo-is"), "ddpo-is"),
        (("models", "show", "sd"), "stable-diffusion"),
        (("prompts", "show", "animals"), "animals"),
    ],
)
def test_show_tells_of_one_thing_to_people_and_to_programs(
    argv: tuple[str, ...], name: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good")
    code, out, _ = told(capsys, *argv)
    assert (code, out.partition(":")[0]) == (0, name)
    code, out, _ = told(capsys, *argv, "--json")
    answer = json.loads(out)
    assert answer.pop("schema") == 1
    (described,) = answer.values()
    assert (code, described["name"]) == (0, name)


def test_show_tells_the_range_the_options_and_how_a_reward_is_fooled(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good")
    _, out, _ = told(capsys, "rewards", "show", "brightness")
    for text in (
        "0 to 1",
        "brighter",
        "white pictures",
        "each image by itself",
        "float 0.1 to 10",
        "red|green|blue",
    ):
        assert text in out


def test_json_has_null_where_a_bound_is_infinite(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("name-clash")
    _, out, _ = told(capsys, "rewards", "list", "--json")
    assert json.loads(out)["rewards"][0]["range"] == [None, None]


def test_rewards_of_one_name_are_both_listed_by_the_name_that_works(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good", "name-clash")
    _, out, _ = told(capsys, "rewards", "list")
    assert [line.split()[0].rstrip(",") for line in out.splitlines()[1:]] == [
        "acme-brightness/brightness",
        "ddpo-reward-brightness/brightness",
    ]
    assert told(capsys, "rewards", "show", "brightness")[0] == 2


def test_a_broken_plugin_is_a_warning_on_stderr_and_the_rest_is_listed(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good", "exits")
    code, out, err = told(capsys, "rewards", "list")
    assert code == 0
    assert "brightness" in out
    assert "exits" not in out
    assert "ddpo-reward-exits 0.3.0 is not loaded: it exits when imported" in err
    assert "DDPO_BLOCK=ddpo-reward-exits" in err


def test_plugins_list_shows_what_each_provides_and_why_one_is_broken(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good", "broken-import", "future-api")
    code, out, _ = told(capsys, "plugins", "list")
    lines = {line.split()[0]: " ".join(line.split()) for line in out.splitlines()}
    assert code == 0
    assert "samplers: ddim" in lines["ddpo"]
    assert "rewards: brightness" in lines["ddpo-reward-brightness"]
    assert "broken it needs the package" in lines["ddpo-reward-broken"]
    assert "incompatible it was written for" in lines["ddpo-reward-future"]
    _, out, _ = told(capsys, "plugins", "list", "--json")
    statuses = {plugin["distribution"]: plugin["status"] for plugin in json.loads(out)["plugins"]}
    assert statuses["ddpo-reward-future"] == "incompatible"


def test_version_lists_ddpo_and_its_plugins(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("good", "exits")
    code, out, _ = told(capsys, "--version")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("ddpo ")
    assert "ddpo-reward-brightness 0.3.0" in lines
    assert "ddpo-reward-exits 0.3.0  (broken: it exits when imported)" in lines


def test_an_unknown_name_is_one_message_a_hint_and_exit_code_2(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good")
    code, out, err = told(capsys, "rewards", "show", "brihgtness")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "error: no reward named 'brihgtness' is installed; did you mean 'brightness'?",
        "hint:  `ddpo rewards list` shows the one there is",
    ]


def test_a_broken_plugin_asked_for_by_name_is_exit_code_3(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken-import")
    code, out, _ = told(capsys, "rewards", "show", "broken", "--json")
    assert code == 3
    assert json.loads(out)["error"]["kind"] == "BrokenPlugin"


@pytest.mark.parametrize(
    "argv", [("rewards", "list", "--nosuch"), ("rewards", "nosuch"), ("rewards", "show")]
)
def test_wrong_usage_is_exit_code_2_with_json_where_it_was_asked_for(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "--help` shows what it takes" in err
    code, out, err = told(capsys, *argv, "--json")
    assert (code, err) == (2, "")
    assert set(json.loads(out)["error"]) == {"kind", "message", "hint"}


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RewardError("reward 'x' returned NaN"), 1, "error: reward 'x' returned NaN"),
        (ZeroDivisionError("oh"), 1, "error: unexpected ZeroDivisionError: oh"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_told_without_a_traceback_unless_debug(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(program.listing, "list_entries", fail)
    got, _, err = told(capsys, "rewards", "list")
    assert (got, "Traceback" in err) == (code, False)
    assert err.startswith(text)
    _, _, err = told(capsys, "rewards", "list", "--debug")
    assert ("Traceback" in err) == (code == 1)


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys)
    assert code == 0
    assert "Usage: ddpo" in out


@pytest.mark.parametrize(
    "argv", [["rewards", "list"], ["prompts", "list"], ["estimators", "show", "ddpo-is"], ["--help"]]
)
def test_looking_around_imports_nothing_heavy(argv: list[str], install: Install) -> None:
    site = install("good")
    code = (
        "import sys; from ddpo_cli.main import main; "
        f"code = main({argv!r}); print([m for m in {HEAVY!r} if m in sys.modules], code, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert run.stderr.splitlines()[-1] == "[] 0"
