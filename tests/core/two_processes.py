"""Run by torchrun from test_distributed.py: a short training run whose end state goes to a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ddpo_core.advantages import Normaliser
from ddpo_core.denoisers.stable_diffusion import load
from ddpo_core.estimators.ddpo import ImportanceSampling
from ddpo_core.info import RewardInfo
from ddpo_core.pretraining import Pretraining
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Prompt, Scores


def brightness(images: torch.Tensor, prompts: object) -> torch.Tensor:
    return images.mean((1, 2, 3))


def variety(images: torch.Tensor, prompts: object) -> Scores:
    """How far each image of a group is from the group's mean: it has to see whole groups."""
    credits = (images - images.mean(0)).square().mean((1, 2, 3)) * images.mean((1, 2, 3))
    return Scores(credits.double().numpy(), levels=np.full(len(images), float(credits.sum())))


class Greys:
    """Captioned pictures for the pretraining step."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return torch.full((3, 16, 16), index / 9), "grey" * (1 + index % 2)


def run(model_folder: Path, out: Path, *, sample_batch_size: int, train_batch_size: int) -> None:
    """Two epochs of eight samples over all processes; every process checks that it holds the same weights."""
    model = load(pretrained=str(model_folder))
    model.adapt(lora_rank=2)
    settings = Settings(
        epochs=2,
        samples_per_epoch=8,
        sample_batch_size=sample_batch_size,
        train_batch_size=train_batch_size,
        updates_per_epoch=2,
        num_steps=3,
        guidance_scale=2.0,
        learning_rate=1e-3,
    )
    info = RewardInfo(name="bright", summary="", factory="")
    grouped = RewardInfo(name="varied", summary="", factory="", scope="group", group_size=2)
    epochs = train(
        denoiser=model,
        sampler=DDIM(),
        estimator=ImportanceSampling(),
        tasks=[
            Task(
                PromptStream([Prompt("a cat"), Prompt("a dog"), Prompt("an ant")], seed=0, group_size=2),
                Objective([Term("bright", 1.0, brightness, info), Term("varied", 0.5, variety, grouped)]),
            )
        ],
        normaliser=Normaliser("prompt", buffer_size=8, min_count=4),
        settings=settings,
        pretraining=Pretraining(Greys(), batch_size=5, minibatch_size=2),  # 3 pairs here, 2 there
    )
    metrics = [dict(epoch.metrics) for epoch in epochs]
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    save_file(model.trainable_state(), out / f"rank-{rank}.safetensors")
    if rank == 0:
        (out / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    alone = sys.argv[3] == "alone"
    run(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        sample_batch_size=8 if alone else 4,
        train_batch_size=4 if alone else 2,
    )
