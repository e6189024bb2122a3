"""A run killed with SIGKILL at random moments ends like one that was left alone, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddpo_core import checkpoint

TOYS = Path(__file__).with_name("toy_world.py")
EPOCHS_PER_KILL = 30
SETTINGS = (
    *("--plugin", TOYS, "--model", "toy", "--reward", "brightness", "--seed", 3),
    *("--samples-per-epoch", 16, "--sample-batch-size", 8, "--updates-per-epoch", 2, "--device", "cpu"),
    *("--checkpoint-every", 2, "--images-every", 4, "--tracker", "none"),
)


def start(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ddpo_cli.main", "train", *map(str, arguments)]
    environment = {**os.environ, "CI": "1", "DDPO_ONLY": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finish(folder: Path, *arguments: object) -> None:
    assert start(folder, *arguments).wait(timeout=300) == 0


def last_epoch(run: Path) -> int:
    """The last epoch with a metrics line, 0 before there is one."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_after(process: subprocess.Popen[bytes], run: Path, epochs: int, seconds: float) -> bool:
    """SIGKILL some time after `epochs` more epochs; False where the run was over before."""
    begun = last_epoch(run)
    while last_epoch(run) < begun + epochs and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def timeless_metrics(run: Path) -> list[dict[str, float]]:
    """All epochs, without what a clock or a new start has to say."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if not key.startswith(("seconds/", "self_check/"))
        }
        for line in lines
    ]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_left_alone(tmp_path, kills):
    chance = random.Random(kills)
    settings = (*SETTINGS, "--epochs", EPOCHS_PER_KILL * kills)
    finish(tmp_path, *settings, "--out", "whole")
    process = start(tmp_path, *settings, "--out", "killed")
    for _ in range(kills):
        in_time = kill_after(process, tmp_path / "killed", EPOCHS_PER_KILL // 2, chance.uniform(0, 0.15))
        assert in_time, "the run was over before it could be killed often enough"
        process = start(tmp_path, "--resume", "killed")
    assert process.wait(timeout=300) == 0
    assert timeless_metrics(tmp_path / "killed") == timeless_metrics(tmp_path / "whole")
    weights = [
        (checkpoint.latest(tmp_path / run / "checkpoints") / "weights.safetensors").read_bytes()
        for run in ("killed", "whole")
    ]
    assert weights[0] == weights[1]
