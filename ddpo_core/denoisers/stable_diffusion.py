"""Every `StableDiffusionPipeline` (1.x, 2.x; ε or v prediction) as a `Denoiser`.

Left out: image-conditioned and inpainting UNets, and those distilled to take a guidance scale.
"""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor

from ddpo_core.denoisers import lora
from ddpo_core.denoisers.pipeline import Loading, PipelineDenoiser, latent_shape
from ddpo_core.denoisers.schedules import diffusion_of
from ddpo_core.errors import UsageError
from ddpo_core.types import Conditioning


class StableDiffusion(PipelineDenoiser):
    """A loaded pipeline. `size` is of its pictures in pixels; None is the model's own."""

    part = "unet"
    lora_targets = lora.UNET

    def __init__(self, pipeline: Any, *, size: int | None = None) -> None:
        config = pipeline.unet.config
        if config.time_cond_proj_dim is not None:
            raise UsageError("model: networks distilled to take a guidance scale (LCM) are not supported")
        own = config.sample_size
        height, width = (own, own) if isinstance(own, int) else own
        shape = latent_shape(pipeline, int(config.in_channels), size, (int(height), int(width)), patch=1)
        super().__init__(pipeline, latent_shape=shape)
        self.process = diffusion_of(pipeline.scheduler)
        self.prediction_type = str(pipeline.scheduler.config.get("prediction_type", "epsilon"))
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UsageError(
                "model: expected a network that predicts epsilon or v_prediction,"
                f" got {self.prediction_type!r}"
            )

    def _embed(self, text: str) -> Conditioning:
        """prompt_embeds [1, S, E], padded to the tokenizer's length."""
        prompt_embeds, _ = self.pipeline.encode_prompt(text, self.device, 1, False)
        return {"prompt_embeds": prompt_embeds}

    def _conditions(self, conditioning: Conditioning) -> dict[str, Any]:
        """The UNet's keywords for a conditioning."""
        return {"encoder_hidden_states": conditioning["prompt_embeds"].to(self.dtype)}

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """ε [b, c, h, w] float32. From v (arXiv 2202.00512 App. D): ε = √ᾱ·v + √(1 − ᾱ)·x."""
        output: Tensor = self.network(
            latents.to(self.dtype), timesteps, **self._conditions(conditioning), return_dict=False
        )[0]
        if self.prediction_type == "epsilon":
            return output.float()
        signal, noise = (scale.view(-1, 1, 1, 1) for scale in self.process.scales(timesteps))
        return signal * output.float() + noise * latents.float()


def load(*, pretrained: str, **options: Any) -> StableDiffusion:
    """Load a local folder or a hub id; `Loading` has the options.

    Raises `UsageError` for another kind of model, `EnvironmentFault` where weights cannot be had.
    """
    loading = Loading(pretrained=pretrained, **options)
    pipeline = loading.pipeline(
        StableDiffusionPipeline, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return loading.settle(StableDiffusion(pipeline, size=loading.size))
