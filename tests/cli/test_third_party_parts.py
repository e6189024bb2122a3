"""A stranger's estimator, sampler and model, each one file and one hook: installed, they train."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ddpo_cli.run_folder import RunFolder
from ddpo_core.discovery import registry
from ddpo_core.testing import check_sampler

PARTS = {"estimator": "cheer", "sampler": "guess-again", "model": "acme-mosaic"}
TINY = (
    "--reward", "brightness", "--device", "cpu", "--tracker", "none", "--samples-per-epoch", 8,
    "--sample-batch-size", 4,
)  # fmt: skip


@pytest.fixture
def ddpo_with_parts(ddpo, install):
    """The shell, with the three parts and a reward installed."""
    install("good", *PARTS)
    return ddpo


def train(ddpo, out, epochs, *options):
    done = ddpo("train", "--out", out, "--epochs", epochs, *TINY, *options)
    assert done.code == 0, done.err
    return RunFolder(Path(out))


def with_parts(**options):
    """--estimator cheer --sampler guess-again,kept=0.3 …"""
    return [word for kind, name in PARTS.items() for word in (f"--{kind}", f"{name}{options.get(kind, '')}")]


@pytest.mark.parametrize("kind", PARTS)
def test_each_is_listed_and_shown_by_its_own_words(ddpo_with_parts, kind):
    assert f"acme-{kind} 1.2.0" in ddpo_with_parts(f"{kind}s", "list").out
    shown = ddpo_with_parts(f"{kind}s", "show", PARTS[kind])
    assert shown.code == 0 and PARTS[kind] in shown.out


def test_two_epochs_run_with_all_three_and_with_their_options(ddpo_with_parts):
    run = train(
        ddpo_with_parts,
        "run",
        2,
        *with_parts(estimator=",threshold=0.1", sampler=",kept=0.3", model=",tile=2"),
    )
    metrics = run.read_metrics()
    assert [epoch["epoch"] for epoch in metrics] == [1, 2]
    assert all(0 < epoch["cheered"] < 1 and epoch["grad_norm"] > 0 for epoch in metrics)
    assert metrics[0]["self_check/ratio_error"] <= 1e-6
    plugins = Path("run/plugins.json").read_text()
    assert all(f"acme-{kind}" in plugins for kind in PARTS)


def test_its_weights_move_and_are_saved(ddpo_with_parts):
    train(ddpo_with_parts, "run", 1, *with_parts())
    (saved,) = Path("run").rglob("diffusion_pytorch_model.safetensors")
    assert load_file(saved)["gain"].item() != 0.5


def test_an_interrupted_run_with_them_goes_on_exactly(ddpo_with_parts):
    whole = train(ddpo_with_parts, "whole", 2, *with_parts())
    train(ddpo_with_parts, "halves", 1, *with_parts())
    done = ddpo_with_parts("train", "--resume", "halves", "--epochs", 2)
    assert done.code == 0, done.err
    first, second = (
        [
            # how long it took differs, and each process checks itself once
            {key: value for key, value in epoch.items() if not key.startswith(("seconds/", "self_check/"))}
            for epoch in run.read_metrics()
        ]
        for run in (whole, RunFolder(Path("halves")))
    )
    assert json.dumps(first) == json.dumps(second)
    assert len(first) == 2


@pytest.mark.parametrize(
    "parts", [("--sampler", "guess-again"), ("--estimator", "cheer"), ("--model", "acme-mosaic")]
)
def test_each_goes_with_ddpos_own_others(ddpo_with_parts, parts):
    others = {"--estimator": "ddpo-is", "--sampler": "ddim", "--model": "acme-mosaic"} | dict([parts])
    run = train(ddpo_with_parts, "run", 1, *(word for pair in others.items() for word in pair))
    assert len(run.read_metrics()) == 1


def test_the_sampler_keeps_the_contract(ddpo_with_parts):
    entry = registry().entry("sampler", "guess-again")
    check_sampler(registry().build("sampler", "guess-again"), entry.info)


def test_none_of_them_imports_torch_to_be_listed(install):
    site = install(*PARTS)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from ddpo_core.discovery import registry\n"
        f"for kind, name in {PARTS!r}.items(): registry().find(kind, name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
