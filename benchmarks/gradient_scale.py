"""How large are the gradients that Adam sees? Mean-reduced log-probs make them small.

python benchmarks/gradient_scale.py [--model SPEC]

Trains the model on JPEG size for two epochs of two updates and prints, for each update, quantiles of
|gradient| over the LoRA's weights. Adam's ε must be smaller.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from ddpo_core.denoisers.stable_diffusion import StableDiffusion
from ddpo_core.discovery import registry
from ddpo_core.estimators.ddpo import ImportanceSampling
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.training import Settings, Task, train

QUANTILES = (0.01, 0.1, 0.5, 0.9)
SETTINGS = Settings(
    epochs=2,
    samples_per_epoch=32,
    sample_batch_size=16,
    train_batch_size=16,
    updates_per_epoch=2,
    num_steps=12,
    guidance_scale=1.0,
    learning_rate=1e-3,
)


def quantiles(gradients: Sequence[torch.Tensor]) -> str:
    """1, 10, 50 and 90 % of the absolute values that are not zero, and the share that is."""
    values = torch.cat([gradient.abs().flatten() for gradient in gradients])
    moving = values[values > 0]
    if not len(moving):
        return "all zero"
    sample = moving[torch.linspace(0, len(moving) - 1, min(len(moving), 1_000_000)).long()]
    levels = torch.quantile(sample, torch.tensor(QUANTILES))
    below = (sample < 1e-8).float().mean()
    return "  ".join(f"{level:.1e}" for level in levels) + f"   below 1e-8: {below:.1%}"


def print_before_each_step(denoiser: StableDiffusion) -> None:
    """Print the gradients of the LoRA's two halves whenever AdamW is about to step."""
    plain_step = torch.optim.AdamW.step
    named = [(name, p) for name, p in denoiser.network.named_parameters() if p.requires_grad]

    def step(self: torch.optim.AdamW, *arguments: object, **options: object) -> object:
        for half in ("lora_A", "lora_B"):
            print(half, quantiles([p.grad for name, p in named if half in name and p.grad is not None]))
        return plain_step(self, *arguments, **options)  # type: ignore[arg-type]

    torch.optim.AdamW.step = step  # type: ignore[method-assign, assignment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket")
    found = registry()
    denoiser = found.build("model", parser.parse_args().model)
    denoiser.adapt(lora_rank=16, lora_targets=("all",))
    print_before_each_step(denoiser)
    term = Term("jpeg", 1.0, found.build("reward", "jpeg"), found.find("reward", "jpeg"))
    print("quantiles", *(f"{level:.0%}" for level in QUANTILES))
    run = train(
        denoiser=denoiser,
        sampler=DDIM(),
        estimator=ImportanceSampling(),
        tasks=[Task(PromptStream(found.build("prompts", "animals"), seed=0), Objective([term]))],
        settings=SETTINGS,
    )
    for _ in run:
        pass


if __name__ == "__main__":
    main()
