"""`RewardContract` and the pytest plugin, as an author's own tests use them: in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpo_core.errors import BrokenPlugin, UnknownName, UsageError
from ddpo_core.testing import subjects
from ddpo_core.testing.contract import CHECKS

AUTHORS = """
import torch
from ddpo_core.testing import RewardContract


class TestBrightness(RewardContract):
    spec = "brightness,gamma=2"

    def better(self):
        return torch.full((2, 3, 8, 8), 0.9)

    def worse(self):
        return torch.full((2, 3, 8, 8), 0.2)

    def test_half_is_a_quarter(self, reward, example_prompts):
        assert reward(torch.full((1, 3, 8, 8), 0.5), example_prompts[:1]).tolist() == [0.25]


def test_fixtures(example_images, example_prompts, build_reward):
    dark, bright = (build_reward(f"brightness,gamma={gamma}") for gamma in (3, 1))
    assert (dark(example_images, example_prompts) < bright(example_images, example_prompts)).all()


def test_no_reward_here(reward):
    pass


class TestDark(RewardContract):
    spec = "./dark.py"
"""
DARK = """
from ddpo_core import RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    yield RewardInfo(name="dark", summary="how dark", factory="dark:Dark", range=(0.0, 1.0))


class Dark:
    def __call__(self, images, prompts):
        return -images.mean((1, 2, 3))
"""


def test_every_check_is_a_test_of_a_readable_name_beside_the_authors_own(tmp_path, install):
    install("good", "exits", "broken-import")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["ddpo_core.testing.plugin"]\n')
    (tmp_path / "test_it.py").write_text(AUTHORS)
    (tmp_path / "dark.py").write_text(DARK)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist", "test_it.py"]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    for check in CHECKS:
        assert f"::TestBrightness::test_contract[{check.key}] " in printed
    assert "test_half_is_a_quarter PASSED" in printed
    assert "TestBrightness::test_contract[direction] PASSED" in printed
    assert "TestBrightness::test_contract[gradient] SKIPPED" in printed
    assert "say licence in the RewardInfo" in printed  # a warning
    assert "test_fixtures PASSED" in printed
    assert "the fixture `reward` builds the `spec` of the RewardContract around it" in printed
    # a breach is one line
    assert "TestDark::test_contract[range] FAILED" in printed
    assert "\nreward 'dark': expected scores in the declared range 0 … 1, got -0." in printed
    assert "Traceback" not in printed
    last = printed.splitlines()[-1]
    assert "1 failed" in last and "2 warnings, 1 error" in last


# ---- which plugin is loaded --------------------------------------------------------------------------


def test_only_the_plugin_in_question_is_loaded(install, monkeypatch):
    install("good", "exits", "broken-import")
    monkeypatch.setenv("DDPO_STRICT_PLUGINS", "1")  # of the others, each would raise
    subject = subjects.find("brightness,gamma=2")
    assert subject.name == "reward 'brightness'"
    assert subject.build({}).gamma == 2
    assert "ddpo_reward_exits" not in sys.modules


def test_an_alias_and_a_qualified_name_are_found(install):
    install("good", "name-clash")
    assert subjects.find("bright").listed == "ddpo_reward_brightness"
    assert subjects.find("acme-brightness/brightness").listed == "acme_brightness"


def test_a_plugin_that_is_asked_for_and_broken_says_why(install):
    install("broken-import")
    with pytest.raises(BrokenPlugin, match="ddpo-reward-broken"):
        subjects.find("ddpo-reward-broken/broken")
    with pytest.raises(BrokenPlugin, match="ddpo-reward-broken"):
        subjects.find("broken")


def test_a_reward_that_is_not_there_gets_the_nearest(install):
    install("good")
    with pytest.raises(
        UnknownName, match="no reward named 'brightnes' is installed; did you mean 'brightness'"
    ):
        subjects.find("brightnes")


def test_a_file_with_two_rewards_is_not_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two = DARK.replace("dark:Dark", "two_dark:Dark")
    again = two.splitlines()[8].replace('name="dark"', 'name="darker"')
    Path("two_dark.py").write_text(two.replace(two.splitlines()[8], f"{two.splitlines()[8]}\n{again}"))
    with pytest.raises(
        UsageError, match=r"expected one reward in two_dark.py, got reward 'dark', reward 'darker'"
    ):
        subjects.find("two_dark.py")
    sys.modules.pop("two_dark", None)


def test_the_judges_of_a_model_are_options_that_the_spec_leaves_open():
    from ddpo_core.info import Option, RewardInfo

    info = RewardInfo(name="a", summary="", factory="x:y", options=(Option(name="clip", type="str"),))
    judges = {"a": {"clip": "small", "other": 1}, "b": {"clip": "large"}}
    assert subjects.suiting(info, judges) == {"clip": "small"}
