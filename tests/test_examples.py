"""The examples run as they stand, but for the size of the run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import ddpo_core
from ddpo_core.discovery import registry

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
TINY = dict(epochs=1, samples_per_epoch=8, sample_batch_size=8, num_steps=2, device="cpu", self_check=False)
WRITES = {
    "first_reward": ["red-adapter", "red.png"],
    "own_pipeline": ["cat.png", "dark-cat.png"],
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry.cache_clear()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example, tmp_path, monkeypatch, capsys):
    train = ddpo_core.train
    monkeypatch.setattr(ddpo_core, "train", lambda *given, **named: train(*given, **(named | TINY)))
    runpy.run_path(str(example))
    assert capsys.readouterr().out.strip()
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITES.get(example.stem, [])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_fits_on_a_screen_and_says_what_it_shows(example):
    lines = example.read_text().splitlines()
    assert len(lines) < 40 and lines[0].startswith('"""')


@pytest.mark.slow
def test_the_first_example_learns_to_draw_red(capsys):
    first = next(path for path in EXAMPLES if path.stem == "first_reward")
    runpy.run_path(str(first))
    told = [float(line.split()[3]) for line in capsys.readouterr().out.splitlines() if "redness" in line]
    assert len(told) == 3 and told[2] > told[0]
