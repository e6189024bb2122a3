"""HPS v2 and v2.1 (Wu et al., arXiv 2306.09341): the cosine of an open_clip ViT-H/14 that learnt tastes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from ddpo_core import UsageError
from ddpo_core.judges import fill, loading, locate, read_tensors, shared, weights_file
from ddpo_core.pixels import Pixels
from ddpo_reward_preference import HPSV2, HPSV2_FILES
from ddpo_reward_preference.judge import PairJudge, each_once


class HpsV2(PairJudge):
    """cos(image, text), without the logit scale."""

    def __init__(
        self,
        *,
        version: str = "2.1",
        checkpoint: str | None = None,
        architecture: str = "ViT-H-14",
        antialias: bool = True,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """Raises `EnvironmentFault` for weights that are not there or not what they should be."""
        super().__init__(device, dtype, batch_size)
        if version not in HPSV2_FILES:
            raise UsageError(f"reward 'hpsv2': version is 2.0 or 2.1, got {version}")
        source = checkpoint or f"{HPSV2}/{HPSV2_FILES[version]}"
        self.model = shared(
            ("hpsv2", architecture, source, str(self.device), str(self.dtype)),
            lambda: _load(architecture, source).to(self.device, self.dtype),
        )
        self.tokenizer = _tokenizer(architecture)
        side = self.model.visual.image_size
        height, width = (side, side) if isinstance(side, int) else side
        self.read_tensor = Pixels(  # the published transform: floats first, and so no clamp after the resize
            max(height, width), (height, width), antialias=antialias, clamp=False, inside=True
        )

    def read(self, pictures: Sequence[Image]) -> Tensor:
        return self.read_tensor(torch.stack([to_tensor(picture) for picture in pictures]))

    def rate(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        embeds = self.model.encode_image(pixels.to(self.device, self.dtype)).float()
        return (functional.normalize(embeds, dim=-1) * each_once(texts, self._embed_texts)).sum(dim=-1)

    @torch.no_grad()
    def _embed_texts(self, texts: list[str]) -> Tensor:
        embeds = self.model.encode_text(self.tokenizer(texts).to(self.device)).float()
        return functional.normalize(embeds, dim=-1)

    def overlong(self, text: str) -> tuple[int, int] | None:
        count, limit = len(self.tokenizer.encode(text)) + 2, self.tokenizer.context_length  # 2: start and end
        return (count, limit) if count > limit else None

    def close(self) -> None:
        """Let go of the model; its memory is free when no other reward holds the same one."""
        vars(self).pop("model", None)  # closing twice is fine


def _load(architecture: str, source: str) -> Any:
    """The towers of that architecture with the checkpoint's weights, in float32 on the CPU."""
    config = _config(architecture)
    file = weights_file(source)
    with loading("hpsv2", "checkpoint", file.name):
        tensors = read_tensors(file.path())  # first: drawing a billion weights to replace them takes a minute
        model = open_clip.CLIP(**config)
        fill(model, tensors, f"HPSv2 of {architecture}")
    return model.eval().requires_grad_(False)


def _config(architecture: str) -> dict[str, Any]:
    """The sizes of the towers. Raises `UsageError` for an architecture that is not known."""
    folder = Path(locate(architecture))
    if folder.is_dir():
        with loading("hpsv2", "architecture", str(folder)):
            config: dict[str, Any] = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        return config
    known = open_clip.get_model_config(architecture)
    if known is None:
        near = ", ".join(get_close_matches(architecture, open_clip.list_models(), n=3))
        raise UsageError(
            f"reward 'hpsv2': open_clip knows no architecture '{architecture}'"
            + (f"; did you mean {near}?" if near else "")
        )
    return known


def _tokenizer(architecture: str) -> Any:
    folder = Path(locate(architecture))
    return open_clip.get_tokenizer(f"local-dir:{folder}" if folder.is_dir() else architecture)
