"""A reward that fails or hangs: what a run does about it, counts, and says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ddpo_cli.failures import brief, tallies
from ddpo_cli.live import Header, LiveView
from ddpo_cli.run_folder import RunFolder
from ddpo_core import calls

HERE = Path(__file__).parent
TOY = (
    "--plugin", HERE / "toy_world.py", "--plugin", HERE / "toy_moods.py", "--model", "toy", "--device", "cpu",
    "--tracker", "none", "--image-count", 2, "--samples-per-epoch", 8, "--sample-batch-size", 4,
    "--updates-per-epoch", 2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.0)


def last_line(run):
    return RunFolder(Path(run)).read_metrics()[-1]


# Calls of the toy: one for the grid before training, then two in every epoch.


def test_a_call_that_is_made_again_is_counted_and_told(ddpo):
    reward = "moody,raises_at=[2],tries=2"
    done = ddpo("train", "--reward", reward, "--epochs", 1, "--out", "run", *TOY)
    assert done.code == 0, done.err
    line = last_line("run")
    counts = [line[f"reward/moody/{kind}"] for kind in ("failures", "retries", "timeouts")]
    assert counts == [0, 1, 0]
    assert "reward moody: 1 call was made again (tries=2)" in done.err
    assert "reward moody: 1 call was made again (tries=2)." in Path("run/report.html").read_text()
    (epoch,) = [line for line in done.err.splitlines() if line.startswith("epoch 1/1")]
    assert "1 retry" in epoch


def test_samples_of_a_call_that_took_too_long_are_dropped_and_told(ddpo):
    reward = "moody,sleeps_at=[2],time_limit=1,on_error=drop"
    done = ddpo("train", "--reward", reward, "--epochs", 1, "--out", "run", *TOY)
    assert done.code == 0, done.err
    told = (
        "reward moody: 4 of 8 samples had no score and were left out (on_error=drop);"
        " 1 call took longer than 1 s (time_limit)"
    )
    assert told in done.err and told in Path("run/report.html").read_text()
    line = last_line("run")
    assert (line["reward/moody/failures"], line["reward/moody/timeouts"]) == (4, 1)
    assert math.isfinite(line["reward/moody/mean"]) and math.isfinite(line["loss"])


def test_without_a_policy_a_call_that_took_too_long_ends_the_run_and_says_what_to_type(ddpo):
    reward = "moody,sleeps_at=[2],time_limit=0.1"
    done = ddpo("train", "--reward", reward, "--epochs", 1, "--out", "run", *TOY)
    assert done.code == 1
    assert "reward 'moody' had no answer" in done.err and "longer than 0.1 s (time_limit)" in done.err
    assert "--reward moody,time_limit=0.2" in done.err and "on_error=drop (or impute)" in done.err


def test_a_run_without_failures_says_nothing_of_them(ddpo):
    done = ddpo("train", "--reward", "moody,tries=3", "--epochs", 1, "--out", "run", *TOY)
    assert done.code == 0, done.err
    assert "reward moody:" in done.err  # its header
    for word in ("retry", "made again", "failed", "no score"):
        assert word not in done.err and word not in Path("run/report.html").read_text()


@pytest.mark.parametrize("policy", ["drop", "impute"])
def test_a_run_with_failures_goes_on_exactly_and_counts_from_its_beginning(ddpo, policy):
    settings = ("--reward", f"moody,silent_on=cd,on_error={policy},tries=2,time_limit=60", "--seed", 1, *TOY)
    ddpo("train", *settings, "--epochs", 4, "--out", "whole")
    ddpo("train", *settings, "--epochs", 2, "--out", "halves")
    resumed = ddpo("train", "--resume", "halves", "--epochs", 4)
    assert resumed.code == 0, resumed.err
    lines = [RunFolder(Path(run)).read_metrics() for run in ("whole", "halves")]
    passing = ("seconds/", "self_check/")
    timeless = [[{k: v for k, v in row.items() if not k.startswith(passing)} for row in run] for run in lines]
    assert timeless[0] == timeless[1]
    failed = sum(row["reward/moody/failures"] for row in lines[0])
    assert 0 < failed < 32
    fate = {"drop": "were left out", "impute": "got the mean of the others"}[policy]
    assert f"{failed:.0f} of 32 samples had no score and {fate} (on_error={policy})" in resumed.err


def test_the_live_view_tells_of_failures_only_where_there_are_any():
    view = LiveView(Console(width=100, file=open("/dev/null", "w"), record=True))  # noqa: SIM115
    view._header = Header("runs/x", 3, {"jpeg": "", "align": ""}, ())
    quiet = {f"reward/{label}/{what}": 0.0 for label in ("jpeg", "align") for what in ("mean", "stderr")}
    view._history = [{"epoch": 1, **quiet, "reward/align/failures": 3, "reward/align/retries": 1}]
    view._console.print(view._screen())
    shown = view._console.export_text()
    assert "align so far: 3 failed samples, 1 retry" in shown and "jpeg so far" not in shown


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, ""),
        ({"failures": 1}, "1 failed sample"),
        ({"failures": 2, "retries": 3, "timeouts": 1}, "2 failed samples, 3 retries, 1 time-out"),
    ],
)
def test_counts_are_told_in_a_few_words(counts, told):
    line = {f"reward/a/{kind}": count for kind, count in counts.items()}
    assert brief("a", line) == told


def test_a_run_of_an_older_ddpo_has_a_tally_too():
    (tally,) = tallies({"rewards": {"a": {"name": "a"}}}, [{"reward/a/failures": 2}] * 3, 10)
    assert (tally.failures, tally.samples, tally.retries) == (6, 30, 0)


def test_of_a_reward_that_never_failed_there_is_nothing_to_tell():
    assert tallies({"rewards": {"a": {"name": "a"}}}, [{"reward/a/failures": 0}, {}], 10) == []


def test_scoring_pictures_drops_what_cannot_be_scored_and_says_how_many(ddpo, tmp_path):
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("cat", "dog", "emu"):
        Image.new("L", (8, 8), 51).save(pictures / f"{name}.png")
        (pictures / f"{name}.txt").write_text(name)
    flags = ("--images", pictures, "--plugin", HERE / "toy_moods.py", "--json")
    done = ddpo("rewards", "score", "moody,silent_on=d,on_error=drop", *flags)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["count"], found["failures"]) == (2, 1)
    assert [each["score"] for each in found["images"]] == [pytest.approx(0.2), None, pytest.approx(0.2)]


@pytest.mark.parametrize(
    ("typed", "meant"), [("time_limt=3", "time_limit"), ("trys=2", "tries"), ("on_eror=drop", "on_error")]
)
def test_a_typo_in_what_every_reward_takes_gets_the_nearest(ddpo, typed, meant):
    done = ddpo("train", "--reward", f"moody,{typed}", "--dry-run", *TOY)
    assert done.code == 2
    assert f"did you mean '{meant}'?" in done.err
    assert "every reward takes as, on_error, tries, time_limit" in done.err


ENDLESS = """
import sys, torch
from concurrent.futures import Future
from ddpo_core.calls import Patience, Unfinished, abandoned, ask
from ddpo_cli.main import leave

def endless():
    square = torch.randn(400, 400)
    while True:
        (square @ square).sum().item()

answer = ask(endless, Patience(time_limit=0.3), Unfinished(), Future())
print(type(answer.error).__name__, abandoned())
sys.exit(leave(3))
"""


def test_a_program_ends_at_once_and_with_its_own_code_over_an_abandoned_call():
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["TookTooLong", "True"], 3), done.stderr
