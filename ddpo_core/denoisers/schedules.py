"""What a pipeline's scheduler says of its process. How it samples stays behind: samplers are our own."""

from __future__ import annotations

import math
from typing import Any

from diffusers import DDIMScheduler

from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion, Flow


def diffusion_of(scheduler: Any) -> Diffusion:
    """The noise schedule of a diffusion model. Raises `UsageError` for a scheduler without βs."""
    if "beta_schedule" not in scheduler.config:
        raise UsageError(
            f"model: expected a scheduler with a schedule of β, got a {type(scheduler).__name__}; networks"
            " preconditioned on σ or of rectified flow inside a UNet pipeline are not supported"
        )
    ddim = DDIMScheduler.from_config(scheduler.config)
    return Diffusion(
        ddim.alphas_cumprod.double(),
        float(ddim.final_alpha_cumprod),
        steps_offset=int(ddim.config.steps_offset),
        timestep_spacing=str(ddim.config.timestep_spacing),
    )


def flow_of(scheduler: Any, image_tokens: int, *, spacing: str, max_shift: float = 1.15) -> Flow:
    """The time shift of a flow model for pictures of so many tokens, and how its steps are spaced.

    A constant shift s is the scheduler's `shift`. Dynamic shifting has μ, linear in the number of tokens
    (base_shift at 256, max_shift at 4096), and σ' = e^μ / (e^μ + 1/σ − 1), which is the shift s = e^μ
    (arXiv 2403.03206 §5.3.2); of the "linear" type, s = μ. `spacing` ("trailing" or "linspace") and
    `max_shift` are the pipeline's own defaults.
    """
    config = scheduler.config
    if "shift" not in config:
        raise UsageError(
            f"model: expected a flow-matching scheduler, got a {type(scheduler).__name__}; networks that"
            " predict noise inside a transformer pipeline are not supported"
        )
    for unsupported in ("invert_sigmas", "shift_terminal"):
        if config.get(unsupported):
            raise UsageError(f"model: schedulers with {unsupported} are not supported; this one has it")
    shift = float(config.shift)
    if config.get("use_dynamic_shifting"):
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, most = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
        mu = least + (most - least) * (image_tokens - few) / (many - few)
        shift = mu if config.get("time_shift_type", "exponential") == "linear" else math.exp(mu)
    return Flow(int(config.num_train_timesteps), shift, spacing)
