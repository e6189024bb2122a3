"""A stranger's reward, installed, trains with no other change; their broken neighbours stop nothing."""

from pathlib import Path

import pytest

from ddpo_cli.run_folder import RunFolder

TOY_WORLD = Path(__file__).parent / "toy_world.py"
TOY = (
    "--plugin", TOY_WORLD, "--model", "toy", "--device", "cpu", "--tracker", "none", "--epochs", 1,
    "--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 2,
)  # fmt: skip


@pytest.fixture
def strangers(ddpo, install):
    """The shell, with distributions of third parties installed beside the toy model."""

    def installed(*folders):
        install(*folders)
        return ddpo

    return installed


def test_an_installed_reward_of_somebody_else_is_listed_and_trains(strangers):
    ddpo = strangers("good")
    assert "ddpo-reward-brightness 0.3.0" in ddpo("rewards", "list").out
    done = ddpo(
        "train", "--reward", "ddpo-reward-brightness/brightness:1,gamma=2,as=glow", "--out", "run", *TOY
    )
    assert done.code == 0, done.err
    assert RunFolder(Path("run")).read_metrics()[0]["reward/glow/mean"] > 0
    assert "ddpo-reward-brightness" in Path("run/plugins.json").read_text()


def test_broken_neighbours_are_named_and_stop_nothing(strangers):
    ddpo = strangers("good", "broken-import", "exits", "misspelt-hook", "future-api")
    done = ddpo("train", "--reward", "bright", "--out", "run", *TOY)
    assert done.code == 0, done.err
    listed = ddpo("plugins", "list").out
    assert listed.count("broken") >= 3 and "incompatible" in listed


def test_a_broken_plugin_that_is_asked_for_by_name_ends_with_the_code_of_the_environment(strangers):
    ddpo = strangers("broken-import")
    (name,) = [line.split()[0] for line in ddpo("plugins", "list").out.splitlines() if "broken" in line]
    done = ddpo("train", "--reward", f"{name}/anything", "--out", "run", *TOY)
    assert done.code == 3
    assert name in done.err and "Traceback" not in done.err
