"""Every `StableDiffusionXLPipeline` as a `Denoiser`: two text encoders, and a UNet told the picture's size.

The sizes told to the network are those of a picture that was neither scaled nor cropped (arXiv 2307.01952
§2.2), as the pipeline does by itself. Left out: the refiner, which is another pipeline.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from ddpo_core.denoisers.pipeline import Loading
from ddpo_core.denoisers.stable_diffusion import StableDiffusion
from ddpo_core.types import Conditioning


class SDXL(StableDiffusion):
    """A loaded pipeline. `size` is of its pictures in pixels; None is the model's own."""

    def __init__(self, pipeline: Any, *, size: int | None = None) -> None:
        super().__init__(pipeline, size=size)
        _, height, width = self.latent_shape
        pixels = [side * int(pipeline.vae_scale_factor) for side in (height, width)]
        # original size, top left corner of the crop, target size: [6] numbers, height before width
        self.time_ids = torch.tensor([*pixels, 0, 0, *pixels], dtype=torch.float32)

    def _embed(self, text: str) -> Conditioning:
        """prompt_embeds [1, S, E] of both encoders side by side, pooled_prompt_embeds [1, P] of the second.

        The empty prompt is all zeros where the pipeline says so (`force_zeros_for_empty_prompt`).
        """
        prompt_embeds, _, pooled, _ = self.pipeline.encode_prompt(
            text, device=self.device, do_classifier_free_guidance=False
        )
        if not text and self.pipeline.config.force_zeros_for_empty_prompt:
            prompt_embeds, pooled = torch.zeros_like(prompt_embeds), torch.zeros_like(pooled)
        return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled}

    def _conditions(self, conditioning: Conditioning) -> dict[str, Any]:
        pooled = conditioning["pooled_prompt_embeds"].to(self.dtype)
        self.time_ids = self.time_ids.to(pooled.device)
        return {
            **super()._conditions(conditioning),
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": self.time_ids.expand(len(pooled), -1)},
        }


def load(*, pretrained: str, **options: Any) -> SDXL:
    """Load a local folder or a hub id; `Loading` has the options.

    Raises `UsageError` for another kind of model, `EnvironmentFault` where weights cannot be had.
    """
    loading = Loading(pretrained=pretrained, **options)
    pipeline = loading.pipeline(StableDiffusionXLPipeline, add_watermarker=False)
    return loading.settle(SDXL(pipeline, size=loading.size))
