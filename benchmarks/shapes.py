"""Stable Diffusion pipelines of random weights: the block layout of SD 1.x in several sizes.

The layout is what decides which calls are made: four levels, cross-attention in the first three, two layers a
level, eight heads, a VAE that makes each latent 8 × 8 pixels. Only widths and the latents' size differ.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class Shape:
    """The widths of one size. Latents are 4 × latent_size × latent_size."""

    unet_channels: tuple[int, int, int, int]
    vae_channels: tuple[int, int, int, int]
    latent_size: int
    text_width: int
    text_heads: int
    text_layers: int = 12
    text_tokens: int = 77


SHAPES = {
    "tiny": Shape((32, 32, 32, 32), (32, 32, 32, 32), 8, 32, 4, text_layers=2),
    "small": Shape((32, 64, 128, 128), (32, 32, 64, 64), 16, 128, 4),
    "medium": Shape((32, 64, 128, 128), (32, 32, 64, 64), 32, 128, 4),
    "sd15": Shape((320, 640, 1280, 1280), (128, 256, 512, 512), 64, 768, 12),
}


def build_pipeline(shape: Shape, *, device: str, seed: int = 0) -> StableDiffusionPipeline:
    """Float32 weights that follow from the seed, DDIM with SD 1.x's numbers, no safety checker."""
    torch.manual_seed(seed)
    tokenizer = letter_tokenizer(shape.text_tokens)
    pipeline = StableDiffusionPipeline(
        vae=vae(shape),
        text_encoder=text_encoder(shape, tokenizer),
        tokenizer=tokenizer,
        unet=unet(shape),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline.to(device)


def unet(shape: Shape) -> UNet2DConditionModel:
    """diffusers' defaults are SD 1.x's blocks."""
    return UNet2DConditionModel(
        sample_size=shape.latent_size,
        block_out_channels=shape.unet_channels,
        cross_attention_dim=shape.text_width,
    )


def vae(shape: Shape) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=shape.vae_channels,
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=8 * shape.latent_size,
    )


def text_encoder(shape: Shape, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text half, without its vocabulary: looking a token up costs the same in a short table."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.text_width,
            intermediate_size=4 * shape.text_width,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=shape.text_heads,
            max_position_embeddings=shape.text_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def scheduler() -> DDIMScheduler:
    """SD 1.x's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def letter_tokenizer(length: int) -> CLIPTokenizer:
    """A CLIPTokenizer whose tokens are single letters."""
    letters = list(string.ascii_lowercase)
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:
        vocab, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(
            vocab=str(vocab), merges=str(merges), model_max_length=length, unk_token="<|endoftext|>"
        )
