"""Where curves go besides the run folder."""

import builtins

import pytest
import torch

from ddpo_cli.trackers import NoTracker, make_tracker
from ddpo_core.errors import EnvironmentFault


@pytest.fixture
def without(monkeypatch):
    """`without("wandb")`: an environment that lacks a package."""
    real = builtins.__import__

    def lack(package):
        def importing(name, *rest, **named):
            if name.startswith(package):
                raise ImportError(name)
            return real(name, *rest, **named)

        monkeypatch.setattr(builtins, "__import__", importing)

    return lack


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_package_says_what_to_install_and_what_to_take_instead(tmp_path, without, name, package):
    without(package)
    with pytest.raises(EnvironmentFault) as caught:
        make_tracker(name, tmp_path, {}, resumed_at=None)
    assert f"pip install {name}" in caught.value.hint and "--tracker" in caught.value.hint


def test_none_writes_nothing(tmp_path):
    tracker = make_tracker("none", tmp_path, {}, resumed_at=None)
    assert isinstance(tracker, NoTracker)
    tracker.scalars(1, {"loss": 1.0})
    tracker.images(1, torch.zeros(1, 3, 4, 4), ["a cat"])
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_one_value_an_epoch_after_a_resumed_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = make_tracker("tensorboard", tmp_path, {}, resumed_at=None)
    for epoch in (1, 2, 3):
        first.scalars(epoch, {"loss": float(epoch)})
    first.close()
    again = make_tracker("tensorboard", tmp_path, {}, resumed_at=2)
    again.scalars(3, {"loss": 30.0})
    again.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
