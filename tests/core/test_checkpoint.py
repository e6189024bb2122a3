import json
import random

import numpy as np
import pytest
import torch

from ddpo_core import checkpoint
from ddpo_core.checkpoint import RunState, capture_random, restore_random
from ddpo_core.errors import CheckpointError


def state(epoch, weight=1.0):
    return RunState(
        epoch=epoch,
        updates=4 * epoch,
        reward_queries=8 * epoch,
        weights={"layer.lora_A": torch.full((2, 3), weight)},
        optimizer={
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}},
            "param_groups": [{"lr": 0.1}],
        },
        scaler={"scale": 65536.0},
        normaliser={"jpeg": {"a cat": [-1.5, -2.0]}},
        prompts={"all": {"position": 17}},
        multipliers={"all": {"jpeg": [0.5, 0.0]}},
        random=[capture_random()],
    )


def test_a_state_comes_back_as_it_was(tmp_path):
    saved = state(3)
    loaded = checkpoint.load(checkpoint.save(tmp_path, saved))
    assert torch.equal(loaded.weights["layer.lora_A"], saved.weights["layer.lora_A"])
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], torch.ones(2, 3))
    rest = ("epoch", "reward_queries", "scaler", "normaliser", "prompts", "multipliers", "random")
    assert all(getattr(loaded, name) == getattr(saved, name) for name in rest)


def test_the_latest_is_the_newest_complete_one(tmp_path):
    for epoch in (9, 10, 2):
        checkpoint.save(tmp_path, state(epoch))
    assert checkpoint.epoch_of(checkpoint.latest(tmp_path)) == 10


def test_a_write_that_was_cut_short_is_not_a_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1))

    def killed(*_):
        raise KeyboardInterrupt

    for victim in ("save_file", "sync"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, victim, killed)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(tmp_path, state(2))
        assert [checkpoint.epoch_of(path) for path in checkpoint.complete(tmp_path)] == [1]
    assert checkpoint.load(checkpoint.save(tmp_path, state(2))).epoch == 2  # its leavings are in nobody's way


def test_saving_an_epoch_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, state(1, weight=1.0))
    checkpoint.save(tmp_path, state(1, weight=2.0))
    assert checkpoint.load(checkpoint.latest(tmp_path)).weights["layer.lora_A"].mean() == 2


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize("victim", ["weights.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_file_is_one_clear_error(tmp_path, victim):
    folder = checkpoint.save(tmp_path, state(1))
    (folder / victim).write_bytes(b"{broken")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder)


def test_a_checkpoint_of_another_version_says_what_it_lacks(tmp_path):
    folder = checkpoint.save(tmp_path, state(1))
    rest = json.loads((folder / "state.json").read_text())
    del rest["multipliers"]
    (folder / "state.json").write_text(json.dumps(rest))
    with pytest.raises(CheckpointError, match="has no multipliers; another ddpo wrote it"):
        checkpoint.load(folder)


def test_every_global_random_state_goes_on_where_it_was():
    captured = capture_random()
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    restore_random(captured)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
