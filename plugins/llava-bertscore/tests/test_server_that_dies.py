"""A run whose judge's server dies says so after its tries, scores nothing 0, and can be resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ddpo_cli.main import main
from ddpo_core.discovery import registry

TOY = (
    *("--plugin", Path(__file__).with_name("toy_model.py"), "--model", "toy", "--device", "cpu"),
    *("--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 2, "--epochs", 5),
    *("--tracker", "none", "--image-count", 2, "--checkpoint-every", 2),
)


@pytest.fixture
def ddpo(tmp_path, monkeypatch, capsys) -> Iterator[Callable[..., tuple[int, str]]]:
    """`ddpo("train", …)` in an empty folder: the exit code, and what it said on the error stream."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPO_ONLY", "ddpo-reward-llava-bertscore")
    monkeypatch.setenv("NO_COLOR", "1")
    registry.cache_clear()

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    yield run
    registry.cache_clear()


def metrics(folder: str) -> list[dict[str, float]]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if not key.startswith(("seconds/", "self_check/"))
        }
        for line in lines
    ]


def test_a_run_whose_server_dies_says_so_and_goes_on_where_it_was(ddpo, model_server, tiny_bert):
    def train(endpoint: str, folder: str) -> tuple[int, str]:
        reward = f"align,endpoint={endpoint},bert_model={tiny_bert},bert_layers=2,retries=1,concurrency=4"
        return ddpo("train", "--reward", reward, *TOY, "--out", folder)

    assert train(model_server().endpoint, "whole")[0] == 0

    mortal = model_server(lifetime=3 * 8 + 2)  # in the fourth epoch
    code, said = train(mortal.endpoint, "run")
    assert code == 1
    error = re.search(r"error: (.*)", said)[1]
    assert f"reward 'align': the server at {mortal.endpoint}/v1/chat/completions did not answer" in error
    tries, seconds, pauses = re.search(
        r"(\d) tries in ([\d.]+) s \(([\d.]+) s of them pauses\)", error
    ).groups()
    assert tries == "2" and 0.4 < float(pauses) <= 1.0 and float(pauses) <= float(seconds) + 0.1
    assert "ddpo train --resume" in said
    assert metrics("run") == metrics("whole")[:3]  # whole epochs only, and no picture of theirs got a 0

    model_server(port=mortal.port)
    code, said = ddpo("train", "--resume", "run")
    assert code == 0, said
    assert metrics("run") == metrics("whole")
    assert len({line["reward/align/mean"] for line in metrics("run")}) > 1


def test_a_server_that_was_never_there_ends_the_run_before_its_first_epoch(ddpo, model_server, tiny_bert):
    gone = model_server()
    gone.die()
    gone.lifetime = -1
    reward = f"align,endpoint={gone.endpoint},bert_model={tiny_bert},bert_layers=2,retries=0,on_error=drop"
    code, said = ddpo("train", "--reward", reward, *TOY, "--out", "run")
    assert code == 1
    assert "did not answer: 1 try in" in said and "Connection refused" in said
    assert not Path("run/metrics.jsonl").exists() or not metrics("run")
