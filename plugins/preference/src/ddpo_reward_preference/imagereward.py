"""ImageReward-v1.0 (Xu et al., arXiv 2304.05977): how much people would like the picture for the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from ddpo_core.judges import cached_first, loading, locate, read_tensors, shared, weights_file
from ddpo_core.pixels import CLIP_MEAN, CLIP_STD, Pixels
from ddpo_reward_preference import IMAGEREWARD, IMAGEREWARD_FILE, TOKENIZER
from ddpo_reward_preference.blip import network_of
from ddpo_reward_preference.clip import overlong
from ddpo_reward_preference.judge import PairJudge

TEXT_LENGTH = 35  # tokens, [CLS] and [SEP] included


class ImageReward(PairJudge):
    """(MLP of BLIP's joint reading − 0.167) / 1.033."""

    def __init__(
        self,
        *,
        checkpoint: str = f"{IMAGEREWARD}/{IMAGEREWARD_FILE}",
        tokenizer: str = TOKENIZER,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """Raises `EnvironmentFault` for weights that are not there or not what they should be."""
        super().__init__(device, dtype, batch_size)
        folder = locate(tokenizer)
        with loading("imagereward", "tokenizer", folder):
            self.tokenizer = cached_first(folder, lambda local: _load_tokenizer(folder, local))
        file = weights_file(checkpoint)
        with loading("imagereward", "checkpoint", file.name):
            self.network = shared(
                ("imagereward", checkpoint, str(self.device), str(self.dtype)),
                lambda: network_of(read_tensors(file.path())).to(self.device, self.dtype),
            )
        side = self.network.vision.config.image_size
        self.read_tensor = Pixels(side, (side, side))
        self._transform = Compose(
            [
                Resize(side, interpolation=InterpolationMode.BICUBIC),
                CenterCrop(side),
                ToTensor(),
                Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )

    def read(self, pictures: Sequence[Image]) -> Tensor:
        return torch.stack([self._transform(picture) for picture in pictures])

    def rate(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        ).to(self.device)
        scores: Tensor = self.network(
            pixels.to(self.device, self.dtype), tokens["input_ids"], tokens["attention_mask"]
        )
        return scores

    def overlong(self, text: str) -> tuple[int, int] | None:
        return overlong(self.tokenizer, text, TEXT_LENGTH)

    def close(self) -> None:
        """Let go of the network; its memory is free when no other reward holds the same one."""
        vars(self).pop("network", None)  # closing twice is fine


def _load_tokenizer(folder: str, local_files_only: bool) -> Any:
    """BERT's. BLIP adds [DEC] and [ENC], for which the checkpoint has rows; ImageReward uses neither."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=local_files_only)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer
