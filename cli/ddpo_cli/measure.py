"""Time and memory of a run, from one step of each kind on this machine."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddpo_core.config.parts import TO_DRAW, load_model, require
from ddpo_core.config.settings import RunConfig

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

REPEATS = 3


@dataclass(frozen=True)
class Measured:
    """What one epoch will cost, rewards left out."""

    seconds_per_epoch: float
    peak_bytes: int
    device: str


def measure(config: RunConfig, registry: Registry, training_passes: int) -> Measured:
    """Denoise one batch by one step, and send one minibatch forth and back, a few times each.

    `training_passes` is how many network passes of one picture an epoch's updates make, guidance not counted.
    """
    require(*TO_DRAW)
    import torch

    from ddpo_core.denoising import Policy

    model = load_model(config, registry)
    denoiser = model.denoiser
    policy = Policy(
        denoiser, model.sampler, model.sampler.schedule(denoiser, config.num_steps), config.guidance_scale
    )

    def step(count: int) -> Any:
        conditioning = {
            key: value.expand(count, *value.shape[1:]) for key, value in denoiser.encode([""]).items()
        }
        latents = torch.zeros(count, *denoiser.latent_shape, device=denoiser.device)
        steps = torch.zeros(count, dtype=torch.long, device=denoiser.device)
        return policy.noise_pred(latents, policy.schedule.timesteps[steps], conditioning)

    def sample() -> None:
        with torch.no_grad():
            step(config.sample_batch_size)

    def learn() -> None:
        step(config.train_batch_size).square().mean().backward()

    with model.accelerator.autocast():
        sampling, learning = _seconds(sample), _seconds(learn)
    batches = config.samples_per_epoch / config.sample_batch_size * config.num_steps
    minibatches = training_passes / config.train_batch_size
    return Measured(batches * sampling + minibatches * learning, _peak_bytes(), str(denoiser.device))


def _seconds(work: Callable[[], None]) -> float:
    """The fastest of a few, after one to warm up."""
    import torch

    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _peak_bytes() -> int:
    """The most that was held: by the GPU where there is one, else by this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
