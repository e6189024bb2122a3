"""What a judge's picture tower wants of its pictures, in tensors only, so that a gradient passes.

For rewards that can be differentiated; a reward that rounds to 8 bits may use the processor of its library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MODES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Pixels:
    """Resize, crop the centre, normalise."""

    resize: int | tuple[int, int] | None  # the shorter side, or (height, width)
    crop: tuple[int, int] | None  # height, width
    mean: tuple[float, ...] = CLIP_MEAN  # per channel
    std: tuple[float, ...] = CLIP_STD
    mode: str = "bicubic"
    antialias: bool = True
    clamp: bool = True  # to [0, 1] after the resize: bicubic overshoots, and a picture file cannot
    inside: bool = False  # the longer side, not the shorter, becomes `resize`; black fills the rest

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] for a tower, float32, of images [B, 3, H, W] in [0, 1]."""
        images = self._resized(images.float())
        if self.crop is not None:
            images = _centre(images, self.crop)
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        size = self.resize
        if isinstance(size, int) and self.inside:
            size = (round(size * height / max(height, width)), round(size * width / max(height, width)))
        elif isinstance(size, int):  # the longer side is rounded down
            size = (int(size * height / min(height, width)), int(size * width / min(height, width)))
        if size is None or size == (height, width):
            return images
        resized = functional.interpolate(
            images, size, mode=self.mode, antialias=self.antialias, align_corners=False
        )
        return resized.clamp(0, 1) if self.clamp else resized


def _centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle [B, 3, h, w]; black where the images are smaller."""
    missing = [max(0, wanted - got) for wanted, got in zip(size, images.shape[-2:], strict=True)]
    if any(missing):
        down, across = missing
        images = functional.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))
    top, left = ((got - wanted) // 2 for wanted, got in zip(size, images.shape[-2:], strict=True))
    return images[..., top : top + size[0], left : left + size[1]]


def of_processor(processor: Any) -> Pixels:
    """The settings of a transformers `CLIPImageProcessor`."""
    size, crop = processor.size, processor.crop_size
    resize = size.get("shortest_edge") or (size["height"], size["width"])
    return Pixels(
        resize=resize if processor.do_resize else None,
        crop=(crop["height"], crop["width"]) if processor.do_center_crop else None,
        mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
        mode=MODES[int(processor.resample)],
    )


def of_open_clip(settings: dict[str, Any]) -> Pixels:
    """The settings of open_clip, from `model.visual.preprocess_cfg`."""
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    squash = settings["resize_mode"] == "squash"
    return Pixels(
        resize=(height, width) if squash else min(height, width),
        crop=None if squash else (height, width),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        mode="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
    )


def finite(images: Tensor) -> Tensor:
    """[B] bool: which images hold numbers only."""
    return torch.isfinite(images).flatten(1).all(dim=1)
