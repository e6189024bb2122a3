"""The shipped weights, through the same code that loads Stable Diffusion."""

from __future__ import annotations

from pathlib import Path

import torch

from ddpo_core.denoisers.stable_diffusion import StableDiffusion
from ddpo_core.denoisers.stable_diffusion import load as load_stable_diffusion

FOLDER = Path(__file__).with_name("model")


def load(*, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """The pocket model as a `Denoiser`. Raises `EnvironmentFault` where its weights are not there."""
    return load_stable_diffusion(pretrained=str(FOLDER), device=device, dtype=dtype)
