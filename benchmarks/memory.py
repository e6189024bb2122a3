"""How much GPU memory training real models takes, counted without a GPU and without their weights.

python benchmarks/memory.py

The configurations are those that the models are published with; `ddpo train --dry-run` counts the same of a
model that is on the machine. Frozen weights bfloat16, the VAE float32, text encoders on the CPU, a LoRA of
rank 16 on attention with its gradient and AdamW's moments in float32. Not counted: CUDA's context, the
allocator's fragmentation, kernels' workspaces, and rewards.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch

from ddpo_core.denoisers.lora import LORA_TARGETS, lora_layers
from ddpo_core.denoisers.memory import passes

RANK, ADAM_BYTES = 16, 16  # a weight, its gradient and two moments
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
}
UNET_15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET_XL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
MMDIT_SD35_MEDIUM = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
MODELS: dict[str, tuple[str, str, dict[str, Any], int]] = {  # folder, class, config, latent channels
    "SD 1.5, 512²": ("unet", "UNet2DConditionModel", UNET_15, 4),
    "SDXL, 1024²": ("unet", "UNet2DConditionModel", UNET_XL, 4),
    "SD 3.5 medium, 1024²": ("transformer", "SD3Transformer2DModel", MMDIT_SD35_MEDIUM, 16),
    "FLUX.1-dev, 1024²": ("transformer", "FluxTransformer2DModel", {"guidance_embeds": True}, 16),
}


def write(folder: Path, part: str, kind: str, config: dict[str, Any], channels: int) -> None:
    """A diffusers folder without weights."""
    index = {part: ["diffusers", kind], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, values in ((part, config), ("vae", {**VAE, "latent_channels": channels})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(values))


def shapes(kind: str, config: dict[str, Any]) -> Iterator[tuple[str, torch.Size]]:
    with torch.device("meta"):
        network = getattr(diffusers, kind).from_config(config)
    yield from ((name, weight.shape) for name, weight in network.named_parameters())


def lora_weights(found: dict[str, torch.Size], kind: str) -> int:
    """Rank × (inputs + outputs) of every layer that is hit."""
    ends = tuple(f".{layer}.weight" for layer in lora_layers(("attention",), LORA_TARGETS[kind]))
    return sum(
        RANK * (shape[0] + math.prod(shape[1:])) for name, shape in found.items() if name.endswith(ends)
    )


def main() -> None:
    print(
        f"{'model':<22}{'batch':>6}{'checkpointing':>15}{'fixed':>9}{'sampling':>10}{'decoding':>10}", end=""
    )
    print(f"{'training':>10}{'in all':>9}   GB")
    for name, (part, kind, config, channels) in MODELS.items():
        found = dict(shapes(kind, config))
        vae = sum(
            math.prod(shape) for _, shape in shapes("AutoencoderKL", {**VAE, "latent_channels": channels})
        )
        fixed = 2 * sum(map(math.prod, found.values())) + 4 * vae + ADAM_BYTES * lora_weights(found, kind)
        for batch, checkpointing in ((1, False), (1, True), (4, False), (4, True)):
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), part, kind, config, channels)
                counted = passes(
                    Path(folder),
                    sample_batch_size=batch,
                    train_batch_size=batch,
                    guided=kind != "FluxTransformer2DModel",
                    dtype=torch.bfloat16,
                    lora_targets=("attention",),
                    gradient_checkpointing=checkpointing,
                    vae_slicing=True,
                )
            parts = (fixed, counted.sampling, counted.decoding, counted.training)
            in_all = fixed + max(parts[1:])
            numbers = [f"{value / 1e9:.1f}" for value in (*parts, in_all)]
            print(
                f"{name:<22}{batch:>6}{'yes' if checkpointing else 'no':>15}{numbers[0]:>9}{numbers[1]:>10}",
                end="",
            )
            print(f"{numbers[2]:>10}{numbers[3]:>10}{numbers[4]:>9}", flush=True)


if __name__ == "__main__":
    main()
