"""What a run shows while it runs."""

import io

import pytest
from rich.console import Console

from ddpo_cli.charts import with_error
from ddpo_cli.live import Header, LiveView, PlainView, duration, sparkline, wants_live

HEADER = Header("runs/x", 3, {"jpeg": "weight 1 · ddpo-reward-jpeg 0.1.0"}, [("model", "pocket")])


def metrics(epoch, mean=-1.9, stderr=0.03):
    return {
        "epoch": epoch,
        "reward/jpeg/mean": mean,
        "reward/jpeg/stderr": stderr,
        "seconds/rollout": 3.0,
        "seconds/scores": 0.1,
        "seconds/update": 5.0,
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([1.0, 1.0], "▄▄"),
        ([0.0, float("nan"), 1.0], "▁█"),
        ([], ""),
    ],
)
def test_a_sparkline_runs_from_the_lowest_to_the_highest_value(values, drawn):
    assert sparkline(values) == drawn


def test_a_long_curve_is_squeezed_into_the_width():
    assert sparkline(range(1000), width=8) == "▁▂▃▄▅▆▇█"


def test_live_only_on_a_terminal_outside_of_ci():
    assert wants_live(Terminal(), {})
    assert not wants_live(Terminal(), {"CI": "true"})
    assert not wants_live(Terminal(), {"TERM": "dumb"})
    assert not wants_live(io.StringIO(), {})


@pytest.mark.parametrize(("seconds", "text"), [(44.6, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [(-1.5794, 0.0123, "-1.579 ± 0.012"), (312.4, 27.0, "312 ± 27"), (0.5, 0.0, "0.5")],
)
def test_a_mean_has_the_digits_that_its_error_leaves_it(mean, error, text):
    assert with_error(mean, error) == text


def test_plain_lines_tell_one_epoch_each():
    stream = io.StringIO()
    view = PlainView(stream)
    view.start(HEADER, [])
    view.epoch(metrics(1))
    view.epoch(metrics(2, mean=-1.8))
    header, first, second = (
        stream.getvalue().splitlines()[:2],
        stream.getvalue().splitlines()[2],
        stream.getvalue().splitlines()[3],
    )
    assert header == ["model: pocket", "reward jpeg: weight 1 · ddpo-reward-jpeg 0.1.0"]
    assert first.startswith(
        "epoch 1/3  jpeg -1.900 ± 0.030 (+0.000)  rollout 3.0 s  scores 0.1 s  update 5.0 s"
    )
    assert "jpeg -1.800 ± 0.030 (+0.100)" in second


def drawn(view, console):
    console.print(view._screen())
    return console.file.getvalue()


def test_the_live_view_shows_epoch_phase_curve_and_origin(monkeypatch):
    from types import SimpleNamespace

    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    view = LiveView(console)
    view._header = HEADER
    assert "epoch 1/3" in drawn(view, console)
    view.progress(SimpleNamespace(phase="rollout", done=16, total=48))
    view._history = [metrics(1), metrics(2, mean=-1.7)]
    text = drawn(view, console)
    for expected in (
        "epoch 3/3",
        "rollout",
        "16/48",
        "-1.700 ± 0.030",
        "+0.2",
        "▁█",
        "ddpo-reward-jpeg 0.1.0",
    ):
        assert expected in text


def test_no_color_means_no_escape_codes(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=Terminal(), width=100, force_terminal=True)
    view = LiveView(console)
    view._header, view._history = HEADER, [metrics(1), metrics(2, mean=-1.7)]
    assert "\x1b[3" not in drawn(view, console)
