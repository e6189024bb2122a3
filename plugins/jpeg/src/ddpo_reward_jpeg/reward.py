"""How many kilobytes a picture takes as a JPEG file (DDPO, arXiv 2305.13301, section 5.1).

Picture → 8 bits → JPEG in memory → bytes / 1000. Takes torch tensors and numpy arrays, and imports no torch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ddpo_core import Prompt, RewardError, UsageError

Pixels = np.ndarray[Any, np.dtype[Any]]
KILOBYTE = 1000  # bytes, as in the paper's code


class Incompressibility:
    """The file size in kB."""

    def __init__(self, *, quality: int = 95, resize: int | None = None, threads: int | None = None) -> None:
        """`resize` is the side in pixels of a square to resize to first; `threads` None is one per CPU.

        Raises `UsageError` for a quality outside 1–100, or a side or number of threads below 1.
        """
        if not 1 <= quality <= 100:  # Pillow would clamp it in silence
            raise UsageError(f"the reward jpeg expects a quality from 1 to 100, got {quality}")
        if resize is not None and resize < 1:
            raise UsageError(f"the reward jpeg expects resize to be a side of 1 pixel or more, got {resize}")
        if threads is not None and threads < 1:
            raise UsageError(f"the reward jpeg expects 1 thread or more, got {threads}")
        self.quality = quality
        self.resize = resize
        self.threads = threads or _usable_cpus()

    def __call__(self, images: Any, prompts: Sequence[Prompt]) -> list[float]:
        """kB of each of the images [B, 3, H, W]: floats in [0, 1], or integers in 0–255."""
        return [size / KILOBYTE for size in self.file_sizes(_as_pixels(images))]

    def file_sizes(self, images: Pixels) -> list[int]:
        """Bytes of each of the images [B, 3, H, W]. Pillow lets go of the interpreter while it encodes."""
        measure = partial(file_size, quality=self.quality, resize=self.resize)
        with ThreadPoolExecutor(min(self.threads, max(1, len(images)))) as pool:
            return list(pool.map(measure, images))


class Compressibility(Incompressibility):
    """Minus the file size in kB."""

    def __call__(self, images: Any, prompts: Sequence[Prompt]) -> list[float]:
        """−kB of each of the images [B, 3, H, W]: floats in [0, 1], or integers in 0–255."""
        return [-kilobytes for kilobytes in super().__call__(images, prompts)]


def file_size(image: Pixels, *, quality: int, resize: int | None = None) -> int:
    """Bytes of one image [3, H, W] as a JPEG file."""
    picture = Image.fromarray(np.ascontiguousarray(to_uint8(image).transpose(1, 2, 0)))
    if resize is not None:
        picture = picture.resize((resize, resize), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.tell()


def to_uint8(image: Pixels) -> Pixels:
    """Floats in [0, 1] to 0–255, rounded and clamped as in DDPO's PyTorch code; its JAX code truncates."""
    if np.issubdtype(image.dtype, np.integer):
        return image.clip(0, 255).astype(np.uint8)
    return np.rint(image * np.float32(255)).clip(0, 255).astype(np.uint8)


def _as_pixels(images: Any) -> Pixels:
    """A batch as numpy. Raises `RewardError` for another shape, or a picture that is not all numbers."""
    if hasattr(images, "detach"):  # a torch tensor
        images = images.detach().cpu()
        images = images.float() if images.is_floating_point() else images  # numpy knows no bfloat16
    pixels = np.asarray(images)
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise RewardError(f"the reward jpeg expects images [B, 3, H, W], got {list(pixels.shape)}")
    broken = ~np.isfinite(pixels).all(axis=(1, 2, 3))
    if broken.any():
        raise RewardError(
            f"the reward jpeg expects numbers, got NaN or infinity in image {int(broken.argmax())}"
        )
    return pixels


def _usable_cpus() -> int:
    """CPUs this process may run on, which in a container are fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS, not on Windows
        return os.cpu_count() or 1
