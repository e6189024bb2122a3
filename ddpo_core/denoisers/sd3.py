"""Every `StableDiffusion3Pipeline` (SD3, SD3.5) as a `Denoiser`: rectified flow in a transformer.

It has two CLIP text encoders and a T5, each of which was dropped at times while the model was trained; one
that a pipeline does not have counts as zeros (arXiv 2403.03206).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from ddpo_core.denoisers import lora
from ddpo_core.denoisers.detect import pipeline_index
from ddpo_core.denoisers.pipeline import Loading, PipelineDenoiser, latent_shape
from ddpo_core.denoisers.schedules import flow_of
from ddpo_core.errors import UsageError
from ddpo_core.types import Conditioning

TEXT_PARTS = tuple(f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
MAX_SHIFT = 1.16  # the pipeline's default for dynamic shifting, which SD3.5's schedulers do not use


class SD3(PipelineDenoiser):
    """A loaded pipeline. `size` is of its pictures in pixels; None is the model's own.

    T5 reads `max_sequence_length` tokens of a prompt, CLIP as many as its tokenizer.
    """

    part = "transformer"
    lora_targets = lora.SD3

    def __init__(self, pipeline: Any, *, size: int | None = None, max_sequence_length: int = 256) -> None:
        config = pipeline.transformer.config
        own, patch = int(config.sample_size), int(config.patch_size)
        shape = latent_shape(pipeline, int(config.in_channels), size, (own, own), patch)
        super().__init__(pipeline, latent_shape=shape)
        side = shape[1] // patch
        if side > config.pos_embed_max_size:
            most = config.pos_embed_max_size * patch * pipeline.vae_scale_factor
            raise UsageError(f"size: this model knows pictures of up to {most} pixels, got {size}")
        self.process = flow_of(pipeline.scheduler, side**2, spacing="linspace", max_shift=MAX_SHIFT)
        self.max_sequence_length = max_sequence_length

    def _embed(self, text: str) -> Conditioning:
        """prompt_embeds [1, S, E]: CLIP's tokens, padded with zeros to T5's width, then T5's.

        pooled_prompt_embeds [1, P]: both CLIPs' side by side.
        """
        clips = [self._embed_clip(text, "text_encoder", "tokenizer")]
        clips += [self._embed_clip(text, "text_encoder_2", "tokenizer_2")]
        config = self.pipeline.transformer.config
        tokens = torch.cat([tokens for tokens, _ in clips], -1)
        tokens = nn.functional.pad(tokens, (0, config.joint_attention_dim - tokens.shape[-1]))
        return {
            "prompt_embeds": torch.cat([tokens, self._embed_t5(text)], -2),
            "pooled_prompt_embeds": torch.cat([pooled for _, pooled in clips], -1),
        }

    def _embed_clip(self, text: str, encoder_name: str, tokenizer_name: str) -> tuple[Tensor, Tensor]:
        """One CLIP's last hidden states but one [1, S, e], and its pooled embedding [1, p]."""
        encoder, tokenizer = (getattr(self.pipeline, name) for name in (encoder_name, tokenizer_name))
        length = self._clip_length
        if encoder is None:
            width = self._width_of_missing_clip(encoder_name)
            return self._zeros(1, length, width), self._zeros(1, width)
        tokens = tokenizer(
            [text], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        output = encoder(tokens.input_ids.to(self.device), output_hidden_states=True)
        return output.hidden_states[-2], output[0]

    def _embed_t5(self, text: str) -> Tensor:
        """[1, S, E] of the third encoder."""
        config, length = self.pipeline.transformer.config, self.max_sequence_length
        if self.pipeline.text_encoder_3 is None:
            return self._zeros(1, length, config.joint_attention_dim)
        tokens = self.pipeline.tokenizer_3(
            [text], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        embeds: Tensor = self.pipeline.text_encoder_3(tokens.input_ids.to(self.device))[0]
        return embeds

    @property
    def _clip_length(self) -> int:
        """Tokens that both CLIPs read; 77 where neither is there to ask."""
        tokenizer = self.pipeline.tokenizer or self.pipeline.tokenizer_2
        return 77 if tokenizer is None else int(tokenizer.model_max_length)

    def _width_of_missing_clip(self, name: str) -> int:
        """What the network's pooled width leaves beside the other one; half of it where both are missing."""
        width = int(self.pipeline.transformer.config.pooled_projection_dim)
        other = "text_encoder_2" if name == "text_encoder" else "text_encoder"
        encoder = getattr(self.pipeline, other)
        return width // 2 if encoder is None else width - int(encoder.config.projection_dim)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity ε − x0 [b, c, h, w] float32, at timesteps N·σ [b]."""
        output: Tensor = self.network(
            hidden_states=latents.to(self.dtype),
            timestep=timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"].to(self.dtype),
            pooled_projections=conditioning["pooled_prompt_embeds"].to(self.dtype),
            return_dict=False,
        )[0]
        return output.float()


def load(*, pretrained: str, t5: bool = True, max_sequence_length: int = 256, **options: Any) -> SD3:
    """Load a local folder or a hub id; `Loading` has the other options.

    Without `t5` the largest text encoder is neither loaded nor used: much less memory, and less of long
    prompts and of written words. Raises `UsageError` for another kind of model, `EnvironmentFault` where
    weights cannot be had.
    """
    loading = Loading(pretrained=pretrained, **options)
    index = pipeline_index(pretrained, loading.revision)
    # diffusers asks to be told of parts that are not there
    parts = dict.fromkeys(name for name in TEXT_PARTS if index.get(name, [None])[0] is None)
    parts |= {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = loading.pipeline(StableDiffusion3Pipeline, **parts)
    return loading.settle(SD3(pipeline, size=loading.size, max_sequence_length=max_sequence_length))
