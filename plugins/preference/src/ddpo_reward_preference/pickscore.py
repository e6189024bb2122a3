"""PickScore (Kirstain et al., arXiv 2305.01569): a CLIP's logit, which learnt what people pick."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image
from torch import Tensor

from ddpo_reward_preference import PICKSCORE, PICKSCORE_PROCESSOR
from ddpo_reward_preference.clip import Clip
from ddpo_reward_preference.judge import PairJudge


class PickScore(PairJudge):
    """The model's logit of a picture for its prompt."""

    def __init__(
        self,
        *,
        clip: str = PICKSCORE,
        processor: str = PICKSCORE_PROCESSOR,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """Raises `EnvironmentFault` for weights that are not there or not what they should be."""
        super().__init__(device, dtype, batch_size)
        self.clip = Clip("pickscore", clip, self.device, self.dtype, processor=("processor", processor))
        self.read_tensor = self.clip.read_tensor

    def read(self, pictures: Sequence[Image]) -> Tensor:
        return self.clip.read(pictures)

    def rate(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        return self.clip.model.logit_scale.float().exp() * self.clip.cosines(pixels, texts)

    def overlong(self, text: str) -> tuple[int, int] | None:
        return self.clip.overlong(text)

    def close(self) -> None:
        """Let go of CLIP; its memory is free when no other reward holds the same one."""
        vars(self).pop("clip", None)  # closing twice is fine
