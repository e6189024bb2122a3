"""`ddpo train --dry-run`: memory of a run's passes, counted on this machine without weights or GPU."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddpo_cli.plan import Sizes, model_folder
from ddpo_core.config import specs
from ddpo_core.config.settings import RunConfig
from ddpo_core.errors import DdpoError

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry


@dataclass(frozen=True)
class Memory:
    """Bytes on the device. Rewards are not counted."""

    sampling: int  # beside model and optimiser, as are the next two
    decoding: int
    training: int
    in_all: int  # model, optimiser, and the largest of the three


def estimated(config: RunConfig, registry: Registry, sizes: Sizes | None) -> Memory | None:
    """Memory of a run; None where the model or torch is not here, or its network is of no known kind."""
    folder = model_folder(config, registry)
    if folder is None or sizes is None or importlib.util.find_spec("diffusers") is None:
        return None
    import torch

    from ddpo_core.denoisers.memory import passes

    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]
    options = specs.all_options(registry, "model", config.model)
    try:
        counted = passes(
            folder,
            sample_batch_size=config.sample_batch_size,
            train_batch_size=config.train_batch_size,
            guided=config.guidance_scale != 1,
            dtype=dtype,
            lora_targets=config.lora_targets if config.lora_rank else (),
            gradient_checkpointing=config.gradient_checkpointing,
            vae_slicing=bool(options.get("vae_slicing")),
            size=options.get("size"),
        )
    except DdpoError:
        return None
    largest = max(counted.sampling, counted.decoding, counted.training)
    return Memory(
        counted.sampling,
        counted.decoding,
        counted.training,
        sizes.model_bytes + sizes.optimiser_bytes + largest,
    )
