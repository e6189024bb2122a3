"""The report stands alone: one file, no network, everything of the run in it."""

import re

import pytest
from PIL import Image

from ddpo_cli import charts, grids
from ddpo_cli.charts import Curve, nice_ticks
from ddpo_cli.report import render, steps_chart
from ddpo_cli.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run of four epochs, written by hand."""
    folder = RunFolder.create(tmp_path / "my-run")
    folder.config.write_text(
        'reward = ["jpeg:2", "<b>"]\nmodel = "pocket"\nepochs = 4\nlearning_rate = 0.0003\n'
        '[origins]\nreward = "flag"\nlearning_rate = "default for a LoRA"\n'
    )
    part = {"name": "jpeg", "distribution": "ddpo-reward-jpeg", "version": "0.1.0", "unit": "kB"}
    folder.write_json(
        folder.plugins,
        {
            "rewards": {"jpeg": {**part, "weight": 2.0, "higher_is": "smaller files"}},
            "parts": {"model": {"name": "pocket", "distribution": "ddpo-pocket", "version": "0.3.0"}},
            "environment": {"python": "3.11.9"},
        },
    )
    for epoch in range(1, 5):
        measured = {"mean": -2 + epoch / 10, "stderr": 0.03, "share": 1.0}
        rewards = {f"reward/jpeg/{name}": value for name, value in measured.items()}
        learning = {"loss": 1e-5 * epoch, "approx_kl": 1e-7, "clip_fraction": 0.1, "grad_norm": 0.2}
        seconds = {"seconds/rollout": 1.0, "seconds/scores": 0.1, "seconds/update": 2.0}
        folder.append_metrics({"epoch": epoch, "reward_queries": 8 * epoch, **rewards, **learning, **seconds})
    for epoch in (0, 2, 4):
        draw_grid(folder, epoch)
    return folder


def draw_grid(folder, epoch):
    folder.write_json(
        folder.images / "grid.json",
        {"width": 8, "height": 8, "prompts": ["a cat", "a <dog>"], "seeds": [1, 2]},
    )
    cells = [Image.new("RGB", (8, 8), (60 * epoch, 100 * cell, 0)) for cell in (0, 1)]
    (folder.images / f"epoch-{epoch:06d}.png").write_bytes(grids.png(grids.tile(cells)))


def test_the_page_is_whole_and_fetches_nothing(run, checked):
    checker = checked(render(run))
    assert checker.fetched == []
    assert "script" not in checker.tags and "link" not in checker.tags
    assert "url(" not in render(run) and "@import" not in render(run)


def test_the_page_shows_curves_pictures_settings_and_versions(run, checked):
    page = render(run)
    assert page.count("<svg") == 1 + 4 + 1  # the reward, four quantities of learning, seconds
    assert 'class="band c1"' in page
    assert "-1.900 ± 0.030 → <b>-1.600 ± 0.030</b>" in page
    assert "(+0.3, +7.1 standard errors)" in page  # 0.3 / √(0.03² + 0.03²)
    for text in ("default for a LoRA", "ddpo-reward-jpeg 0.1.0", "ddpo-pocket 0.3.0", "3.11.9", "in kB"):
        assert text in page
    assert len(checked(page).images) == 2 * 2 + 2 * 3  # pairs of first and last, strips of three epochs


def test_what_was_told_of_each_timestep_is_averaged_over_the_last_quarter():
    lines = [
        {"epoch": epoch, "clip_fraction/timestep-084": epoch / 10, "clip_fraction/timestep-667": 0.2}
        for epoch in range(1, 9)
    ]
    chart = steps_chart(lines)
    assert "timestep 84 · clipped 0.75" in chart  # epochs 7 and 8
    assert steps_chart([{"epoch": 1, "clip_fraction/timestep-084": 0.1}]) == ""


def test_first_and_last_picture_of_a_pair_differ(run, checked):
    first, last, *_ = checked(render(run)).images
    assert first != last


def test_what_users_typed_is_escaped(run):
    page = render(run)
    assert "a &lt;dog&gt;" in page and "a <dog>" not in page
    assert "<b>\n" not in page.replace("<b>-", "")


def test_a_run_that_has_not_begun_has_a_page(tmp_path):
    folder = RunFolder.create(tmp_path / "new")
    folder.config.write_text('model = "pocket"\nepochs = 4\n')
    assert "No epoch is done yet" in render(folder)


def test_both_colour_schemes_are_there(run):
    assert "prefers-color-scheme: dark" in render(run)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-0.13, 0.32, [-0.1, 0, 0.1, 0.2, 0.3]), (5, 5, [5])],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert nice_ticks(low, high, 5) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([-1.75, -1.7, -1.65], ["-1.75", "-1.70", "-1.65"]),
        ([0, 2, 4], ["0", "2", "4"]),
        ([0, 2e-7], ["0", "2e-07"]),
    ],
)
def test_ticks_have_the_decimals_that_tell_them_apart(ticks, texts):
    assert charts.tick_texts(ticks) == texts


def test_a_band_spans_one_standard_error_on_both_sides():
    drawing = charts.svg([Curve("a", [1, 2], [0.0, 1.0], [0.5, 0.5])], width=400, height=200)
    (points,) = re.findall(r'<polygon class="band c1" points="([^"]+)"', drawing)
    heights = [float(point.split(",")[1]) for point in points.split()]
    line = [
        float(point.split(",")[1])
        for point in re.findall(r'<polyline[^>]*points="([^"]+)"', drawing)[0].split()
    ]
    assert len(heights) == 4
    assert (heights[0] + heights[3]) / 2 == pytest.approx(line[0], abs=0.11)  # rounded to a tenth of a pixel


def test_values_that_are_not_finite_are_left_out():
    nan = float("nan")
    assert "nan" not in charts.svg([Curve("a", [1, 2, 3], [0.0, nan, 1.0], [0.1, nan, 0.1])])
    assert charts.svg([Curve("a", [1], [nan])]) == ""


def test_the_command_writes_the_file_and_prints_its_path(run, ddpo):
    done = ddpo("report", run.root)
    assert (done.code, done.out.strip()) == (0, str(run.report))
    assert run.report.read_text().startswith("<!doctype html>")


def test_the_command_refuses_what_is_no_run(tmp_path, ddpo):
    done = ddpo("report", tmp_path)
    assert done.code == 2 and "is not a run" in done.err
