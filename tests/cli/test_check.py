"""`ddpo rewards check`: of an installed reward, of a loose file, of a folder that is not installed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

TOY = ("--plugin", Path(__file__).parent / "toy_world.py")
THIRD_PARTY = Path(__file__).parents[1] / "third_party"

LOOSE = """
from ddpo_core import RewardInfo, hookimpl

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    yield RewardInfo(
        name="redness", summary="how red", factory="loose:Redness", range=(-1.0, 1.0), higher_is="redder",
        fooled_by="a red square", licence="MIT",
    )


class Redness:
    def __call__(self, images, prompts):
        red, green, blue = images.unbind(1)
        return RETURNED
"""
GOOD = "(red - (green + blue) / 2).mean((1, 2))"


@pytest.fixture(autouse=True)
def modules_are_forgotten(monkeypatch):
    """Each test may load a plugin of a name that another one had."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("loose", "ddpo_reward_brightness", "a_broken_plugin"):
            del sys.modules[name]


@pytest.fixture
def loose(tmp_path):
    """`loose("…")`: a plugin file whose reward returns that."""

    def write(returned=GOOD):
        (tmp_path / "loose.py").write_text(LOOSE.replace("RETURNED", returned))
        return "loose.py"

    return write


@pytest.fixture
def squares(tmp_path):
    """Folders of red and of blue pictures."""
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        for shade in (200, 255):
            pixel = (shade, 0, 0) if colour == "red" else (0, 0, shade)
            Image.new("RGB", (8, 8), pixel).save(tmp_path / colour / f"{shade}.png")


def checks(done):
    (reward,) = json.loads(done.out)["rewards"]
    return {each["check"]: each for each in reward["checks"]}


def test_a_good_loose_file_keeps_the_contract(ddpo, loose):
    done = ddpo("rewards", "check", loose())
    assert done.code == 0, done.out + done.err
    lines = done.out.splitlines()
    assert lines[0] == "redness: how red"
    assert "  ✓  gives one score per image" in lines
    assert "✗" not in done.out
    assert "images/s in batches of 5, 64 × 64 pixels" in done.out


def test_everything_that_is_broken_is_told_and_the_command_fails(ddpo, loose):
    done = ddpo("rewards", "check", loose("(torch.rand(1) * 0 + 5 + red.mean((1, 2))).squeeze()"))
    assert done.code == 1
    assert (
        "✗  gives one score per image              expected scores for the example pictures, got NameError"
        in done.out
    )
    done = ddpo("rewards", "check", loose(GOOD.replace("mean", "sum")), "--json")
    assert done.code == 1
    failed = {key: each["told"] for key, each in checks(done).items() if each["status"] == "failed"}
    assert list(failed) == ["range"]
    assert failed["range"].startswith("expected scores in the declared range -1 … 1, got ")


def test_several_failures_are_all_told(ddpo, loose):
    done = ddpo(
        "rewards", "check", loose("(7 + images.clamp_(0.2, 0.8).mean((1, 2, 3))) / len(images)"), "--json"
    )
    assert done.code == 1 and json.loads(done.out)["ok"] is False
    failed = [key for key, each in checks(done).items() if each["status"] == "failed"]
    assert failed == ["inputs", "alone", "range"]


def test_the_direction_is_held_to_pictures_that_are_known(ddpo, loose, squares):
    done = ddpo("rewards", "check", loose(), "--better", "red", "--worse", "blue", "--json")
    assert checks(done)["direction"]["status"] == "passed"
    assert checks(done)["direction"]["told"].endswith("100% of the pairs are in order")
    done = ddpo("rewards", "check", loose(), "--better", "blue", "--worse", "red")
    assert done.code == 1 and "✗  scores better pictures higher" in done.out


def test_better_pictures_need_worse_ones(ddpo, loose, squares):
    done = ddpo("rewards", "check", loose(), "--better", "red")
    assert done.code == 2 and "--better expects --worse beside it" in done.err


def test_pictures_and_prompts_of_ones_own(ddpo, loose, squares, tmp_path):
    returned = "[len(prompt.text) + image.shape[-1] for image, prompt in zip(images, prompts)]"
    (tmp_path / "red" / "200.txt").write_text("four")
    done = ddpo("rewards", "check", loose(returned), "--images", "red", "--json")
    assert "got 12 for one of the example pictures" in checks(done)["range"]["told"]  # 8 pixels, 4 letters
    (tmp_path / "texts.txt").write_text("a\nbcd\n")
    done = ddpo("rewards", "check", loose(returned), "--images", "red", "--prompts", "texts.txt", "--json")
    assert "got 9 for one of the example pictures" in checks(done)["range"]["told"]


def test_pictures_of_two_sizes_are_refused(ddpo, loose, squares, tmp_path):
    Image.new("RGB", (6, 8)).save(tmp_path / "red" / "small.png")
    done = ddpo("rewards", "check", loose(), "--images", "red")
    assert done.code == 2 and "of one size; got 6 × 8 and 8 × 8" in done.err


def test_an_installed_reward_is_checked_with_its_options(ddpo, install):
    install("good", "exits")
    done = ddpo("rewards", "check", "brightness,gamma=2", "--json")
    assert done.code == 0, done.out + done.err
    found = checks(done)
    assert found["options"]["told"] == "gamma, channel"
    assert found["bounds"]["told"] == "5 tried"  # two ends of gamma, three channels
    assert found["light"]["status"] == "passed"


def test_a_folder_is_checked_without_being_installed(ddpo, tmp_path):
    shutil.copytree(THIRD_PARTY / "good", tmp_path / "brightness")
    for path in ("brightness", "./brightness", tmp_path / "brightness"):
        assert ddpo("rewards", "check", path).code == 0


def test_the_judges_of_a_model_are_taken(ddpo):
    done = ddpo("rewards", "check", "brightness", "--model", "dim-toy", "--json", *TOY)
    assert done.code == 0, done.out + done.err
    dim, plain = checks(done), checks(ddpo("rewards", "check", "brightness", "--json", *TOY))
    assert dim["range"]["told"] == plain["range"]["told"] == "it declares no range"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("brightnes", *TOY), "did you mean 'brightness'?"),
        (("brightness,gama=2", *TOY), "did you mean 'gamma'?"),
        (("nowhere.py",), "there is no file or folder nowhere.py"),
        (("./nowhere",), "there is no file or folder nowhere"),
        ((".",), "expected the folder of a plugin, with a pyproject.toml in it"),
        (("./empty",), "expected the folder of a plugin, with a pyproject.toml in it"),
        (("./no-hook",), "expected an entry point in the group ddpo, got none"),
        (("./broken",), "plugin broken: it needs the package 'not_there'"),
    ],
)
def test_what_cannot_be_checked_is_one_clear_line(ddpo, tmp_path, arguments, message):
    for folder in ("empty", "no-hook", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "no-hook" / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "broken" / "pyproject.toml").write_text(
        '[project]\nname = "broken"\n[project.entry-points.ddpo]\nbroken = "a_broken_plugin"\n'
    )
    (tmp_path / "broken" / "a_broken_plugin.py").write_text("import not_there\n")
    done = ddpo("rewards", "check", *arguments)
    assert done.code in (2, 3) and message in done.err
