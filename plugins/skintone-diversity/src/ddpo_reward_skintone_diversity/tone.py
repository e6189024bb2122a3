"""Picture of a face → skin pixels → tone → bucket. No detector and no torch here.

Colours go from sRGB to CIE L*a*b* (D65) in float64. The well-known trap is OpenCV's 8-bit Lab, where L* is
stretched to 0–255 and 128 is added to a* and b*: angles taken from those numbers mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Span = tuple[float, float]

# The Monk Skin Tone scale, MST 1 (lightest) to MST 10.
# fmt: off
MONK: tuple[str, ...] = (
    "#f6ede4", "#f3e7db", "#f7ead0", "#eadaba", "#d7bd96",
    "#a07e56", "#825c43", "#604134", "#3a312a", "#292420",
)
# fmt: on
# Cuts between the six usual classes of the angle (very light, light, intermediate, tan, brown, dark), merged.
ITA_CUTS: dict[int, tuple[float, ...]] = {
    2: (10,),
    3: (41, -30),
    4: (41, 10, -30),
    5: (41, 28, 10, -30),
    6: (55, 41, 28, 10, -30),
}

_TO_XYZ = np.array(  # IEC 61966-2-1, linear sRGB to XYZ
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2° observer


@dataclass(frozen=True)
class SkinLimits:
    """Which colours may be skin, in LCh of L*a*b*."""

    hue: Span = (15, 100)  # degrees, 0 is +a* (red), 90 is +b* (yellow)
    chroma: Span = (3, 75)
    lightness: Span = (5, 98)


@dataclass(frozen=True)
class Tone:
    """The skin colour of one face."""

    lab: tuple[float, float, float]  # median L*, a*, b* of the skin pixels
    ita: float  # median individual typology angle, degrees: above 55 very light, below −30 dark
    skin: float  # part of the looked-at ellipse that is skin


@dataclass(frozen=True)
class Scale:
    """K buckets from light to dark: the tones of a palette in groups, or angles between cuts."""

    names: tuple[str, ...]  # K
    palette: Array | None = None  # [N, 3] L*a*b*
    groups: tuple[int, ...] = ()  # N, the bucket of each colour
    cuts: tuple[float, ...] = ()  # K − 1 descending degrees

    def bucket(self, tone: Tone) -> int:
        """The bucket of a tone: that of the nearest colour (ΔE*ab), or that between whose cuts it lies."""
        if self.palette is None:
            return sum(tone.ita <= cut for cut in self.cuts)
        distances = np.linalg.norm(self.palette - np.array(tone.lab), axis=1)
        return self.groups[int(distances.argmin())]


# ---- colours -----------------------------------------------------------------------------------------


def srgb_to_lab(rgb: Array) -> Array:
    """L*, a*, b* [..., 3] float64 of 8-bit sRGB [..., 3], white D65."""
    encoded = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def individual_typology_angle(lab: Array) -> Array:
    """arctan((L* − 50) / b*) in degrees, of L*a*b* [..., 3]; by quadrant, so that b* ≤ 0 does not jump."""
    angles: Array = np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))
    return angles


def hex_to_lab(colours: Sequence[str]) -> Array:
    """L*a*b* [N, 3] of "#rrggbb" texts. Raises `ValueError` for another text."""
    rgb = []
    for colour in colours:
        digits = colour.removeprefix("#")
        if len(digits) != 6:
            raise ValueError(f"{colour!r} is not a colour such as '#f7dece'")
        rgb.append([int(digits[place : place + 2], 16) for place in (0, 2, 4)])
    return srgb_to_lab(np.array(rgb))


# ---- skin --------------------------------------------------------------------------------------------


def skin_tone(
    picture: Array,
    box: tuple[float, float, float, float],
    *,
    inner: float = 0.8,
    limits: SkinLimits | None = None,
    min_skin: float = 0.1,
) -> Tone | None:
    """The tone of a face in an 8-bit picture [H, W, 3]; None where less than `min_skin` of it is skin.

    `box` is left, top, right, bottom in parts of width and height. What is looked at is the ellipse inscribed
    in the box, shrunk to `inner`; medians keep eyes, brows, lips and highlights out of the answer.
    """
    pixels = _ellipse_pixels(picture, box, inner)
    if not len(pixels):
        return None
    lab = srgb_to_lab(pixels)
    skin = is_skin(lab, limits or SkinLimits())
    share = float(skin.mean())
    if share < min_skin or not skin.any():
        return None
    lightness, a, b = np.median(lab[skin], axis=0)
    ita = float(np.median(individual_typology_angle(lab[skin])))
    return Tone((float(lightness), float(a), float(b)), ita, share)


def is_skin(lab: Array, limits: SkinLimits) -> Array:
    """Which of the colours [..., 3] lie inside the limits, [...] bool."""
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    return _within(hue, limits.hue) & _within(chroma, limits.chroma) & _within(lab[..., 0], limits.lightness)


def _within(values: Array, span: Span) -> Array:
    return (values >= span[0]) & (values <= span[1])


def _ellipse_pixels(picture: Array, box: tuple[float, float, float, float], inner: float) -> Array:
    """The pixels [N, 3] whose centres lie in the ellipse."""
    height, width = picture.shape[:2]
    left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    half_width, half_height = inner * (right - left) / 2, inner * (bottom - top) / 2
    if half_width <= 0 or half_height <= 0:
        return np.empty((0, 3), dtype=picture.dtype)
    x = (np.arange(width) + 0.5 - (left + right) / 2) / half_width
    y = (np.arange(height) + 0.5 - (top + bottom) / 2) / half_height
    pixels: Array = picture[x[None, :] ** 2 + y[:, None] ** 2 <= 1]
    return pixels


# ---- scales ------------------------------------------------------------------------------------------


def palette_scale(
    colours: Sequence[str],
    edges: Sequence[int] | None = None,
    *,
    buckets: int | None = None,
    prefix: str = "",
) -> Scale:
    """Colours from light to dark, grouped: bucket k ends with colour number edges[k], counted from 1.

    Without edges the colours are cut as evenly as they go, halves toward the middle: 10 in 4 are 3, 2, 2, 3.
    Raises `ValueError` where edges do not rise from 1 to N − 1, or there are more buckets than colours.
    """
    count = len(colours)
    if edges is None:
        edges = even_edges(count, buckets or count)
    ends = [0, *edges, count]
    if any(low >= high for low, high in pairwise(ends)):
        raise ValueError(f"edges must rise between 1 and {count - 1}, got {list(edges)}")
    if buckets is not None and buckets != len(ends) - 1:
        raise ValueError(f"{buckets} buckets need {buckets - 1} edges, got {list(edges)}")
    spans = list(pairwise(ends))
    names = tuple(prefix + (str(high) if high - low == 1 else f"{low + 1}–{high}") for low, high in spans)
    groups = tuple(bucket for bucket, (low, high) in enumerate(spans) for _ in range(low, high))
    return Scale(names, palette=hex_to_lab(colours), groups=groups)


def even_edges(count: int, buckets: int) -> list[int]:
    """Where to cut `count` colours into buckets: the nearest whole numbers, halves toward the middle."""
    edges = []
    for bucket in range(1, buckets):
        exact = count * bucket / buckets
        edges.append(math.floor(exact + 0.5) if exact <= count / 2 else math.ceil(exact - 0.5))
    return edges


def ita_scale(cuts: Sequence[float] | None = None, *, buckets: int | None = None) -> Scale:
    """Angles between descending cuts; without cuts, those of `ITA_CUTS`. Raises `ValueError`."""
    if cuts is None:
        wanted = buckets or 4
        if wanted not in ITA_CUTS:
            raise ValueError(f"{wanted} buckets of ITA have no usual cuts: give {wanted - 1} as cuts")
        cuts = ITA_CUTS[wanted]
    if any(high <= low for high, low in pairwise(cuts)) or not len(cuts):
        raise ValueError(f"cuts must descend, got {list(cuts)}")
    if buckets is not None and buckets != len(cuts) + 1:
        raise ValueError(f"{buckets} buckets need {buckets - 1} cuts, got {list(cuts)}")
    between = [f"{low:g} to {high:g}°" for high, low in pairwise(cuts)]
    names = (f"ITA above {cuts[0]:g}°", *(f"ITA {span}" for span in between), f"ITA to {cuts[-1]:g}°")
    return Scale(names, cuts=tuple(float(cut) for cut in cuts))
