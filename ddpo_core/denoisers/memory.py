"""How much memory a model's passes need, found without weights, GPU or time.

The network of a diffusers folder is built from its config with tensors that have a shape and no content
(torch's FakeTensorMode) and run once: forwards, counting what is alive at once, and with a gradient,
counting what autograd keeps for the way back. Attention is counted as the fused kernels have it: no matrix
of scores. Not counted: the allocator's fragmentation, CUDA's own context and the workspaces of its kernels.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ddpo_core.denoisers.lora import LORA_TARGETS, UNET, lora_layers
from ddpo_core.errors import UsageError

FLUX_SIDE = 128  # its config does not say: 1024 pixels
CAPTION_TOKENS = {
    "UNet2DConditionModel": 77,
    "SD3Transformer2DModel": 77 + 256,
    "FluxTransformer2DModel": 512,
}


@dataclass(frozen=True)
class Passes:
    """Bytes beside weights and optimiser that each kind of pass holds at most."""

    sampling: int  # a denoising step without gradient
    decoding: int  # latents to pictures
    training: int  # forward, and what is kept for the way back


def passes(
    folder: Path,
    *,
    sample_batch_size: int,
    train_batch_size: int,
    guided: bool,
    dtype: torch.dtype,
    lora_targets: Sequence[str],
    gradient_checkpointing: bool,
    vae_slicing: bool = False,
    size: int | None = None,
) -> Passes:
    """Count the passes of the pipeline in a diffusers folder; no `lora_targets`: all weights are trained.

    `size`: height and width of the pictures in pixels, where they are not the model's own. Raises
    `UsageError` for a network whose inputs are not known here.
    """
    times = 2 if guided else 1
    side = latent_side(folder, size)
    with FakeTensorMode(), torch.device("cuda"), _default_dtype(dtype):
        network = _build(folder, "transformer" if (folder / "transformer").is_dir() else "unet")
        network.requires_grad_(not lora_targets)
        ends = lora_layers(lora_targets, LORA_TARGETS.get(type(network).__name__, UNET))
        for name, weight in network.named_parameters():
            layer = name.removesuffix(".weight")
            if any(layer == end or layer.endswith("." + end) for end in ends):
                weight.requires_grad_(True)  # a LoRA keeps its layer's input, as a trained layer does
        with _fused_attention():
            inputs = _inputs(network, sample_batch_size * times, side)
            with torch.no_grad():
                sampling = _most_alive(network, lambda: network(**inputs))
            inputs = _inputs(network, train_batch_size * times, side)
            training = _kept(network, inputs, gradient_checkpointing)
    with FakeTensorMode(), torch.device("cuda"), _default_dtype(torch.float32):
        vae = _build(folder, "vae")
        pictures = 1 if vae_slicing else sample_batch_size
        latents = torch.empty(pictures, vae.config.latent_channels, side, side)
        with torch.no_grad(), _fused_attention():
            decoding = _most_alive(vae, lambda: vae.decode(latents))
    return Passes(sampling, decoding, training)


def _build(folder: Path, part: str) -> Any:
    """A part of the pipeline from its config, without weights."""
    library, kind = json.loads((folder / "model_index.json").read_text())[part]
    model_class = getattr(diffusers, kind, None)
    if model_class is None:
        raise UsageError(f"model: {folder.name} has a {library}.{kind}, which diffusers does not know")
    return model_class.from_config(model_class.load_config(folder / part)).train()


def latent_side(folder: Path, size: int | None) -> int:
    """Height and width of the latents of square pictures of `size` pixels, or of the model's own."""
    if size is not None:
        vae = json.loads((folder / "vae" / "config.json").read_text())
        scale: int = 2 ** (len(vae["block_out_channels"]) - 1)
        return size // scale
    part = folder / ("transformer" if (folder / "transformer").is_dir() else "unet")
    side = json.loads((part / "config.json").read_text()).get("sample_size") or FLUX_SIDE
    return int(side if isinstance(side, int) else max(side))


def _inputs(network: Any, batch: int, side: int) -> dict[str, Any]:
    """Arguments of the network's forward, with the shapes that its pipeline gives them."""
    config, kind = network.config, type(network).__name__
    if kind not in CAPTION_TOKENS:
        raise UsageError(f"model: expected one of {', '.join(CAPTION_TOKENS)}, got {kind}")
    tokens = CAPTION_TOKENS[kind]
    if kind == "FluxTransformer2DModel":  # its latents come packed: a token for each 2 × 2
        patches = (side // 2) ** 2
        return {
            "hidden_states": torch.empty(batch, patches, config.in_channels),
            "encoder_hidden_states": torch.empty(batch, tokens, config.joint_attention_dim),
            "pooled_projections": torch.empty(batch, config.pooled_projection_dim),
            "timestep": torch.empty(batch),
            "img_ids": torch.empty(patches, 3),
            "txt_ids": torch.empty(tokens, 3),
            "guidance": torch.empty(batch) if config.guidance_embeds else None,
        }
    latents = torch.empty(batch, config.in_channels, side, side)
    if kind == "SD3Transformer2DModel":
        return {
            "hidden_states": latents,
            "encoder_hidden_states": torch.empty(batch, tokens, config.joint_attention_dim),
            "pooled_projections": torch.empty(batch, config.pooled_projection_dim),
            "timestep": torch.empty(batch),
        }
    inputs: dict[str, Any] = {
        "sample": latents,
        "timestep": torch.empty(batch),
        "encoder_hidden_states": torch.empty(batch, tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":  # SDXL: six numbers on size and crop, and a pooled caption
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(batch, pooled),
            "time_ids": torch.empty(batch, 6),
        }
    return inputs


# ---- counting ----------------------------------------------------------------------------------------


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operators have made and nobody has dropped yet; not of the weights."""

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self.known = storages(weights)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return output

    def add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _most_alive(module: nn.Module, work: Callable[[], Any]) -> int:
    """The most bytes that are alive at once of what `work` makes with a module's weights."""
    alive = _Alive(module)
    with alive:
        work()
    return alive.most


def storages(module: nn.Module) -> set[int]:
    """What a module's weights and buffers lie in."""
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage()._cdata for tensor in tensors}


class _Saved:
    """Bytes of the storages that autograd keeps, each counted once; weights are there anyway."""

    def __init__(self, weights: nn.Module) -> None:
        self.weights = storages(weights)
        self.sizes: dict[int, int] = {}
        self.tensors: list[Tensor] = []  # so that no storage's number is used again

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.sizes[storage._cdata] = storage.nbytes()
            self.tensors.append(tensor)
        return tensor

    @contextmanager
    def watching(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor):
            yield

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def _kept(network: Any, inputs: dict[str, Any], gradient_checkpointing: bool) -> int:
    """What is kept for the way back; with checkpointing the blocks' inputs, and one block at a time."""
    saved, largest = _Saved(network), 0

    def checkpoint(block: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal largest
        for argument in arguments:
            if isinstance(argument, Tensor):
                saved.add(argument)
        inside = _Saved(network)
        with inside.watching():
            output = block(*arguments)
        largest = max(largest, inside.total)
        return output

    if gradient_checkpointing:
        network.enable_gradient_checkpointing(checkpoint)
    with saved.watching():
        network(**inputs)
    return saved.total + largest


class _Fused(torch.autograd.Function):
    """Attention as a fused kernel keeps it: query, key, value, the result, and one number for each row.

    It has a way forward only; nothing is ever sent back through shapes.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, rows)
        return output


@contextmanager
def _fused_attention() -> Iterator[None]:
    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        output: Tensor = _Fused.apply(query, key, value)
        return output

    with patch.object(functional, "scaled_dot_product_attention", attention):
        yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
