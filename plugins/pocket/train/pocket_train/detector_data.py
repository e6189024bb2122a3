"""What the detector learns from: renderings of the whole world with boxes of all animals, people and faces.

A part of them went through the autoencoder, and a part was drawn anew by the model from under noise: those
look like what the detector will see. A redrawn picture keeps its boxes however strange it has become, so that
the detector's confidence can learn how often such a thing is still what it was.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ddpo_pocket import world
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from .autoencoder import to_model_range
from .faces import Box, FaceBook
from .render import SIZE, Picture, render
from .sprites import Sprite, SpriteBook, load_or_draw

DETECTOR_SEED = (
    700_000_000  # picture i has seed DETECTOR_SEED + i: neither trained on by the model nor held out
)
SCENE_SHARES = {"animal": 0.30, "activity": 0.12, "person": 0.26, "pair": 0.20, "count": 0.12}
FACE = "face"
CONCEPTS: tuple[str, ...] = (*world.ANIMALS, *world.PEOPLE, FACE)
SLOTS = 3  # objects of a picture: three animals, or a person and their face
COUNTS = (26_000, 2_500, 3_000)  # pictures as rendered, decoded, redrawn
REDRAW_STEPS = 3
BLOCK = 48  # pictures at a time through the networks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorData:
    """Pictures and their objects; unused slots have the label −1."""

    pixels: np.ndarray  # [N, 64, 64, 3] uint8
    boxes: np.ndarray  # [N, SLOTS, 4] float32: left, top, right, bottom in pixels
    labels: np.ndarray  # [N, SLOTS] int64, places in CONCEPTS


class EvenTones(SpriteBook):
    """The same drawings with every skin tone equally likely: judges must not share the model's bias."""

    def __init__(self, book: SpriteBook) -> None:
        super().__init__([])
        self._book = book

    def choices(self, kind: str, word: str, tone: int = -1) -> list[Sprite]:
        """All drawings of one thing; of a person, in all tones."""
        tones = range(len(world.TONES)) if kind == "person" else (tone,)
        return [sprite for one in tones for sprite in self._book.choices(kind, word, one)]


def make_detector_data(
    sprites: Path, model: Path, target: Path, counts: tuple[int, int, int] = COUNTS
) -> DetectorData:
    """What `target`, an .npz file, holds; made if it is not there."""
    if not target.exists():
        book = load_or_draw(Path(), sprites)
        faces, pictures = FaceBook(book), list(detector_pictures(EvenTones(book), sum(counts)))
        pixels = np.stack([picture.pixels for picture in pictures])
        plain, decoded = counts[0], counts[0] + counts[1]
        artist = Artist(model)
        pixels[plain:decoded] = artist.decode_again(pixels[plain:decoded])
        pixels[decoded:] = artist.redraw(
            pixels[decoded:], [picture.caption for picture in pictures[decoded:]]
        )
        boxes, labels = zip(*(objects_of(picture, faces) for picture in pictures), strict=True)
        partial = target.with_suffix(".partial.npz")
        np.savez(partial, pixels=pixels, boxes=np.stack(boxes), labels=np.stack(labels))
        partial.rename(target)
    stored = np.load(target)
    return DetectorData(stored["pixels"], stored["boxes"], stored["labels"])


def detector_pictures(book: SpriteBook, count: int, seed: int = DETECTOR_SEED) -> Iterator[Picture]:
    """Renderings of every kind, held-out combinations included."""
    for number in range(seed, seed + count):
        scene = random.Random(~number).choices(list(SCENE_SHARES), list(SCENE_SHARES.values()))[0]
        yield render(book, number, scene, "all")


def objects_of(picture: Picture, faces: FaceBook) -> tuple[np.ndarray, np.ndarray]:
    """(boxes [SLOTS, 4], labels [SLOTS]) of a rendering, as in DetectorData."""
    objects: list[tuple[Box, str]] = [(placed.box, placed.name) for placed in picture.placed]
    people = [placed for placed in picture.placed if placed.sprite.kind == "person"]
    objects += [(faces.of(placed), FACE) for placed in people]
    boxes, labels = np.zeros((SLOTS, 4), np.float32), np.full(SLOTS, -1)
    for slot, (box, name) in enumerate(objects):
        boxes[slot], labels[slot] = box, CONCEPTS.index(name)
    return boxes, labels


class Artist:
    """The shipped model as an imitator: its autoencoder, and its denoiser from half way on."""

    def __init__(self, model: Path) -> None:
        self._pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
        self._pipeline.unet.set_attn_processor(AttnProcessor())
        self._generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def decode_again(self, pixels: np.ndarray) -> np.ndarray:
        """[B, 64, 64, 3] uint8 through the autoencoder and back."""
        blocks = [self._decode(self._encode(block)) for block in _blocks(pixels)]
        return np.concatenate([pixels[:0], *blocks])

    @torch.no_grad()
    def redraw(self, pixels: np.ndarray, captions: list[str]) -> np.ndarray:
        """Each picture put under noise of 15 to 80 % of the schedule and denoised in three DDIM steps."""
        blocks = []
        for place, block in enumerate(_blocks(pixels)):
            words = captions[place * BLOCK : place * BLOCK + len(block)]
            blocks.append(self._decode(self._denoise(self._encode(block), self._embed(words))))
        return np.concatenate([pixels[:0], *blocks])

    def _denoise(self, latents: Tensor, embeds: Tensor) -> Tensor:
        alphas = self._pipeline.scheduler.alphas_cumprod
        start = torch.randint(150, 800, (len(latents),), generator=self._generator)
        noise = torch.randn(latents.shape, generator=self._generator)
        for step in range(REDRAW_STEPS):
            at = alphas[start * (REDRAW_STEPS - step) // REDRAW_STEPS].view(-1, 1, 1, 1)
            noisy = at.sqrt() * latents + (1 - at).sqrt() * noise
            timestep = start * (REDRAW_STEPS - step) // REDRAW_STEPS
            with torch.autocast("cpu", torch.bfloat16):
                noise = self._pipeline.unet(noisy, timestep, embeds).sample.float()
            latents = (noisy - (1 - at).sqrt() * noise) / at.sqrt()
        return latents

    def _embed(self, captions: list[str]) -> Tensor:
        tokens = self._pipeline.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        )
        return self._pipeline.text_encoder(tokens.input_ids).last_hidden_state

    def _encode(self, pixels: np.ndarray) -> Tensor:
        vae = self._pipeline.vae
        with torch.autocast("cpu", torch.bfloat16):
            mode = vae.encode(to_model_range(pixels)).latent_dist.mode()
        return mode.float() * vae.config.scaling_factor

    def _decode(self, latents: Tensor) -> np.ndarray:
        vae = self._pipeline.vae
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(latents / vae.config.scaling_factor).sample.float()
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def _blocks(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[at : at + BLOCK] for at in range(0, len(pixels), BLOCK)]


def normalised(boxes: np.ndarray) -> Tensor:
    """[..., 4] corners in pixels to centre x, centre y, width, height as shares of the side."""
    left, top, right, bottom = torch.as_tensor(boxes).unbind(-1)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], -1) / SIZE
