"""The LAION aesthetic grade: picture → 8 bits → CLIP's embedding e, |e| = 1 → five linear layers → grade.

DDPO's aesthetic task (arXiv 2305.13301, section 5.2). Its first runs gave the preprocessor floats in [0, 1],
which were divided by 255 once more; here it is only ever given 8-bit pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddpo_core import Prompt, UsageError
from ddpo_core.judges import pick_device, pick_dtype, to_pil
from ddpo_core.pixels import finite
from ddpo_reward_aesthetic import CLIP, HEAD
from ddpo_reward_aesthetic.head import load_head
from ddpo_reward_aesthetic.towers import ImageTower, OpenClipTower, TransformersTower


class Aesthetic:
    """Grades of pictures; the prompt plays no part."""

    def __init__(
        self,
        *,
        clip: str = CLIP,
        backend: str = "transformers",
        clip_pretrained: str | None = None,
        head: str = HEAD,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """The options of `ddpo rewards show aesthetic`.

        Raises `EnvironmentFault` for weights that are not there or not what they should be, and `UsageError`
        for a head that was made for another CLIP.
        """
        self.device = pick_device(device)
        self.batch_size = batch_size
        precision = pick_dtype(dtype, self.device)
        self.head = load_head(head).to(self.device)  # first: it is small, and fails fast
        self.tower = _tower(clip, backend, clip_pretrained, self.device, precision)
        if self.head.width != self.tower.width:
            raise UsageError(
                f"reward 'aesthetic': head={head} reads embeddings of {self.head.width} numbers,"
                f" clip={self.tower.source} makes {self.tower.width}",
                hint="a head works with the CLIP it was fitted on; LAION's is for ViT-L/14",
            )

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Grades [B] float32 of images [B, 3, H, W] in [0, 1], rounded to 8 bits; NaN for a broken image."""
        pictures = to_pil(images)
        grades = [
            self.head(self.tower.embed(self.tower.read(pictures[start : start + self.batch_size]))).cpu()
            for start in range(0, len(pictures), self.batch_size)
        ]
        return torch.cat([torch.empty(0), *grades]).where(finite(images.detach().cpu()), torch.nan)

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Grades [B] float32 with a gradient to images [B, 3, H, W] in [0, 1], on the images' device.

        Nothing is rounded to 8 bits, and all images are judged at once: a gradient holds every activation.
        """
        pixels = self.tower.read_tensor(images.to(self.device))
        grades: Tensor = self.head(self.tower.embed(pixels))
        return grades.to(images.device)

    def close(self) -> None:
        """Let go of CLIP; its memory is free when no other reward holds the same one."""
        for name in ("tower", "head"):
            vars(self).pop(name, None)  # closing twice is fine


def _tower(
    clip: str, backend: str, clip_pretrained: str | None, device: torch.device, dtype: torch.dtype
) -> ImageTower:
    if backend == "open-clip":
        architecture = "ViT-L-14" if clip == CLIP else clip
        return OpenClipTower(architecture, clip_pretrained or "openai", device, dtype)
    if backend != "transformers":
        raise UsageError(f"reward 'aesthetic': backend is transformers or open-clip, got {backend!r}")
    if clip_pretrained is not None:
        raise UsageError(
            f"reward 'aesthetic': clip_pretrained={clip_pretrained} is for backend=open-clip",
            hint="with transformers, clip= names the architecture and the weights",
        )
    return TransformersTower(clip, device, dtype)
