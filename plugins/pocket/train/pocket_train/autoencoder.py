"""Trains the autoencoder: 64 × 64 × 3 pixels to 16 × 16 × 4 latents and back, 0.8 million parameters.

Two stages. `train_autoencoder` fits both halves, then rescales the latents to zero mean and unit variance.
`refine_decoder` goes on with the decoder alone; latents do not move, so it can run beside the denoiser's
training.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .parallel import Averager, Clock, run_workers, save_atomically
from .render import load_dataset

BATCH = 3  # per worker; small batches and many steps reach a higher PSNR in the same time
SYNC_SECONDS = 2.0
CHECKPOINT_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What one autoencoder stage does."""

    minutes: float
    peak_lr: float
    decoder_only: bool


def new_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL with a factor of 4 between pixels and latents."""
    return AutoencoderKL(
        block_out_channels=(32, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_autoencoder(data: Path, target: Path, minutes: float, workers: int) -> None:
    """Fits a new autoencoder to the pictures in `data` and stores it in `target`; resumes if interrupted."""
    if (target / "config.json").exists():
        return
    fit = Fit(minutes, peak_lr=1e-3, decoder_only=False)
    run_workers(_fit_worker, workers, data, None, target.with_suffix(".state"), fit)
    autoencoder = new_autoencoder()
    autoencoder.load_state_dict(torch.load(target.with_suffix(".state"))["weights"])
    normalise_latents(autoencoder, to_model_range(_spread(data, 1000)))
    autoencoder.save_pretrained(target)


def refine_decoder(data: Path, source: Path, target: Path, minutes: float, workers: int) -> None:
    """Improves the decoder of `source` with its encoder frozen and stores the result in `target`."""
    if (target / "config.json").exists():
        return
    fit = Fit(minutes, peak_lr=6e-4, decoder_only=True)
    run_workers(_fit_worker, workers, data, source, target.with_suffix(".state"), fit)
    autoencoder = AutoencoderKL.from_pretrained(source)
    autoencoder.load_state_dict(torch.load(target.with_suffix(".state"))["weights"])
    autoencoder.save_pretrained(target)


def to_model_range(pixels: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 to [B, 3, H, W] float32 from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """½ L1 + ¼ L1 of neighbour differences + 10 MSE; the last is what PSNR measures."""
    difference = decoded - pixels
    across = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return 0.5 * difference.abs().mean() + 0.25 * across + 10 * difference.pow(2).mean()


def mean_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of the posterior from the unit Gaussian, mean over latent elements, nats."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()


def psnr(decoded: Tensor, pixels: Tensor) -> Tensor:
    """[B] dB for pictures [B, 3, H, W] in -1 to 1 (peak-to-peak 2)."""
    mse = ((decoded - pixels) / 2).pow(2).mean((1, 2, 3))
    return -10 * mse.log10()


@torch.no_grad()
def reconstruct(autoencoder: AutoencoderKL, pixels: np.ndarray) -> Tensor:
    """[B, 3, H, W] in -1 to 1: decoded from the posterior's mode."""
    autoencoder.eval()
    blocks = to_model_range(pixels).split(50)
    return torch.cat(
        [autoencoder.decode(autoencoder.encode(x).latent_dist.mode()).sample.clamp(-1, 1) for x in blocks]
    )


@torch.no_grad()
def normalise_latents(autoencoder: AutoencoderKL, pixels: Tensor) -> None:
    """Moves each latent channel to mean 0 and standard deviation 1 over `pixels` [B, 3, H, W].

    The 1 × 1 convolutions at both ends of the latents take the change up, so decode(encode(x)) stays the
    same, and scaling_factor, which diffusers multiplies latents with, is 1.
    """
    autoencoder.eval()
    blocks = pixels.split(50)
    latents = torch.cat([autoencoder.encode(block).latent_dist.mode() for block in blocks])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    to_latents, from_latents = autoencoder.quant_conv, autoencoder.post_quant_conv
    from_latents.bias += (from_latents.weight[:, :, 0, 0] * mean).sum(1)
    from_latents.weight *= std[None, :, None, None]
    to_latents.weight[:channels] /= std[:, None, None, None]
    to_latents.bias[:channels] = (to_latents.bias[:channels] - mean) / std
    to_latents.bias[channels:] -= 2 * std.log()  # the second half are log variances
    autoencoder.register_to_config(scaling_factor=1.0)


def _fit_worker(rank: int, workers: int, data: Path, source: Path | None, state_file: Path, fit: Fit) -> None:
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s")
    torch.manual_seed(rank)
    autoencoder = new_autoencoder() if source is None else AutoencoderKL.from_pretrained(source)
    trained = _trained_part(autoencoder, fit.decoder_only)
    optimizer = torch.optim.AdamW(trained, fit.peak_lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    used = _load_state(state_file, autoencoder, optimizer)
    clock = Clock(fit.minutes, used)
    averager = Averager(trained, optimizer, clock, SYNC_SECONDS)
    pictures, _ = load_dataset(data)
    # the used time is part of the seed, so that a resumed run does not see the same pictures again
    rng = np.random.default_rng((rank, int(used * 1e6)))
    next_checkpoint, step, recent = clock.elapsed() + CHECKPOINT_SECONDS, 0, 0.0
    while not averager.finished:
        for group in optimizer.param_groups:
            group["lr"] = fit.peak_lr * min(1, (step + 1) / 100) * cosine(clock.fraction())
        batch = to_model_range(pictures[np.sort(rng.integers(0, len(pictures), BATCH))])
        loss = _step_loss(autoencoder, batch, fit.decoder_only)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step, recent = step + 1, recent + loss.item()
        synced = averager.step()
        if step % 200 == 0:
            log.info("%5.0f s  step %d  loss %.4f", clock.elapsed(), step, recent / 200)
            recent = 0.0
        if rank == 0 and synced and (clock.elapsed() > next_checkpoint or averager.finished):
            _save_state(state_file, autoencoder, optimizer, clock)
            next_checkpoint = clock.elapsed() + CHECKPOINT_SECONDS


def _step_loss(autoencoder: AutoencoderKL, pixels: Tensor, decoder_only: bool) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.set_grad_enabled(not decoder_only):
            posterior = autoencoder.encode(pixels).latent_dist
            latents = posterior.sample()
        decoded = autoencoder.decode(latents).sample
    loss = reconstruction_loss(decoded.float(), pixels)
    if decoder_only:
        return loss
    return loss + 1e-4 * mean_kl(posterior.mean.float(), posterior.logvar.float())


def _trained_part(autoencoder: AutoencoderKL, decoder_only: bool) -> list[nn.Parameter]:
    if not decoder_only:
        return list(autoencoder.parameters())
    autoencoder.requires_grad_(False)
    part = nn.ModuleList([autoencoder.post_quant_conv, autoencoder.decoder])
    part.requires_grad_(True)
    return list(part.parameters())


def cosine(fraction: float) -> float:
    """From 1 at the start of the budget to 0.01 at its end."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


def _save_state(
    path: Path, autoencoder: AutoencoderKL, optimizer: torch.optim.Optimizer, clock: Clock
) -> None:
    state = {
        "weights": autoencoder.state_dict(),
        "optimizer": optimizer.state_dict(),
        "used": clock.fraction(),
    }
    save_atomically(state, path)


def _load_state(path: Path, autoencoder: AutoencoderKL, optimizer: torch.optim.Optimizer) -> float:
    """The used fraction of the budget, 0 for a new start."""
    if not path.exists():
        return 0.0
    state = torch.load(path)
    autoencoder.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    return min(state["used"], 1.0)


def _spread(data: Path, count: int) -> np.ndarray:
    """`count` pictures at even distances through the set, [count, 64, 64, 3] uint8."""
    pictures, _ = load_dataset(data)
    return pictures[np.linspace(0, len(pictures) - 1, count).astype(int)]
