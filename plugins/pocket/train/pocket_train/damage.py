"""Damages pictures by known amounts, so that the judges of quality have something to learn from.

The grade of a picture goes from 10, untouched, down to 1. A damage of amount a (0 to 1) leaves the quality
q = 1 − (10 − worst) / 9 × a, where `worst` is the grade of its full amount; two damages multiply their q, and
the grade is 1 + 9 q.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

SIZE = 64  # pixels
BEST, WORST = 10.0, 1.0

_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@dataclass(frozen=True)
class Damage:
    """One way to spoil a picture."""

    worst: float  # grade of a picture that got the full amount
    apply: Callable[[np.ndarray, float, random.Random], np.ndarray]  # float32 0 to 255 in and out


@dataclass(frozen=True)
class Damaged:
    """A picture that was damaged, and how."""

    pixels: np.ndarray  # [64, 64, 3] uint8
    grade: float
    kinds: tuple[str, ...]  # keys of DAMAGES


def damage_picture(pixels: np.ndarray, rng: random.Random, quality: float = 1.0) -> Damaged:
    """One random damage, in a quarter of the cases two, to a picture of this quality (1 = untouched)."""
    kinds = rng.sample(list(DAMAGES), 2 if rng.random() < 0.25 else 1)
    for kind in kinds:
        amount = rng.random()
        pixels = apply(kind, pixels, amount, rng)
        quality *= quality_left(kind, amount)
    return Damaged(pixels, grade_of(quality), tuple(kinds))


def apply(kind: str, pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """`pixels` [64, 64, 3] uint8 with that much (0 to 1) of the damage `kind`, a key of DAMAGES."""
    spoilt = DAMAGES[kind].apply(pixels.astype(np.float32), amount, rng)
    return np.clip(spoilt, 0, 255).round().astype(np.uint8)


def quality_left(kind: str, amount: float) -> float:
    """1 where nothing is spoilt, 0 where the grade would be WORST."""
    return 1 - (BEST - DAMAGES[kind].worst) / (BEST - WORST) * amount


def grade_of(quality: float) -> float:
    """From WORST, quality 0, to BEST, quality 1."""
    return WORST + (BEST - WORST) * quality


def _blur(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    image = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(5 * amount)), dtype=np.float32)


def _noise(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """Gaussian, up to half the range; in a third of the cases the same in all three channels."""
    channels = 1 if rng.random() < 1 / 3 else 3
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((SIZE, SIZE, channels), np.float32)
    return pixels + 128 * amount * noise


def _fade(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """Contrast and colour fall to 4 % of what they were, around a grey or the picture's mean colour."""
    towards = pixels.mean((0, 1)) if rng.random() < 0.5 else np.full(3, rng.uniform(90, 220))
    return pixels + 0.96 * amount * (towards - pixels)


def _smear(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """Moves the pixels along a smooth random field, by 9 pixels (standard deviation) at most."""
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((2, 7, 7)).astype(np.float32)
    fields = [
        np.asarray(Image.fromarray(plane).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for plane in noise
    ]
    rows = np.clip(_ROWS + 9 * amount * fields[0], 0, SIZE - 1)
    columns = np.clip(_COLUMNS + 9 * amount * fields[1], 0, SIZE - 1)
    return _bilinear(pixels, rows, columns)


def _remove(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """Paints boxes of the rim's colour over the middle, until they hide the share `amount` of it."""
    spoilt, hidden = pixels.copy(), np.zeros((SIZE, SIZE), bool)
    colour = np.median(np.concatenate([pixels[:2].reshape(-1, 3), pixels[:, :2].reshape(-1, 3)]), axis=0)
    while hidden[8:56, 8:56].mean() < 0.95 * amount:
        height, width = rng.randint(4, 22), rng.randint(4, 22)
        top, left = rng.randint(0, SIZE - height), rng.randint(0, SIZE - width)
        hidden[top : top + height, left : left + width] = True
    spoilt[hidden] = colour
    return spoilt


def _coarsen(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """As if the picture had only 64 (nothing) to 4 (all) pixels a side."""
    side = round(SIZE * (4 / SIZE) ** amount)
    back = rng.choice((Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC))
    small = Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((SIZE, SIZE), back), dtype=np.float32)


def _recolour(pixels: np.ndarray, amount: float, rng: random.Random) -> np.ndarray:
    """Mixes in a copy whose channels are permuted or inverted."""
    order = rng.choice(((1, 2, 0), (2, 0, 1), (2, 1, 0), (1, 0, 2), (0, 2, 1)))
    other = pixels[..., order]
    if rng.random() < 0.4:
        other = 255 - other
    return pixels + amount * (other - pixels)


def _bilinear(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`pixels` read at fractional places [64, 64] inside the picture."""
    top, left = np.minimum(rows.astype(int), SIZE - 2), np.minimum(columns.astype(int), SIZE - 2)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    above = pixels[top, left] * (1 - right) + pixels[top, left + 1] * right
    below = pixels[top + 1, left] * (1 - right) + pixels[top + 1, left + 1] * right
    return above * (1 - down) + below * down


DAMAGES: dict[str, Damage] = {
    "blur": Damage(1.0, _blur),
    "noise": Damage(1.0, _noise),
    "fading": Damage(1.5, _fade),
    "smear": Damage(1.0, _smear),
    "missing parts": Damage(1.0, _remove),
    "low resolution": Damage(1.0, _coarsen),
    "wrong colours": Damage(4.0, _recolour),  # what is drawn stays plain to see
}
