"""CLIPScore (Hessel et al., arXiv 2104.08718): the cosine of picture and prompt in CLIP's space."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image
from torch import Tensor

from ddpo_reward_preference import CLIP
from ddpo_reward_preference.clip import Clip
from ddpo_reward_preference.judge import PairJudge

PAPER_WEIGHT = 2.5  # w: stretches cosines to about 0 … 1
PAPER_PREFIX = "A photo depicts "


class ClipScore(PairJudge):
    """scale · cos(image, text); in the paper's form scale · 2.5 · max(0, cos(image, "A photo depicts …"))."""

    def __init__(
        self,
        *,
        clip: str = CLIP,
        scale: float = 1.0,
        paper: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """Raises `EnvironmentFault` for weights that are not there or not what they should be."""
        super().__init__(device, dtype, batch_size)
        self.scale = scale
        self.paper = paper
        self.clip = Clip("clipscore", clip, self.device, self.dtype)
        self.read_tensor = self.clip.read_tensor

    def read(self, pictures: Sequence[Image]) -> Tensor:
        return self.clip.read(pictures)

    def rate(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        if not self.paper:
            return self.scale * self.clip.cosines(pixels, texts)
        depicted = [PAPER_PREFIX + text for text in texts]
        return self.scale * PAPER_WEIGHT * self.clip.cosines(pixels, depicted).clamp(min=0)

    def overlong(self, text: str) -> tuple[int, int] | None:
        return self.clip.overlong(PAPER_PREFIX + text if self.paper else text)

    def close(self) -> None:
        """Let go of CLIP; its memory is free when no other reward holds the same one."""
        vars(self).pop("clip", None)  # closing twice is fine
