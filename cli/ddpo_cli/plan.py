"""`ddpo train --dry-run`: what a run would do and need, worked out without torch.

Network evaluations follow from the settings. Sizes are read from the weights' own headers, where those are
on this machine. Time is not guessed here: `measure.py` times one step.
"""

from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_cli import specs, tasks
from ddpo_cli.resolve import Resolved
from ddpo_cli.settings import RunConfig
from ddpo_core.denoisers.lora import lora_layers

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

BYTES = {"no": 4, "bf16": 2, "fp16": 2}
ADAM_COPIES = 4  # the weight, its gradient and two moments, all float32


@dataclass(frozen=True)
class Evaluations:
    """Passes of one picture's latents through the network."""

    sampling: int  # forward
    training: int  # forward and backward


@dataclass(frozen=True)
class Sizes:
    """What is known of the network from its files. Bytes."""

    network_weights: int  # count
    trainable_weights: int  # count
    model_bytes: int  # network at its precision, autoencoder and text encoder
    optimiser_bytes: int
    trajectory_bytes: int  # one epoch's, on the host


@dataclass(frozen=True)
class Plan:
    """A run before it is run."""

    samples_per_epoch: int
    samples: int
    reward_queries: int  # samples scored by a reward that is trained on
    updates: int
    samples_per_update: int
    per_epoch: Evaluations
    in_all: Evaluations
    sizes: Sizes | None  # None: the weights are not on this machine


def make_plan(config: RunConfig, registry: Registry) -> Plan:
    """Arithmetic, and a look at the weights' headers."""
    passes = 2 if config.guidance_scale != 1 else 1
    options = specs.all_options(registry, "estimator", config.estimator)
    rounds = int(options.get("inner_epochs", 1) or 1)
    steps = trained_steps(config.num_steps, options)
    each = steps if options.get("update_per_timestep") else 1
    pretraining = 1 if config.pretrain else 0
    turns = tasks.tasks_of(config)
    samples = config.samples_per_epoch * len(turns)
    # a mixer of gradients sends every sample back once for each reward
    backward = max(len(turns[0].reward), 1) if config.mixer == "pcgrad" else 1
    per_epoch = Evaluations(
        sampling=samples * config.num_steps * passes,
        training=samples * steps * rounds * passes * backward,
    )
    return Plan(
        samples_per_epoch=samples,
        samples=samples * config.epochs,
        reward_queries=config.samples_per_epoch * config.epochs * len(tasks.rewards_of(config)),
        updates=(config.updates_per_epoch * rounds * each * len(turns) + pretraining) * config.epochs,
        samples_per_update=config.samples_per_epoch // config.updates_per_epoch,
        per_epoch=per_epoch,
        in_all=Evaluations(per_epoch.sampling * config.epochs, per_epoch.training * config.epochs),
        sizes=_sizes(config, registry),
    )


def trained_steps(num_steps: int, options: Mapping[str, Any]) -> int:
    """Of each sample in one pass: by what the estimator's options say, or all of them."""
    if options.get("timestep_count"):  # also of an estimator that draws timesteps of its own
        return int(options["timestep_count"])
    steps = max(1, round(num_steps * float(options.get("early_fraction") or 1.0)))
    steps = min(steps, int(options.get("window") or steps))
    return max(1, round(steps * float(options.get("timestep_fraction") or 1.0)))


def as_json(plan: Plan, resolved: Resolved, seconds: Mapping[str, float] | None) -> str:
    """`--dry-run --json`."""
    settings = {
        name: {"value": value, "origin": resolved.origins[name]}
        for name, value in asdict(resolved.config).items()
    }
    return json.dumps(
        {"schema": 1, "plan": asdict(plan), "measured": seconds, "settings": settings}, indent=2
    )


# sizes


def model_folder(config: RunConfig, registry: Registry) -> Path | None:
    """The diffusers folder of a model, if it is on this machine; nothing is downloaded."""
    found = specs.find(registry, "model", config.model)
    pretrained = found.spec.options.get("pretrained")
    if isinstance(pretrained, str):
        return Path(pretrained) if Path(pretrained).is_dir() else _cached(pretrained)
    package = importlib.util.find_spec(found.info.factory.partition(":")[0].partition(".")[0])
    for place in (package.submodule_search_locations or ()) if package else ():
        for index in Path(place).rglob("model_index.json"):
            return index.parent
    return None


def _cached(hub_id: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    file = try_to_load_from_cache(hub_id, "model_index.json")
    return Path(file).parent if isinstance(file, str) else None


def _sizes(config: RunConfig, registry: Registry) -> Sizes | None:
    folder = model_folder(config, registry)
    if folder is None or not (folder / "unet" / "config.json").is_file():
        return None
    network = dict(tensor_shapes(folder / "unet"))
    if not network:
        return None
    frozen = sum(
        math.prod(shape) for part in ("vae", "text_encoder") for _, shape in tensor_shapes(folder / part)
    )
    weights = sum(math.prod(shape) for shape in network.values())
    lora = lora_weights(network, config.lora_rank, config.lora_targets)
    trained = lora if config.lora_rank else weights
    width = BYTES[config.mixed_precision] if config.lora_rank else 4
    return Sizes(
        network_weights=weights,
        trainable_weights=trained,
        model_bytes=weights * width + frozen * 4,
        optimiser_bytes=trained * 4 * (ADAM_COPIES if config.lora_rank else ADAM_COPIES - 1),
        trajectory_bytes=_trajectory_bytes(config, folder),
    )


def tensor_shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor, from the safetensors headers alone."""
    files = sorted(folder.glob("*.safetensors"))
    full = [file for file in files if ".fp16." not in file.name and "non_ema" not in file.name]
    for file in full or files:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
        yield from ((name, about["shape"]) for name, about in header.items() if name != "__metadata__")


def lora_weights(shapes: Mapping[str, list[int]], rank: int, targets: tuple[str, ...]) -> int:
    """Weights of a LoRA: rank × (inputs + outputs) of each layer that is hit; a kernel counts as inputs."""
    layers = lora_layers(targets)
    total = 0
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        hit = any(layer == target or layer.endswith("." + target) for target in layers)
        if hit and name.endswith(".weight") and len(shape) >= 2:
            total += rank * (math.prod(shape[1:]) + shape[0])
    return total


def _trajectory_bytes(config: RunConfig, folder: Path) -> int:
    unet: dict[str, Any] = json.loads((folder / "unet" / "config.json").read_text())
    size = unet.get("sample_size") or 64
    area = size * size if isinstance(size, int) else int(math.prod(size))
    vae = json.loads((folder / "vae" / "config.json").read_text()) if (folder / "vae").is_dir() else {}
    scale: int = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    latents, pixels = int(unet.get("in_channels", 4)) * area, 3 * area * scale**2
    return config.samples_per_epoch * 4 * ((config.num_steps + 1) * latents + pixels)
