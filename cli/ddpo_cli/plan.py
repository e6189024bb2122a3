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

from ddpo_core.config import specs, task_specs
from ddpo_core.config.resolve import Resolved
from ddpo_core.config.settings import RunConfig
from ddpo_core.denoisers.lora import LORA_TARGETS, UNET, Targets, lora_layers

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

BYTES = {"no": 4, "bf16": 2, "fp16": 2}
NETWORKS = ("unet", "transformer")  # diffusers' folders
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
    model_bytes: int  # network at its precision, autoencoder in float32, text encoders where they stay
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
    turns = task_specs.tasks_of(config)
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
        reward_queries=config.samples_per_epoch * config.epochs * len(task_specs.rewards_of(config)),
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


def as_json(
    plan: Plan, resolved: Resolved, memory: Mapping[str, int] | None, seconds: Mapping[str, float] | None
) -> dict[str, object]:
    """`--dry-run --json`."""
    settings = {
        name: {"value": value, "origin": resolved.origins[name]}
        for name, value in asdict(resolved.config).items()
    }
    return {"plan": asdict(plan), "memory": memory, "measured": seconds, "settings": settings}


# sizes


def model_folder(config: RunConfig, registry: Registry) -> Path | None:
    """The diffusers folder of a model, if it is on this machine; nothing is downloaded."""
    found = specs.find(registry, "model", config.model)
    pretrained = found.spec.options.get("pretrained")
    if isinstance(pretrained, str):
        return Path(pretrained) if Path(pretrained).is_dir() else _cached(pretrained)
    if not isinstance(found.info.factory, str):
        return None
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
    part = network_part(folder) if folder else None
    network = dict(tensor_shapes(folder / part)) if folder and part else {}
    if not folder or not part or not network:
        return None
    options = specs.all_options(registry, "model", config.model)
    weights = sum(math.prod(shape) for shape in network.values())
    known = LORA_TARGETS.get(str(_about(folder / part).get("_class_name")), UNET)
    lora = lora_weights(network, config.lora_rank, config.lora_targets, known)
    trained = lora if config.lora_rank else weights
    width = BYTES[config.mixed_precision] if config.lora_rank else 4
    return Sizes(
        network_weights=weights,
        trainable_weights=trained,
        model_bytes=weights * width
        + _frozen_bytes(folder, config, bool(options.get("offload_text_encoders"))),
        optimiser_bytes=trained * 4 * (ADAM_COPIES if config.lora_rank else ADAM_COPIES - 1),
        trajectory_bytes=_trajectory_bytes(
            config,
            folder / part,
            folder / "vae",
            size=options.get("size"),
            keeps_steps="trajectory" in specs.find(registry, "estimator", config.estimator).info.needs,
        ),
    )


def network_part(folder: Path) -> str | None:
    """The folder of what is trained: a UNet or a transformer."""
    return next((part for part in NETWORKS if (folder / part / "config.json").is_file()), None)


def _frozen_bytes(folder: Path, config: RunConfig, text_encoders_go: bool) -> int:
    """Autoencoder in float32; text encoders in the network's precision, where they stay on the device."""
    count = {part.name: sum(math.prod(s) for _, s in tensor_shapes(part)) for part in folder.iterdir()}
    texts = sum(weights for part, weights in count.items() if part.startswith("text_encoder"))
    return 4 * count.get("vae", 0) + (0 if text_encoders_go else BYTES[config.mixed_precision] * texts)


def tensor_shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of every tensor, from the safetensors headers alone."""
    files = sorted(folder.glob("*.safetensors"))
    full = [file for file in files if ".fp16." not in file.name and "non_ema" not in file.name]
    for file in full or files:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
        yield from ((name, about["shape"]) for name, about in header.items() if name != "__metadata__")


def lora_weights(shapes: Mapping[str, list[int]], rank: int, targets: tuple[str, ...], known: Targets) -> int:
    """Weights of a LoRA: rank × (inputs + outputs) of each layer that is hit; a kernel counts as inputs."""
    layers = lora_layers(targets, known)
    total = 0
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        hit = any(layer == target or layer.endswith("." + target) for target in layers)
        if hit and name.endswith(".weight") and len(shape) >= 2:
            total += rank * (math.prod(shape[1:]) + shape[0])
    return total


def _about(part: Path) -> dict[str, Any]:
    """The config of a part of the pipeline."""
    about: dict[str, Any] = json.loads((part / "config.json").read_text())
    return about


def _trajectory_bytes(
    config: RunConfig, network: Path, vae_folder: Path, *, size: int | None, keeps_steps: bool
) -> int:
    """An epoch's latents, of every step or the finished ones, and its pictures; float32."""
    vae = _about(vae_folder) if vae_folder.is_dir() else {}
    scale: int = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    own = _about(network).get("sample_size") or (64 if network.name == "unet" else 128)
    side = own if size is None else size // scale
    area = side * side if isinstance(side, int) else int(math.prod(side))
    latents, pixels = int(vae.get("latent_channels", 4)) * area, 3 * area * scale**2
    kept = config.num_steps + 1 if keeps_steps else 1
    return config.samples_per_epoch * 4 * (kept * latents + pixels)
