import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def one_and_two(tiny_pipeline, tmp_path_factory):
    """The end of the same run in one process and in two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    common = [str(SCRIPT), str(tiny_pipeline)]
    subprocess.run([sys.executable, *common, str(one), "alone"], check=True, capture_output=True, timeout=300)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, *common, str(two), "together"], check=True, capture_output=True, timeout=300)
    return one, two


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_two_processes_hold_equal_weights_after_their_updates(one_and_two):
    _, two = one_and_two
    ranks = [load_file(two / f"rank-{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


def test_two_processes_and_one_with_the_union_batch_end_with_the_same_weights(one_and_two):
    alone, together = (load_file(folder / "rank-0.safetensors") for folder in one_and_two)
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=2e-5, rtol=1e-3)


def test_two_processes_report_the_metrics_of_the_whole_round(one_and_two):
    for alone, together in zip(*map(metrics, one_and_two), strict=True):
        for name in (
            "reward_queries",
            "reward/bright/mean",
            "reward/varied/mean",
            "reward/varied/stderr",
            "loss",
            "pretraining/loss",
        ):
            assert together[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-6), name
