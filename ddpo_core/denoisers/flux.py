"""Every `FluxPipeline` (FLUX.1) as a `Denoiser`: rectified flow in a transformer over 2 × 2 patches.

FLUX.1-dev was distilled to take a guidance scale as an input, so `--guidance-scale` 1 is right for it: one
evaluation a step. A scale other than 1 adds classifier-free guidance with the empty prompt on top.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ddpo_core.denoisers import lora
from ddpo_core.denoisers.pipeline import Loading, PipelineDenoiser, latent_shape
from ddpo_core.denoisers.schedules import flow_of
from ddpo_core.errors import UsageError
from ddpo_core.types import Conditioning

EMBEDDED_GUIDANCE = 3.5
PATCH = 2


class Flux(PipelineDenoiser):
    """A loaded pipeline. `size` is of its pictures in pixels; None is the model's own, 1024 for FLUX.1.

    T5 reads `max_sequence_length` tokens of a prompt. `embedded_guidance` is what the network is told of
    guidance; None is 3.5 where it asks, and nothing where it does not (FLUX.1-schnell).
    """

    part = "transformer"
    lora_targets = lora.FLUX

    def __init__(
        self,
        pipeline: Any,
        *,
        size: int | None = None,
        max_sequence_length: int = 512,
        embedded_guidance: float | None = None,
    ) -> None:
        config = pipeline.transformer.config
        own = int(pipeline.default_sample_size)
        shape = latent_shape(pipeline, int(config.in_channels) // PATCH**2, size, (own, own), PATCH)
        if embedded_guidance is not None and not config.guidance_embeds:
            raise UsageError(
                f"embedded_guidance: this network takes no guidance scale, got {embedded_guidance:g}",
                hint="leave embedded_guidance away; --guidance-scale is the classifier-free one",
            )
        super().__init__(pipeline, latent_shape=shape)
        rows, columns = shape[1] // PATCH, shape[2] // PATCH
        self.process = flow_of(pipeline.scheduler, rows * columns, spacing="trailing")
        self.max_sequence_length = max_sequence_length
        self.embedded_guidance = EMBEDDED_GUIDANCE if embedded_guidance is None else embedded_guidance
        self.image_ids = image_ids(rows, columns)

    def _embed(self, text: str) -> Conditioning:
        """prompt_embeds [1, S, E] of T5, pooled_prompt_embeds [1, P] of CLIP."""
        prompt_embeds, pooled, _ = self.pipeline.encode_prompt(
            text, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled}

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity ε − x0 [b, c, h, w] float32, at timesteps N·σ [b]; the network itself is told σ."""
        prompt_embeds = conditioning["prompt_embeds"].to(self.dtype)
        self.image_ids = self.image_ids.to(latents.device)
        output: Tensor = self.network(
            hidden_states=pack(latents.to(self.dtype)),
            timestep=timesteps / self.process.num_train_timesteps,
            guidance=self._guidance(timesteps),
            pooled_projections=conditioning["pooled_prompt_embeds"].to(self.dtype),
            encoder_hidden_states=prompt_embeds,
            txt_ids=self.image_ids.new_zeros(prompt_embeds.shape[1], 3),
            img_ids=self.image_ids,
            return_dict=False,
        )[0]
        return unpack(output.float(), latents.shape[2] // PATCH)

    def _guidance(self, timesteps: Tensor) -> Tensor | None:
        """[b] float32, for a network that asks."""
        if not self.pipeline.transformer.config.guidance_embeds:
            return None
        return torch.full_like(timesteps, self.embedded_guidance, dtype=torch.float32)


def pack(latents: Tensor) -> Tensor:
    """Tokens [b, h/2 · w/2, 4c]: 2 × 2 patches of latents [b, c, h, w], row by row."""
    return pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """Latents [b, c, h, w] of so many rows of packed tokens: the way back."""
    batch, count, width = tokens.shape
    return pixel_shuffle(tokens.transpose(1, 2).reshape(batch, width, rows, count // rows), PATCH)


def image_ids(rows: int, columns: int) -> Tensor:
    """Each token's place for the rotary embedding [rows · columns, 3] float32: 0, row, column."""
    places = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return places.float()


def load(
    *,
    pretrained: str,
    max_sequence_length: int = 512,
    embedded_guidance: float | None = None,
    **options: Any,
) -> Flux:
    """Load a local folder or a hub id; `Loading` has the other options.

    Raises `UsageError` for another kind of model, `EnvironmentFault` where weights cannot be had.
    """
    loading = Loading(pretrained=pretrained, **options)
    denoiser = Flux(
        loading.pipeline(FluxPipeline),
        size=loading.size,
        max_sequence_length=max_sequence_length,
        embedded_guidance=embedded_guidance,
    )
    return loading.settle(denoiser)
