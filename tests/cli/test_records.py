"""What rewards say of single pictures is kept with the run, shown in its report, and changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddpo_cli import pages
from ddpo_cli.records import plain, records_of
from ddpo_core.types import Prompt, Scores

HERE = Path(__file__).parent
TRAIN = (
    "--plugin", HERE / "toy_world.py", "--plugin", HERE / "toy_judges.py", "--model", "toy",
    "--device", "cpu", "--tracker", "none", "--image-count", 2, "--samples-per-epoch", 16,
    "--sample-batch-size", 16, "--updates-per-epoch", 2,
)  # fmt: skip


def record(run, epoch):
    return json.loads(Path(run, "records", f"epoch-{epoch:06d}.json").read_text())


def test_every_epoch_keeps_a_few_samples_and_the_grid_where_it_was_drawn(ddpo):
    done = ddpo("train", "--reward", "describes", "--epochs", 3, "--images-every", 2, "--out", "run", *TRAIN)
    assert done.code == 0, done.err
    assert [("grid" in record("run", epoch), len(record("run", epoch)["samples"])) for epoch in range(4)] == [
        (True, 0),
        (False, 8),
        (True, 8),
        (True, 8),
    ]
    cell = record("run", 3)["grid"][0]
    assert cell["prompt"] == "cat"
    said = cell["details"]["describes"]
    assert said["caption"] == "<b>cat</b>" and said["odd"] == pytest.approx(cell["scores"]["describes"])


def test_the_grids_scores_are_those_of_the_pictures_in_the_file(ddpo):
    from PIL import Image

    ddpo("train", "--reward", "brightness", "--epochs", 1, "--out", "run", *TRAIN)
    sheet = np.asarray(Image.open("run/images/epoch-000000.png")) / 255
    width = json.loads(Path("run/images/grid.json").read_text())["width"]
    scores = [cell["scores"]["brightness"] for cell in record("run", 0)["grid"]]
    assert scores == pytest.approx([sheet[:, :width].mean(), sheet[:, width:].mean()], abs=0.002)


def test_a_judge_that_fails_on_the_grid_says_so_there_and_stops_nothing(ddpo, monkeypatch):
    monkeypatch.setenv("TOY_CRASH_AT", "1")  # the first call is the grid before training
    done = ddpo("train", "--reward", "stops", "--epochs", 1, "--out", "run", *TRAIN)
    assert done.code == 0, done.err
    cell = record("run", 0)["grid"][0]
    assert cell["scores"] == {} and "the judge has left the room" in cell["details"]["stops"]["error"]


def test_groups_are_not_judged_on_the_grid_which_has_none(ddpo):
    done = ddpo(
        "train", "--reward", "brightness", "--watch", "spread", "--group-size", 4, "--epochs", 1,
        "--out", "run", *TRAIN,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert list(record("run", 1)["grid"][0]["scores"]) == ["brightness"]
    assert list(record("run", 1)["samples"][0]["scores"]) == ["brightness", "spread"]


def test_the_report_shows_captions_scores_and_boxes(ddpo, checked):
    ddpo("train", "--reward", "describes", "--epochs", 1, "--out", "run", *TRAIN)
    page = Path("run/report.html").read_text()
    checked(page)
    assert page.count("<q>&lt;b&gt;cat&lt;/b&gt;</q>") == 2  # before and after
    assert page.count('<rect class="box"') == 4
    assert "<span>describes</span><b>" in page


def test_a_run_from_before_there_were_records_still_has_a_report(ddpo, checked):
    ddpo("train", "--reward", "describes", "--epochs", 1, "--out", "run", *TRAIN)
    for file in Path("run/records").iterdir():
        file.unlink()
    assert ddpo("report", "run").code == 0
    assert len(checked(Path("run/report.html").read_text()).images) == 4


def test_records_hold_nothing_that_json_cannot():
    scores = Scores(
        np.array([np.nan]), details=[{"box": np.ones(2), "x": np.float32(0.5), "y": {1: (2, None)}}]
    )
    (made,) = records_of([Prompt("a cat")], [7], {"r": scores}, 5)
    assert made == {
        "prompt": "a cat",
        "seed": 7,
        "scores": {"r": None},
        "details": {"r": {"box": [1.0, 1.0], "x": 0.5, "y": {"1": [2, None]}}},
    }
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert plain(float("inf")) is None and plain({3}) == "{3}"


def test_boxes_stay_inside_the_picture_and_their_words_are_escaped():
    drawing = pages.overlay([{"label": "<cat>", "score": 0.5, "box": [-0.2, 0.5, 1.4, 1.0]}], aspect=0.5)
    assert 'x="0.0" y="80.0" width="320.0" height="80.0"' in drawing
    assert "&lt;cat&gt; 0.50" in drawing and "<cat>" not in drawing
    assert pages.overlay([], 1.0) == ""
