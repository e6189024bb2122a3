"""`transformers serve`, the real process: it answers as the same model does in process, and it is killed."""

from __future__ import annotations

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


def epochs_of(run: Path) -> list[str]:
    try:
        return (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []


def test_killed_in_mid_run_it_stops_the_run_which_goes_on_when_it_is_back(
    serve, tiny_llava, tiny_bert, tmp_path
):
    options = f"bert_model={tiny_bert},bert_layers=2,max_new_tokens=4,retries=2,on_error=raise"
    reward = f"align,vlm={tiny_llava},endpoint={serve.endpoint},{options}"
    settings = (
        *("--plugin", TOY, "--model", "toy", "--device", "cpu", "--reward", reward, "--epochs", 8),
        *("--samples-per-epoch", 8, "--sample-batch-size", 4, "--updates-per-epoch", 2),
        *(
            "--tracker",
            "none",
            "--images-every",
            100,
            "--image-count",
            2,
            "--checkpoint-every",
            1,
            "--out",
            "run",
        ),
    )
    process = start_training(tmp_path, *settings)
    while len(epochs_of(tmp_path / "run")) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    serve.kill()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert re.search(rf"{serve.endpoint}/v1/chat/completions did not answer: 3 tries in [\d.]+ s", said), said
    assert 1.5 <= float(re.search(r"\(([\d.]+) s of them pauses\)", said)[1]) <= 3
    finished = epochs_of(tmp_path / "run")
    assert 2 <= len(finished) < 8
    assert not any('"reward/align/min": 0' in line for line in finished)

    again = Serve(tiny_llava, int(serve.endpoint.rpartition(":")[2]), tmp_path / "serve.log")
    try:
        process = start_training(tmp_path, "--resume", "run")
        assert process.wait(timeout=120) == 0, process.stderr.read()
    finally:
        again.kill()
    assert epochs_of(tmp_path / "run")[: len(finished)] == finished
    assert len(epochs_of(tmp_path / "run")) == 8
