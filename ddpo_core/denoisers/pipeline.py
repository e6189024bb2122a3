"""What all families share: a diffusers pipeline, of which one network is trained and the rest is frozen.

A family (stable_diffusion.py, sdxl.py, sd3.py, flux.py) adds how a text is encoded, how the network is called
and what shape its latents have. Left out of all of them: conditions other than text, and safety checkers (a
flagged picture comes back black, and the policy would learn it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from ddpo_core.denoisers.detect import check_pipeline_class
from ddpo_core.denoisers.lora import Targets, lora_layers
from ddpo_core.errors import CheckpointError, EnvironmentFault, UsageError
from ddpo_core.nearest import did_you_mean
from ddpo_core.types import Conditioning

# prompts' embeddings kept on the host: 9000 prompts of SD 1.5, 250 of FLUX.1, in float32
CACHE_BYTES = 2 * 1024**3
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class PipelineDenoiser(ABC):
    """A loaded pipeline. Call `adapt` once before training to choose what is trained."""

    part: ClassVar[str]  # the pipeline's name for the network: "unet" or "transformer"
    lora_targets: ClassVar[Targets]  # what "attention" and "all" stand for

    def __init__(self, pipeline: DiffusionPipeline, *, latent_shape: tuple[int, int, int]) -> None:
        self.pipeline: Any = pipeline
        self.network: nn.Module = getattr(pipeline, self.part)
        self.latent_shape = latent_shape
        self.lora_config: LoraConfig | None = None
        self.offload_text_encoders = False
        self._embeddings: OrderedDict[str, Conditioning] = OrderedDict()
        self._handed_out: OrderedDict[tuple[str, ...], Conditioning] = OrderedDict()
        for module in (self._bare, self.pipeline.vae, *self.text_encoders):
            module.requires_grad_(False).eval()

    @property
    def text_encoders(self) -> list[nn.Module]:
        """Those that this pipeline has, up to three."""
        encoders = (getattr(self.pipeline, name, None) for name in TEXT_ENCODERS)
        return [encoder for encoder in encoders if encoder is not None]

    @property
    def _bare(self) -> Any:
        """The network itself, also when `network` is a wrapped one."""
        return getattr(self.pipeline, self.part)

    # Asked of the first weight: diffusers' own `device` and `dtype` walk through all modules, 6 ms a time.

    @property
    def device(self) -> torch.device:
        return torch.device(next(self._bare.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """What the network takes and gives; trained weights may be wider."""
        dtype: torch.dtype = next(self._bare.parameters()).dtype
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
        """Choose the trained weights: a LoRA of this rank, or the whole network for rank 0.

        `lora_alpha` None is the rank itself (a scale of one). `lora_targets` are "attention", "all", or
        names of layers. Trained weights are float32 whatever the dtype of the frozen ones. The LoRA's start
        is drawn from `seed`, and its output starts at zero.
        """
        network = self._bare
        layers = lora_layers(lora_targets, self.lora_targets)
        if gradient_checkpointing:
            network.enable_gradient_checkpointing()
            self.pipeline.vae.enable_gradient_checkpointing()  # for a gradient through the picture
        if getattr(network, "peft_config", None):
            raise UsageError(
                "model: this pipeline has a LoRA already, perhaps of an earlier run",
                hint="take it off with pipe.unload_lora_weights(), or load the pipeline anew",
            )
        if lora_rank == 0:
            network.to(torch.float32).requires_grad_(True)
            return
        self.lora_config = LoraConfig(
            r=lora_rank,
            lora_alpha=lora_alpha or lora_rank,
            target_modules=layers,
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                network.add_adapter(self.lora_config)
            except ValueError as error:
                raise UsageError(
                    f"lora_targets: no layer of this {type(network).__name__} ends in {', '.join(layers)}"
                    + did_you_mean(layers[0], ("attention", "all")),
                    hint="take attention, all, or ends of layers' names, such as to_q",
                ) from error
        for parameter in self.trainable_parameters():
            parameter.data = parameter.data.float()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The network's parameters that require a gradient, in module order."""
        return [parameter for parameter in self._bare.parameters() if parameter.requires_grad]

    def trainable_state(self) -> dict[str, Tensor]:
        """Copies of the trained weights on the CPU, by name."""
        named = self._bare.named_parameters()
        return {name: weight.detach().cpu().clone() for name, weight in named if weight.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put weights from `trainable_state` back. Raises `CheckpointError` where names or shapes differ."""
        trained = {name: weight for name, weight in self._bare.named_parameters() if weight.requires_grad}
        if {name: weight.shape for name, weight in trained.items()} != {k: v.shape for k, v in state.items()}:
            raise CheckpointError(
                f"checkpoint: its {len(state)} trained tensors are not this model's {len(trained)}; was it"
                " saved with another --lora-rank, --lora-targets or --model?"
            )
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(state[name])

    def export(self, folder: Path) -> None:
        """A LoRA for `pipe.load_lora_weights(folder)`, or the whole network as a diffusers folder."""
        if self.lora_config is None:
            self._bare.save_pretrained(folder)
            return
        layers, metadata = f"{self.part}_lora_layers", f"{self.part}_lora_adapter_metadata"
        self.pipeline.save_lora_weights(
            folder,
            **{
                layers: get_peft_model_state_dict(self._bare),
                metadata: {
                    key: sorted(value) if isinstance(value, set) else value
                    for key, value in self.lora_config.to_dict().items()
                },
            },
        )

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """The model as it was before training, while the block runs. Only a LoRA can be lifted off."""
        if self.lora_config is None:
            raise UsageError("the model before training is only at hand with a LoRA; got --lora-rank 0")
        self._bare.disable_adapters()
        try:
            yield
        finally:
            self._bare.enable_adapters()

    # ---- texts -----------------------------------------------------------------------------------

    @abstractmethod
    def _embed(self, text: str) -> Conditioning:
        """What the network is told of one text, [1, …] each, from text encoders on the network's device."""

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Conditioning:
        """What the network is told of each text, [B, …] each, in the text encoders' dtype; cached.

        One text at a time: in a batch the last bits depend on its size, and a resumed run has another cache.
        """
        request = tuple(texts)
        if request not in self._handed_out:
            self._handed_out[request] = self._encode(texts)
        self._handed_out.move_to_end(request)
        while len(self._handed_out) > 2:  # every step of a guided run asks for the empty prompt
            self._handed_out.popitem(last=False)
        return dict(self._handed_out[request])

    def _encode(self, texts: Sequence[str]) -> Conditioning:
        missing = [text for text in dict.fromkeys(texts) if text not in self._embeddings]
        with self._text_encoders_at_hand(needed=bool(missing)):
            for text in missing:
                embedding = self._embed(text)
                self._embeddings[text] = {name: tensor.cpu() for name, tensor in embedding.items()}
        rows = [self._embeddings[text] for text in texts]
        for text in dict.fromkeys(texts):
            self._embeddings.move_to_end(text)
        size = sum(tensor.nbytes for tensor in rows[0].values())
        while len(self._embeddings) * size > CACHE_BYTES:
            self._embeddings.popitem(last=False)
        return {name: torch.cat([row[name] for row in rows]).to(self.device) for name in rows[0]}

    @contextmanager
    def _text_encoders_at_hand(self, *, needed: bool) -> Iterator[None]:
        """The text encoders on the network's device while the block runs, if they do not live there."""
        moves = needed and self.offload_text_encoders and self.device.type != "cpu"
        for encoder in self.text_encoders if moves else ():
            encoder.to(self.device)
        try:
            yield
        finally:
            for encoder in self.text_encoders if moves else ():
                encoder.to("cpu")

    # ---- pictures --------------------------------------------------------------------------------

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] float32 in [0, 1] for finished latents [B, c, h, w]; passes a gradient."""
        vae = self.pipeline.vae
        scale, shift = self._latent_statistics()
        images: Tensor = vae.decode((latents * scale + shift).to(vae.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents [B, c, h, w] float32 of pictures [B, 3, H, W] in [0, 1]: the autoencoder's mean."""
        vae = self.pipeline.vae
        scale, shift = self._latent_statistics()
        encoded: Tensor = vae.encode((2 * images - 1).to(self.device, vae.dtype)).latent_dist.mode().float()
        return (encoded - shift) / scale

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, [1, c or 1, 1, 1] each: what the autoencoder knows is scale · latents + shift.

        Latents are given a spread of one by `scaling_factor`; some autoencoders add a `shift_factor`, and
        some a mean and a standard deviation of each channel.
        """
        config = self.pipeline.vae.config

        def per_channel(values: Sequence[float] | None, otherwise: float) -> Tensor:
            tensor = torch.tensor([otherwise] if values is None else list(values), device=self.device)
            return tensor.view(1, -1, 1, 1)

        std = per_channel(getattr(config, "latents_std", None), 1.0)
        mean = per_channel(
            getattr(config, "latents_mean", None), getattr(config, "shift_factor", None) or 0.0
        )
        return std / config.scaling_factor, mean


D = TypeVar("D", bound=PipelineDenoiser)
P = TypeVar("P", bound=DiffusionPipeline)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a pipeline is loaded: what the loader of every family takes.

    pretrained             a local folder or a hub id
    revision, variant      branch, tag or commit on the hub; weight files of this variant, such as fp16
    size                   pictures' height and width in pixels; None: the model's own
    vae_slicing            decode one picture at a time
    vae_tiling             decode large pictures in overlapping tiles: little memory, faint seams
    compile                torch.compile the network: slow first steps, then faster ones
    offload_text_encoders  keep the text encoders on the CPU while no new prompt is encoded
    device, dtype          of the frozen weights; the autoencoder is in float32, as half precision overflows
                           in some, and decoding is a small part of a run
    """

    pretrained: str
    revision: str | None = None
    variant: str | None = None
    size: int | None = None
    vae_slicing: bool = False
    vae_tiling: bool = False
    compile: bool = False
    offload_text_encoders: bool = True
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32

    def pipeline(self, family: type[P], **parts: object) -> P:
        """The pipeline on the CPU; `parts` replace components and settings of its own.

        Raises `UsageError` for one of another class, `EnvironmentFault` where weights cannot be had.
        """
        check_pipeline_class(self.pretrained, family.__name__, self.revision)
        is_home = self.pretrained.startswith("~")  # in `model,pretrained=~/folder` no shell has replaced it
        try:
            pipeline: P = family.from_pretrained(
                Path(self.pretrained).expanduser() if is_home else self.pretrained,
                revision=self.revision,
                variant=self.variant,
                dtype={"default": self.dtype, "vae": torch.float32},
                **parts,
            )
        except (OSError, ValueError) as error:
            raise EnvironmentFault(
                f"model: cannot load {self.pretrained!r}: {str(error).splitlines()[0]}",
                hint="give a local diffusers folder, or a hub id and a network (`hf auth login` for gated"
                " ones)",
            ) from error
        return pipeline

    def adopt(self, denoiser: D) -> D:
        """A pipeline that somebody else loaded: in the dtypes that `pipeline` loads, and settled."""
        for part in (denoiser.network, *denoiser.text_encoders):
            part.to(self.dtype)
        denoiser.pipeline.vae.to(torch.float32)
        return self.settle(denoiser)

    def settle(self, denoiser: D) -> D:
        """The denoiser on its device, with these choices of memory against speed."""
        denoiser.network.to(self.device)
        vae = denoiser.pipeline.vae.to(self.device)
        denoiser.offload_text_encoders = self.offload_text_encoders
        if not self.offload_text_encoders:
            for encoder in denoiser.text_encoders:
                encoder.to(self.device)
        if self.vae_slicing:
            vae.enable_slicing()
        if self.vae_tiling:
            vae.enable_tiling()
        if self.compile:
            denoiser.network.compile()  # in place: no wrapper, so weights keep their names
        return denoiser


def latent_shape(pipeline: Any, channels: int, size: int | None, own: tuple[int, int], patch: int) -> Shape:
    """c, h, w of latents for pictures of `size` × `size` pixels; None: the model's `own` h and w.

    `channels` is what the network takes: more than its latents have means that it edits pictures.
    """
    if channels != pipeline.vae.config.latent_channels:
        raise UsageError(
            f"model: expected a network that takes the autoencoder's {pipeline.vae.config.latent_channels}"
            f" channels, got one of {channels}; networks that also take a picture are not supported"
        )
    if size is None:
        return channels, *own
    pixels = int(pipeline.vae_scale_factor) * patch
    if size <= 0 or size % pixels:
        below, above = max(1, size // pixels) * pixels, (max(0, size) // pixels + 1) * pixels
        raise UsageError(f"size: expected a multiple of {pixels} pixels, got {size}; take {below} or {above}")
    return channels, size // int(pipeline.vae_scale_factor), size // int(pipeline.vae_scale_factor)


Shape = tuple[int, int, int]
