"""`transformers serve`, the real process: it answers as the same model does in process, and it is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from ddpo_reward_llava_bertscore.align import Align

from ddpo_core.testing import check_reward, example_images, example_prompts

pytestmark = pytest.mark.slow
for package in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(package, reason="transformers serve needs `pip install 'transformers[serving]'`")

TOY = Path(__file__).with_name("toy_model.py")


class Serve:
    """`transformers serve MODEL` on a port of this machine."""

    def __init__(self, model: Path, port: int, log: Path) -> None:
        command = [Path(sys.executable).with_name("transformers"), "serve", model]
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        self.endpoint = f"http://127.0.0.1:{port}"
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *options], stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self._wait_until_it_answers(log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _wait_until_it_answers(self, log: Path) -> None:
        for _ in range(1200):
            assert self.process.poll() is None, log.read_text()[-2000:]
            try:
                if httpx2.get(f"{self.endpoint}/health", trust_env=False).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.1)
        raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture
def serve(tiny_llava, tmp_path) -> Iterator[Serve]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Serve(tiny_llava, port, tmp_path / "serve.log")
    yield server
    server.kill()


def test_it_answers_as_the_same_model_does_in_this_process(serve, tiny_llava, tiny_bert):
    encoder = {"bert_model": str(tiny_bert), "bert_layers": 2, "device": "cpu", "max_new_tokens": 8}
    behind = Align(vlm=str(tiny_llava), endpoint=serve.endpoint, **encoder)
    check_reward(behind, size=24)
    images, prompts = example_images(5, 24), example_prompts()
    served, here = behind(images, prompts), Align(vlm=str(tiny_llava), **encoder)(images, prompts)
    assert [detail["caption"] for detail in served.details] == [detail["caption"] for detail in here.details]
    assert served.values == pytest.approx(here.values, abs=1e-6)


def start_training(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ddpo_cli.main", "train", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "CI": "1", "NO_COLOR": "1", "DDPO_ONLY": "ddpo-reward-llava-bertscore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(run: Path) -> list[dict[str, float]]:
    """The finished epochs, without what a clock or a new start has to say."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if not key.startswith(("seconds/", "self_check/"))
        }
        for line in lines
    ]


def test_killed_in_mid_run_it_stops_the_run_which_goes_on_when_it_is_back(
    serve, tiny_llava, tiny_bert, tmp_path
):
    encoder = f"bert_model={tiny_bert},bert_layers=2"
    reward = f"align,vlm={tiny_llava},endpoint={serve.endpoint},{encoder},max_new_tokens=4,retries=2"
    settings = (
        *("--plugin", TOY, "--model", "toy", "--device", "cpu", "--reward", reward, "--epochs", 8),
        *("--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 2),
        *("--tracker", "none", "--images-every", 100, "--image-count", 2, "--checkpoint-every", 1),
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start_training(tmp_path, *settings, "--out", whole).wait(timeout=300) == 0

    process = start_training(tmp_path, *settings, "--out", run)
    while not run.exists() or len(metrics(run)) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    serve.kill()
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert re.search(rf"{serve.endpoint}/v1/chat/completions did not answer: 3 tries in [\d.]+ s", said), said
    assert 1.5 <= float(re.search(r"\(([\d.]+) s of them pauses\)", said)[1]) <= 3
    assert 2 <= len(metrics(run)) < 8
    assert metrics(run) == metrics(whole)[: len(metrics(run))]  # whole epochs only; nothing was scored 0

    again = Serve(tiny_llava, int(serve.endpoint.rpartition(":")[2]), tmp_path / "serve.log")
    try:
        process = start_training(tmp_path, "--resume", run)
        assert process.wait(timeout=300) == 0, process.stderr.read()
    finally:
        again.kill()
    assert metrics(run) == metrics(whole)
