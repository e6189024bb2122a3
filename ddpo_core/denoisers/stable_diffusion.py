"""Every `StableDiffusionPipeline` (1.x, 2.x; ε or v prediction) as a `Denoiser`.

Text encoder and VAE are frozen, there is no safety checker (a flagged picture comes back black, and the
policy would learn it), and prompt embeddings are cached. Left out: image-conditioned and inpainting UNets.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from ddpo_core.denoisers.lora import lora_layers
from ddpo_core.errors import CheckpointError, EnvironmentFault, UsageError
from ddpo_core.processes import Diffusion
from ddpo_core.types import Conditioning

CACHED_PROMPTS = 4096


class StableDiffusion:
    """A loaded pipeline. Call `adapt` once before training to choose what is trained."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.network: nn.Module = pipeline.unet
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        self.process = Diffusion(
            scheduler.alphas_cumprod.double(),
            float(scheduler.final_alpha_cumprod),
            steps_offset=int(scheduler.config.steps_offset),
            timestep_spacing=str(scheduler.config.timestep_spacing),
        )
        self.prediction_type = str(scheduler.config.prediction_type)
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UsageError(
                "model: expected a network that predicts epsilon or v_prediction,"
                f" got {self.prediction_type!r}"
            )
        unet = pipeline.unet
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.latent_shape = (int(unet.config.in_channels), int(height), int(width))
        self.lora_config: LoraConfig | None = None
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()
        for module in (unet, pipeline.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval()

    # Asked of one weight: diffusers' `unet.device` and `unet.dtype` walk through all modules, 6 ms a time.

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipeline.unet.conv_in.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the network takes and gives; trained weights may be wider."""
        dtype: torch.dtype = self.pipeline.unet.conv_in.weight.dtype
        return dtype

    # ---- what is trained -------------------------------------------------------------------------

    def adapt(
        self,
        *,
        lora_rank: int,
        lora_alpha: float | None = None,
        lora_targets: Sequence[str] = ("attention",),
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        """Choose the trained weights: a LoRA of this rank, or the whole UNet for rank 0.

        `lora_alpha` None is the rank itself (a scale of one). `lora_targets` are "attention", "all", or
        names of layers. Trained weights are float32 whatever the dtype of the frozen ones. The LoRA's start
        is drawn from `seed`, and its output starts at zero.
        """
        unet = self.pipeline.unet
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if lora_rank == 0:
            unet.to(torch.float32).requires_grad_(True)
            return
        self.lora_config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha or lora_rank,
            target_modules=lora_layers(lora_targets),
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet.add_adapter(self.lora_config)
        for parameter in self.trainable_parameters():
            parameter.data = parameter.data.float()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The UNet's parameters that require a gradient, in module order."""
        return [parameter for parameter in self.pipeline.unet.parameters() if parameter.requires_grad]

    def trainable_state(self) -> dict[str, Tensor]:
        """Copies of the trained weights on the CPU, by name."""
        named = self.pipeline.unet.named_parameters()
        return {name: weight.detach().cpu().clone() for name, weight in named if weight.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put weights from `trainable_state` back. Raises `CheckpointError` where names or shapes differ."""
        trained = {
            name: weight for name, weight in self.pipeline.unet.named_parameters() if weight.requires_grad
        }
        if {name: weight.shape for name, weight in trained.items()} != {k: v.shape for k, v in state.items()}:
            raise CheckpointError(
                f"checkpoint: its {len(state)} trained tensors are not this model's {len(trained)}; was it"
                " saved with another --lora-rank, --lora-targets or --model?"
            )
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(state[name])

    def export(self, folder: Path) -> None:
        """A LoRA for `pipe.load_lora_weights(folder)`, or the whole UNet as a diffusers folder."""
        unet = self.pipeline.unet
        if self.lora_config is None:
            unet.save_pretrained(folder)
            return
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata={
                key: sorted(value) if isinstance(value, set) else value
                for key, value in self.lora_config.to_dict().items()
            },
        )

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """The model as it was before training, while the block runs. Only a LoRA can be lifted off."""
        if self.lora_config is None:
            raise UsageError("the model before training is only at hand with a LoRA; got --lora-rank 0")
        self.pipeline.unet.disable_adapters()
        try:
            yield
        finally:
            self.pipeline.unet.enable_adapters()

    # ---- the network -----------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """prompt_embeds [B, S, E], padded to the tokenizer's length as the pipeline does; cached."""
        for text in dict.fromkeys(texts):
            if text not in self._embeddings:
                self._embeddings[text] = self._embed(text)
        prompt_embeds = torch.stack([self._embeddings[text] for text in texts])
        while len(self._embeddings) > CACHED_PROMPTS:
            self._embeddings.popitem(last=False)
        return {"prompt_embeds": prompt_embeds}

    def _embed(self, text: str) -> Tensor:
        """[S, E] float32 straight from the text encoder.

        One text at a time: in a batch the last bits depend on its size, and a resumed run has another cache.
        """
        tokenizer, text_encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            [text],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        mask = tokens.attention_mask if getattr(text_encoder.config, "use_attention_mask", False) else None
        embeddings: Tensor = text_encoder(tokens.input_ids, attention_mask=mask)[0]
        return embeddings[0].float()

    def noise_pred(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """ε [b, c, h, w] float32. From v (arXiv 2202.00512 App. D): ε = √ᾱ·v + √(1 − ᾱ)·x."""
        output: Tensor = self.network(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"].to(self.dtype),
            return_dict=False,
        )[0]
        if self.prediction_type == "epsilon":
            return output.float()
        signal, noise = (scale.view(-1, 1, 1, 1) for scale in self.process.scales(timesteps))
        return signal * output.float() + noise * latents.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] float32 in [0, 1] for finished latents [B, c, h, w]; passes a gradient."""
        vae = self.pipeline.vae
        images: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents [B, c, h, w] float32 of pictures [B, 3, H, W] in [0, 1]: the autoencoder's mean."""
        vae = self.pipeline.vae
        encoded = vae.encode((2 * images - 1).to(self.device, vae.dtype)).latent_dist.mode()
        latents: Tensor = encoded.float() * vae.config.scaling_factor
        return latents


def check_folder(folder: Path) -> None:
    """Refuse a local folder that is no StableDiffusionPipeline, before anything is loaded."""
    if not folder.is_dir():
        raise UsageError(f"model: there is no folder {folder}")
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(f"model: expected a diffusers folder, got {folder}, which has no model_index.json")
    family = json.loads(index.read_text()).get("_class_name")
    if family != "StableDiffusionPipeline":
        raise UsageError(
            f"model: {folder} is a {family}; this version trains StableDiffusionPipeline (1.x and 2.x)",
            hint="another family is one plugin hook away: ddpo_models in ddpo_core/hookspecs.py",
        )


def load(
    *,
    pretrained: str,
    revision: str | None = None,
    variant: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableDiffusion:
    """Load a local folder or a hub id; frozen weights in `dtype`, the VAE in float32.

    Raises `UsageError` for a folder of another kind, `EnvironmentFault` where weights cannot be had.
    """
    if Path(pretrained).is_dir() or pretrained.startswith((".", "/", "~")):
        check_folder(Path(pretrained))
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            pretrained,
            revision=revision,
            variant=variant,
            # half precision overflows in some VAEs, and decoding is a small part of a run
            dtype={"default": dtype, "vae": torch.float32},
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"model: cannot load {pretrained!r}: {str(error).splitlines()[0]}",
            hint="give a local diffusers folder, or a hub id and a network (`hf auth login` for gated ones)",
        ) from error
    pipeline.to(device)
    return StableDiffusion(pipeline)
