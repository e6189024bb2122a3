"""Reads a skin tone off a 64 × 64 picture: the individual typology angle (ITA) of its skin-coloured pixels.

ITA = atan2(L* − 50, b*) in degrees, the usual measure of skin lightness (Chardon et al. 1991). Drawings are
paler and more colourful than skin, so the classes are not the medical ones: a picture gets the tone whose
median over renderings of known tone is nearest (`calibrate`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ddpo_pocket import world

from .render import Picture

_MIN_SKIN_PIXELS = 25
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65


@dataclass(frozen=True)
class ToneScale:
    """The median ITA of renderings of each tone, degrees, in the order of world.TONES."""

    medians: tuple[float, ...]

    def read(self, pixels: np.ndarray) -> int | None:
        """Place in world.TONES of a picture [64, 64, 3] uint8; None where too little looks like skin."""
        angle = skin_angle(pixels)
        return None if angle is None else int(np.abs(np.array(self.medians) - angle).argmin())


def calibrate(pictures: list[Picture]) -> ToneScale:
    """The scale from renderings of people whose tones are known, each tone among them."""
    angles: list[list[float]] = [[] for _ in world.TONES]
    for picture in pictures:
        angle = skin_angle(picture.pixels)
        if angle is not None:
            angles[picture.tone].append(angle)
    return ToneScale(tuple(float(np.median(of_tone)) for of_tone in angles))


def skin_angle(pixels: np.ndarray) -> float | None:
    """Median ITA, degrees, of the skin-coloured pixels amid [64, 64, 3] uint8; None if they are few."""
    lab = to_lab(pixels[14:44, 20:44]).reshape(-1, 3)
    hue, chroma = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])), np.hypot(lab[:, 1], lab[:, 2])
    skin = lab[(hue > 10) & (hue < 88) & (chroma > 8) & (chroma < 45) & (lab[:, 0] > 15)]
    if len(skin) < _MIN_SKIN_PIXELS:
        return None
    lightness, _, yellow = np.median(skin, axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of sRGB uint8, same shape."""
    encoded = pixels.astype(np.float64) / 255
    linear = np.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    relative = linear @ _RGB_TO_XYZ.T / _WHITE
    root = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
