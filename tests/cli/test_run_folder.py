"""A run's folder is whole at any moment, wherever its writer was killed."""

import json
from types import SimpleNamespace

import pytest

from ddpo_cli import run_folder
from ddpo_cli.run_folder import RunFolder, best_epoch, write_atomic
from ddpo_core.errors import UsageError


class Killed(BaseException):
    """What a kill is to the code that it hits."""


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def line(epoch, mean=0.0):
    return {"epoch": epoch, "reward/a/mean": mean, "reward/a/stderr": 0.1}


def saved(epoch):
    return SimpleNamespace(epoch=epoch)


def save_empty(root, state):
    (root / f"epoch-{state.epoch:06d}").mkdir(parents=True)


def test_a_file_is_the_old_one_or_the_new_one_and_never_half(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    write_atomic(path, b"old")

    def die(descriptor):
        raise Killed

    monkeypatch.setattr(run_folder.os, "fsync", die)
    with pytest.raises(Killed):
        write_atomic(path, b"a new one that is longer")
    assert path.read_bytes() == b"old"


def test_a_torn_last_line_is_no_epoch(folder):
    folder.append_metrics(line(1))
    folder.append_metrics(line(2))
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 3, "reward/a/me')
    assert [row["epoch"] for row in folder.read_metrics()] == [1, 2]


def test_truncating_drops_what_is_newer_than_the_checkpoint_and_a_torn_line(folder):
    for epoch in (1, 2, 3):
        folder.append_metrics(line(epoch))
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 4')
    folder.truncate_metrics(2)
    folder.append_metrics(line(3))
    rows = [json.loads(text) for text in folder.metrics.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_an_epoch_of_nan_is_still_read_back(folder):
    folder.append_metrics(line(1, mean=float("nan")))
    assert '"reward/a/mean": null' in folder.metrics.read_text()
    (row,) = folder.read_metrics()
    assert row["reward/a/mean"] != row["reward/a/mean"]


def test_the_latest_the_best_and_every_third_checkpoint_are_kept(folder):
    for epoch, mean in enumerate([0.0, 0.9, 0.2, 0.1, 0.3, 0.2, 0.1, 0.4], start=1):
        folder.append_metrics(line(epoch, mean))
        save_empty(folder.checkpoints, saved(epoch))
        folder.prune_checkpoints({"a": 1.0}, keep_every=3)
    assert folder.checkpoint_epochs() == [2, 3, 6, 8]


def test_what_a_kill_left_of_a_checkpoint_is_no_checkpoint_and_is_swept_up(folder):
    save_empty(folder.checkpoints, saved(2))
    (folder.checkpoints / ".unfinished-epoch-000004").mkdir()
    assert folder.checkpoint_epochs() == [2]
    folder.prune_checkpoints({"a": 1.0}, keep_every=0)
    assert [entry.name for entry in folder.checkpoints.iterdir()] == ["epoch-000002"]


def test_the_best_of_a_reward_that_is_turned_round_is_the_lowest():
    history = [line(1, 0.5), line(2, 0.9), line(3, 0.1)]
    assert best_epoch(history, [1, 2, 3], {"a": 1.0}) == 2
    assert best_epoch(history, [1, 2, 3], {"a": -1.0}) == 3
    assert best_epoch(history, [], {"a": 1.0}) is None


def test_an_adapter_that_is_being_replaced_stays_whole(folder):
    def export(content):
        def write(place):
            (place / "weights.safetensors").write_text(content)
            if content == "half":
                raise Killed

        return write

    folder.publish_adapter(export("first"))
    with pytest.raises(Killed):
        folder.publish_adapter(export("half"))
    assert (folder.adapter / "weights.safetensors").read_text() == "first"
    folder.publish_adapter(export("second"))
    assert (folder.adapter / "weights.safetensors").read_text() == "second"
    assert sorted(entry.name for entry in folder.root.iterdir()) == ["adapter"]


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty") as caught:
        RunFolder.create(tmp_path)
    assert caught.value.hint == "take another --out"
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UsageError) as caught:
        RunFolder.create(tmp_path)
    assert f"ddpo train --resume {tmp_path}" in caught.value.hint


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(UsageError, match="is not a run: it has no config"):
        RunFolder.open(tmp_path)
