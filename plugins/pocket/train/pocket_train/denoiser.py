"""Trains the denoiser (5.6 million parameters) together with its text encoder (0.5 million), on stored
latents.

Plain noise prediction as in Stable Diffusion, with min-SNR weights (Hang et al. 2023) and captions dropped
at random for classifier-free guidance. What is kept is the exponential moving average of the weights.
"""

from __future__ import annotations

import copy
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ddpo_pocket import world
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .autoencoder import to_model_range
from .parallel import Averager, Clock, run_workers, save_atomically
from .render import load_dataset
from .tokenizer import MAX_LENGTH, build_tokenizer

BATCH = 32  # per worker
PEAK_LR = 8e-4
FLAT_SHARE = 0.35  # of the time at the peak, then a cosine to 1 %
CAPTION_DROPOUT = 0.12
MIN_SNR = 5.0
EMA_SECONDS = 120.0  # memory of the moving average at most; shorter at the start
SYNC_SECONDS = 5.0
CHECKPOINT_SECONDS = 120.0

log = logging.getLogger(__name__)


class Denoiser(nn.Module):
    """The noise prediction network and the text encoder that conditions it, trained as one."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(tokenizer)
        self.unet = new_unet()

    def forward(self, latents: Tensor, timestep: Tensor, token_ids: Tensor) -> Tensor:
        """noise_pred [B, 4, 16, 16] for latents of that shape, timestep [B] and token_ids [B, S]."""
        prompt_embeds = self.text_encoder(token_ids).last_hidden_state
        return self.unet(latents, timestep, prompt_embeds).sample


def new_unet() -> UNet2DConditionModel:
    """An untrained network with cross-attention at 8 × 8 and 4 × 4."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,  # in diffusers this is the number of heads
        norm_num_groups=16,
    )
    # on a CPU in bfloat16, scaled_dot_product_attention's backward took 30 % of a step
    unet.set_attn_processor(AttnProcessor())
    return unet


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder of two layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    encoder.set_attn_implementation("eager")  # see new_unet: here it halves the time
    return encoder


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule but for beta_end, 0.02 for 0.012.

    With 0.012 a share of the picture is left at the last timestep, and 16 × 16 latents show it plainly:
    pictures that start from pure noise would all be a little grey.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """[B, S] token numbers, padded to S = MAX_LENGTH."""
    options = {"padding": "max_length", "max_length": MAX_LENGTH, "truncation": True, "return_tensors": "pt"}
    return tokenizer(captions, **options).input_ids


# --- latents ------------------------------------------------------------------------------------------------


def encode_dataset(data: Path, autoencoder: Path, target: Path, workers: int) -> None:
    """Stores every picture's posterior, [N, 2, 4, 16, 16] float16: mean and standard deviation."""
    if target.exists():
        return
    run_workers(_encode_worker, workers, data, autoencoder, target)
    parts = [_part(target, rank) for rank in range(workers)]
    np.save(target.with_suffix(".partial.npy"), np.concatenate([np.load(part) for part in parts]))
    target.with_suffix(".partial.npy").rename(target)
    for part in parts:
        part.unlink()


@torch.no_grad()
def _encode_worker(rank: int, workers: int, data: Path, autoencoder: Path, target: Path) -> None:
    encoder = AutoencoderKL.from_pretrained(autoencoder).eval()
    pictures, _ = load_dataset(data)
    own = np.array_split(np.arange(len(pictures)), workers)[rank]
    blocks = []
    for places in np.array_split(own, max(1, len(own) // 128)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = encoder.encode(to_model_range(pictures[places])).latent_dist
        blocks.append(torch.stack([posterior.mean, posterior.std], dim=1).half().numpy())
    np.save(_part(target, rank), np.concatenate(blocks))


def _part(target: Path, rank: int) -> Path:
    return target.with_suffix(f".part{rank}.npy")


# --- training -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """What the denoiser learns from."""

    posteriors: np.ndarray  # [N, 2, 4, 16, 16] float16 memory map: mean and standard deviation
    token_ids: Tensor  # [N, S] int64
    empty_caption: Tensor  # [S] int64

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """(latents [B, 4, 16, 16] sampled from the posterior, token_ids [B, S] some of which are empty)."""
        places = torch.randint(0, len(self.posteriors), (size,))
        mean, std = torch.from_numpy(self.posteriors[places.numpy()]).float().unbind(1)
        token_ids = self.token_ids[places].clone()
        token_ids[torch.rand(size) < CAPTION_DROPOUT] = self.empty_caption
        return mean + std * torch.randn_like(mean), token_ids


def min_snr_weights(alphas_cumprod: Tensor) -> Tensor:
    """[T] loss weights min(SNR, γ) / SNR for noise prediction (Hang et al. 2023, equation 8)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=MIN_SNR) / snr


def learning_rate(fraction: float, step: int) -> float:
    """Warm-up over 200 steps, flat for FLAT_SHARE of the time, then a cosine to 1 % of the peak."""
    past_flat = max(0.0, min(1.0, (fraction - FLAT_SHARE) / (1 - FLAT_SHARE)))
    return PEAK_LR * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * past_flat)))


def train_denoiser(data: Path, latents: Path, state_file: Path, minutes: float, workers: int) -> None:
    """Trains that long; `state_file` holds all it takes to go on, and the averaged weights as "ema"."""
    if state_file.exists() and torch.load(state_file)["used"] >= 1:
        return
    run_workers(_train_worker, workers, data, latents, state_file, minutes)


def _train_worker(
    rank: int, workers: int, data: Path, latents: Path, state_file: Path, minutes: float
) -> None:
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    tokenizer = build_tokenizer(world.words())
    torch.manual_seed(0)
    model = Denoiser(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    ema = copy.deepcopy(model)
    used, step = _load_state(state_file, model, ema, optimizer)
    torch.manual_seed(1 + rank + workers * step)
    examples = _load_examples(data, latents, tokenizer)
    clock = Clock(minutes, used)
    averager = Averager(model.parameters(), optimizer, clock, SYNC_SECONDS)
    next_checkpoint, recent = clock.elapsed() + CHECKPOINT_SECONDS, 0.0
    weights, scheduler = min_snr_weights(new_scheduler().alphas_cumprod), new_scheduler()
    while not averager.finished:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(clock.fraction(), step)
        loss, error = _step_loss(model, examples, scheduler, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, recent = step + 1, recent + error
        synced = averager.step()
        if step % 100 == 0:
            log.info("%5.0f s  step %d  noise MSE %.4f", clock.elapsed(), step, recent / 100)
            recent = 0.0
        if rank == 0 and synced:
            _follow(ema, model, clock)
            if clock.elapsed() > next_checkpoint or averager.finished:
                _save_state(state_file, model, ema, optimizer, clock.fraction(), step)
                next_checkpoint = clock.elapsed() + CHECKPOINT_SECONDS


def _step_loss(
    model: Denoiser, examples: Examples, scheduler: DDIMScheduler, weights: Tensor
) -> tuple[Tensor, float]:
    """(weighted loss, unweighted mean squared error of the noise)."""
    latents, token_ids = examples.batch(BATCH)
    timestep = torch.randint(0, len(weights), (BATCH,))
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timestep)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        noise_pred = model(noisy, timestep, token_ids)
    error = (noise_pred.float() - noise).pow(2).mean((1, 2, 3))
    return (error * weights[timestep]).mean(), error.mean().item()


@torch.no_grad()
def _follow(ema: Denoiser, model: Denoiser, clock: Clock) -> None:
    """One round's move of the moving average; early on it remembers a fifth of the elapsed time."""
    memory = min(EMA_SECONDS, clock.elapsed() / 5)
    share = min(1.0, SYNC_SECONDS / memory)
    torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in model.parameters()], share)


def _load_examples(data: Path, latents: Path, tokenizer: CLIPTokenizer) -> Examples:
    _, records = load_dataset(data)
    token_ids = tokenize(tokenizer, [record["caption"] for record in records])
    return Examples(np.load(latents, mmap_mode="r"), token_ids, tokenize(tokenizer, [""])[0])


def _save_state(
    path: Path, model: Denoiser, ema: Denoiser, optimizer: torch.optim.Optimizer, used: float, step: int
) -> None:
    states = {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
    save_atomically({**states, "used": used, "step": step}, path)


def _load_state(
    path: Path, model: Denoiser, ema: Denoiser, optimizer: torch.optim.Optimizer
) -> tuple[float, int]:
    """(used fraction of the budget, steps of this worker); zeros for a new start."""
    if not path.exists():
        return 0.0, 0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    return min(state["used"], 1.0), state["step"]


# --- the result ---------------------------------------------------------------------------------------------


def export_pipeline(state_file: Path, autoencoder: Path, target: Path) -> None:
    """Writes the averaged weights as a pipeline folder; replaces `target` in one move."""
    tokenizer = build_tokenizer(world.words())
    model = Denoiser(tokenizer)
    model.load_state_dict(torch.load(state_file)["ema"])
    vae = AutoencoderKL.from_pretrained(autoencoder)
    vae.register_to_config(_name_or_path="")  # a path of this machine would travel with the model
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # transformers loads weights as they are stored, diffusers as float32: a float16 text encoder would not
    # fit the rest where nobody names a dtype
    pipeline.vae.half()
    pipeline.unet.half()
    partial, old = target.with_name(target.name + ".partial"), target.with_name(target.name + ".old")
    pipeline.save_pretrained(partial)
    for file in partial.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written for their owner alone
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
