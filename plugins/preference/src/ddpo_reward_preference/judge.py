"""What the four rewards have in common: pictures and prompts are cut into batches, and each pair is rated.

8-bit pictures → read ─┐
                       ├→ rate(pixels, texts) → scores [B]
images → read_tensor ──┘   with a gradient, and without rounding to 8 bits
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from ddpo_core import Prompt, Scores
from ddpo_core.judges import pick_device, pick_dtype, to_pil
from ddpo_core.pixels import finite


class PairJudge(ABC):
    """A reward that rates a picture with its prompt. One pair's score depends on no other pair."""

    read_tensor: Callable[[Tensor], Tensor]  # pixels [B, 3, h, w] of images [B, 3, H, W], differentiable

    def __init__(self, device: str, dtype: str, batch_size: int) -> None:
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.batch_size = batch_size

    @abstractmethod
    def read(self, pictures: Sequence[Image]) -> Tensor:
        """Pixels [B, 3, h, w] float32 of 8-bit RGB pictures, as the published code prepares them."""

    @abstractmethod
    def rate(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """Scores [B] float32 on the judge's device, differentiable in the pixels."""

    @abstractmethod
    def overlong(self, text: str) -> tuple[int, int] | None:
        """The text's tokens and how many of them are read, where that is fewer."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        """Scores [B] of images [B, 3, H, W] in [0, 1], rounded to 8 bits; NaN for a broken image."""
        pictures, texts = to_pil(images), [prompt.text for prompt in prompts]
        parts = []
        for start in range(0, len(pictures), self.batch_size):
            part = slice(start, start + self.batch_size)
            parts.append(self.rate(self.read(pictures[part]), texts[part]).cpu())
        values = torch.cat([torch.empty(0), *parts]).where(finite(images.detach().cpu()), torch.nan)
        return Scores(values.double().numpy(), self._notes(texts))

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Scores [B] float32 with a gradient to images [B, 3, H, W] in [0, 1], on the images' device.

        Nothing is rounded to 8 bits, and all images are judged at once: a gradient holds every activation.
        """
        pixels = self.read_tensor(images.to(self.device))
        return self.rate(pixels, [prompt.text for prompt in prompts]).to(images.device)

    def _notes(self, texts: Sequence[str]) -> list[dict[str, object]]:
        """A record for each text, with a note where it was cut; none where no text was."""
        notes: dict[str, dict[str, object]] = {}
        for text in dict.fromkeys(texts):
            cut = self.overlong(text)
            notes[text] = {"note": f"read {cut[1]} of the prompt's {cut[0]} tokens"} if cut else {}
        return [notes[text] for text in texts] if any(notes.values()) else []


def each_once(texts: Sequence[str], embed: Callable[[list[str]], Tensor]) -> Tensor:
    """Embeddings [B, …] of the texts, each distinct text embedded once."""
    unique = list(dict.fromkeys(texts))
    places = {text: place for place, text in enumerate(unique)}
    return embed(unique)[[places[text] for text in texts]]
