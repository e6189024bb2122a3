"""`ddpo rewards bench`: speed and memory by batch size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddpo_cli.rewards import bench
from ddpo_cli.rewards.bench import Bench, Speed

TOY = ("--plugin", Path(__file__).parent / "toy_world.py")


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    monkeypatch.setattr(bench, "REPEATS", (3, 3))


def measured(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_every_batch_size_is_timed(ddpo):
    found = measured(ddpo("rewards", "bench", "brightness", "--sizes", "4,1", "--side", 16, "--json", *TOY))
    assert [each["batch_size"] for each in found["batches"]] == [1, 4]
    for each in found["batches"]:
        assert each["calls"] == 3
        assert each["images_per_second"] == pytest.approx(each["batch_size"] / each["ms_per_call"] * 1000)
        assert each["memory_mb"] >= 0
    assert found["best_batch_size"] in (1, 4)
    assert (found["reward"], found["side"]) == ("brightness", 16)


def test_the_table_names_the_best_batch(ddpo):
    done = ddpo("rewards", "bench", "brightness,as=light", "--sizes", "2", "--side", 16, *TOY)
    lines = done.out.splitlines()
    assert lines[0].startswith("light, pictures of 16 × 16 pixels, ")
    assert lines[2].split("  ")[0] == "batch" and lines[3].split()[0] == "2"
    assert lines[5].startswith("best: batches of 2, ")


def test_the_best_is_the_smallest_batch_that_is_about_as_fast_as_the_fastest():
    speeds = [Speed(size, speed, 1, 3, 0) for size, speed in ((1, 50.0), (4, 96.0), (16, 100.0))]
    assert Bench(1, 0, speeds, "").best.batch_size == 4
    speeds[1] = Speed(4, 94.0, 1, 3, 0)
    assert Bench(1, 0, speeds, "").best.batch_size == 16


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_the_memory_is_that_of_the_calls_and_not_of_larger_ones_before():
    import torch

    def holding(megabytes):
        return lambda: torch.ones(megabytes * 250_000)  # four bytes each

    assert bench.speed_of(holding(200), 1).memory_mb == pytest.approx(200, abs=40)
    # above 32 MB glibc gives every tensor pages of its own, so none that went before is counted
    assert bench.speed_of(holding(40), 1).memory_mb == pytest.approx(40, abs=20)


def test_on_a_gpu_the_memory_is_the_gpus(monkeypatch):
    import torch

    answers = {"is_available": True, "memory_allocated": 100_000_000, "max_memory_allocated": 350_000_000}
    waited = []
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: waited.append("reset"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("wait"))
    speed = bench.speed_of(lambda: waited.append("call"), 1)
    assert speed.memory_mb == 250
    assert waited == ["reset", *["wait", "call", "wait"] * 4]  # one to warm up, three to time


def test_a_reward_of_groups_is_given_one_prompt_and_one_of_counts_its_own(ddpo, tmp_path):
    assert measured(ddpo("rewards", "bench", "variety", "--sizes", "2", "--side", 8, "--json", *TOY))
    (tmp_path / "texts.txt").write_text("two cats\nsix ants\n")
    flags = ("--sizes", "3", "--side", 8, "--prompts", "texts.txt", "--json", *TOY)
    assert measured(ddpo("rewards", "bench", "brightness", *flags))


@pytest.mark.parametrize("sizes", ["0,4", "four", ""])
def test_what_is_no_batch_size_is_refused(ddpo, sizes):
    done = ddpo("rewards", "bench", "brightness", "--sizes", sizes, *TOY)
    assert done.code == 2 and f"--sizes expects batch sizes such as 1,4,16; got '{sizes}'" in done.err


def test_a_typo_in_the_reward_gets_the_nearest(ddpo):
    done = ddpo("rewards", "bench", "brightnes", *TOY)
    assert done.code == 2 and "did you mean 'brightness'?" in done.err
