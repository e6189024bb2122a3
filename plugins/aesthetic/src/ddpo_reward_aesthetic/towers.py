"""CLIP's image tower in two libraries, seen as one: pictures → pixels → embeddings of length 1.

read        8-bit pictures, by the library's own preprocessor: the published way
read_tensor the same in tensors, with a gradient and without rounding to 8 bits
embed       what the tower makes of either
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from ddpo_core.errors import EnvironmentFault, UsageError
from ddpo_core.judges import ask_hub, cached_first, loading, locate, shared
from ddpo_core.pixels import of_open_clip, of_processor


class ImageTower(Protocol):
    """CLIP's image tower with its preprocessing."""

    source: str  # what the user calls it
    width: int  # of its embeddings

    def read(self, pictures: Sequence[Image]) -> Tensor:
        """Pixels [B, 3, h, w] float32 of 8-bit RGB pictures."""

    def read_tensor(self, images: Tensor) -> Tensor:
        """Pixels [B, 3, h, w] float32 of images [B, 3, H, W] in [0, 1], differentiable."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, width] float32 of length 1."""


class TransformersTower:
    """The image tower of a transformers `CLIPModel`, shared with every reward that uses the same one."""

    def __init__(self, source: str, device: torch.device, dtype: torch.dtype) -> None:
        self.source = source
        self.device, self.dtype = device, dtype
        folder = locate(source)
        with loading("aesthetic", "clip", folder):
            self.processor = cached_first(folder, lambda local: _load_processor(folder, local))
            self.read_tensor = of_processor(self.processor)
            self.model = shared(
                ("transformers.CLIPModel", folder, str(device), str(dtype)),
                lambda: cached_first(folder, lambda local: _load_clip(folder, device, dtype, local)),
            )
        self.width: int = self.model.config.projection_dim

    def read(self, pictures: Sequence[Image]) -> Tensor:
        pixels: Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels

    def embed(self, pixels: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixels.to(self.device, self.dtype)).pooler_output
        return functional.normalize(self.model.visual_projection(pooled).float(), dim=-1)


class OpenClipTower:
    """The image tower of an open_clip model. `pretrained` is a tag of the architecture, or a file."""

    def __init__(self, source: str, pretrained: str, device: torch.device, dtype: torch.dtype) -> None:
        self.source = source
        self.device, self.dtype = device, dtype
        self.model = shared(
            ("open_clip", source, pretrained, str(device), str(dtype)),
            lambda: _load_open_clip(source, pretrained).to(device, dtype),
        )
        settings = self.model.visual.preprocess_cfg
        self.read_tensor = of_open_clip(settings)
        self._preprocess = _open_clip().transform.image_transform_v2(
            _open_clip().transform.PreprocessCfg(**settings), is_train=False
        )
        self.width: int = self.model.visual.output_dim

    def read(self, pictures: Sequence[Image]) -> Tensor:
        return torch.stack([self._preprocess(picture) for picture in pictures])

    def embed(self, pixels: Tensor) -> Tensor:
        embeds = self.model.encode_image(pixels.to(self.device, self.dtype))
        return functional.normalize(embeds.float(), dim=-1)


# ---- loading -----------------------------------------------------------------------------------------


def _load_processor(folder: str, local_files_only: bool) -> Any:
    """The preprocessor that works with Pillow, as the published scores did, not torchvision's."""
    try:
        from transformers import CLIPImageProcessorPil as Processor
    except ImportError:  # before transformers 5
        from transformers import CLIPImageProcessor as Processor
    return Processor.from_pretrained(folder, local_files_only=local_files_only)


def _load_clip(folder: str, device: torch.device, dtype: torch.dtype, local_files_only: bool) -> Any:
    from transformers import CLIPModel

    model, report = CLIPModel.from_pretrained(
        folder, local_files_only=local_files_only, output_loading_info=True
    )
    if report["missing_keys"]:  # transformers would draw them at random
        raise ValueError(f"a CLIPModel without {sorted(report['missing_keys'])[0]}")
    return model.to(device, dtype).eval().requires_grad_(False)


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise EnvironmentFault(
            "reward 'aesthetic': backend=open-clip needs the package open_clip_torch",
            hint="pip install 'ddpo-reward-aesthetic[open-clip]'",
        ) from error
    return open_clip


def _load_open_clip(source: str, pretrained: str) -> Any:
    open_clip = _open_clip()
    if ":" not in source and source not in open_clip.list_models():
        near = ", ".join(get_close_matches(source, open_clip.list_models(), n=3))
        raise UsageError(
            f"reward 'aesthetic': open_clip knows no architecture '{source}'"
            + (f"; did you mean {near}?" if near else "")
        )
    quick_gelu = False  # the activation belongs to the weights; open_clip only warns of a wrong one
    repo = source
    if ":" not in source and not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(source)
        if pretrained not in tags:
            raise UsageError(
                f"reward 'aesthetic': clip_pretrained={pretrained} is neither a file nor a tag of {source}",
                hint=f"its tags: {', '.join(tags)}" if tags else f"open_clip has no weights for {source}",
            )
        config = open_clip.get_pretrained_cfg(source, pretrained)
        quick_gelu = bool(config.get("quick_gelu"))
        repo = config["hf_hub"].rstrip("/") or config["url"]
    with loading("aesthetic", "clip_pretrained", repo if repo != source else pretrained):
        if repo != source:
            _ask_unless_cached(repo)
        model = open_clip.create_model(
            source,
            pretrained=None if ":" in source else pretrained,
            force_quick_gelu=quick_gelu,
            require_pretrained=True,
        )
    return model.eval().requires_grad_(False)


def _ask_unless_cached(repo: str) -> None:
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(repo, name), str) for name in names):
        ask_hub()
