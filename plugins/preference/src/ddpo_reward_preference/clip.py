"""CLIP in transformers: both towers, its tokenizer and its preprocessor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from ddpo_core.judges import cached_first, loading, locate, shared
from ddpo_core.pixels import of_processor
from ddpo_reward_preference.judge import each_once


class Clip:
    """A `CLIPModel`, shared with every reward that uses the same one, and what prepares its inputs.

    `processor` is (option, source) of another tokenizer and preprocessor than the model's own.
    """

    def __init__(
        self,
        reward: str,
        source: str,
        device: torch.device,
        dtype: torch.dtype,
        *,
        processor: tuple[str, str] | None = None,
    ) -> None:
        self.device, self.dtype = device, dtype
        folder = locate(source)
        option, processor_folder = ("clip", folder) if processor is None else processor
        processor_folder = locate(processor_folder)
        with loading(reward, option, processor_folder):
            self.processor, self.tokenizer = cached_first(
                processor_folder, lambda local: _load_processor(processor_folder, local)
            )
            self.read_tensor = of_processor(self.processor)
        with loading(reward, "clip", folder):
            self.model = shared(
                ("transformers.CLIPModel", folder, str(device), str(dtype)),
                lambda: cached_first(folder, lambda local: _load_model(folder, device, dtype, local)),
            )
        self.text_length: int = self.model.config.text_config.max_position_embeddings

    def read(self, pictures: Sequence[Image]) -> Tensor:
        """Pixels [B, 3, h, w] float32 of 8-bit RGB pictures, by CLIP's own preprocessor."""
        pixels: Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels

    def cosines(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """[B] float32: the cosine of each picture with its own text."""
        return (self.embed_pixels(pixels) * each_once(texts, self.embed_texts)).sum(dim=-1)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, E] float32 of length 1."""
        pooled = self.model.vision_model(pixel_values=pixels.to(self.device, self.dtype)).pooler_output
        return functional.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Embeddings [B, E] float32 of length 1; texts are cut to the tower's length."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.text_length, return_tensors="pt"
        ).to(self.device)
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return functional.normalize(self.model.text_projection(pooled).float(), dim=-1)

    def overlong(self, text: str) -> tuple[int, int] | None:
        """The text's tokens and how many of them are read, where that is fewer."""
        return overlong(self.tokenizer, text, self.text_length)


def overlong(tokenizer: Any, text: str, limit: int) -> tuple[int, int] | None:
    """The same, for any of transformers' tokenizers."""
    count = len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    return (count, limit) if count > limit else None


def _load_processor(folder: str, local_files_only: bool) -> tuple[Any, Any]:
    """The preprocessor that works with Pillow, as the published scores did, and the tokenizer."""
    from transformers import AutoTokenizer

    try:
        from transformers import CLIPImageProcessorPil as Processor
    except ImportError:  # before transformers 5
        from transformers import CLIPImageProcessor as Processor
    return (
        Processor.from_pretrained(folder, local_files_only=local_files_only),
        AutoTokenizer.from_pretrained(folder, local_files_only=local_files_only),
    )


def _load_model(folder: str, device: torch.device, dtype: torch.dtype, local_files_only: bool) -> Any:
    from transformers import CLIPModel

    model, report = CLIPModel.from_pretrained(
        folder, local_files_only=local_files_only, output_loading_info=True
    )
    if report["missing_keys"]:  # transformers would draw them at random
        raise ValueError(f"a CLIPModel without {sorted(report['missing_keys'])[0]}")
    return model.to(device, dtype).eval().requires_grad_(False)
