"""Where the faces of the drawn people are, for a detector to learn and for a skin tone to be read.

A drawing exists in five skin tones that differ in nothing but the skin (and, here and there, in the hair,
which is dark in the two outermost). So pixels that are much darker in the darkest than in the lightest are
skin, and the piece of them around the densest place in the middle is the face; hands are elsewhere.
"""

from __future__ import annotations

import numpy as np
from ddpo_pocket import world
from PIL import Image, ImageFilter

from .render import SIZE, Placed
from .sprites import SPRITE_SIZE, Sprite, SpriteBook

DARKER = 60.0  # of 255, mean of the channels: by how much skin differs between the outermost tones

_ROWS, _COLUMNS = np.mgrid[0 : 1 : SPRITE_SIZE * 1j, 0 : 1 : SPRITE_SIZE * 1j]
_MIDDLE = (_ROWS < 0.68) & (_COLUMNS > 0.2) & (_COLUMNS < 0.8)  # where no drawing has its hands

Box = tuple[float, float, float, float]  # left, top, right, bottom


class FaceBook:
    """The face box of every drawing of a person, as shares of the sprite's side."""

    def __init__(self, book: SpriteBook) -> None:
        self._boxes: dict[int, Box] = {}
        tones = range(len(world.TONES))
        for word in world.PEOPLE:
            for drawing in zip(*(book.choices("person", word, tone) for tone in tones), strict=True):
                box = find_face(drawing[0], drawing[-1])
                self._boxes.update((id(sprite), box) for sprite in drawing)

    def of(self, placed: Placed) -> Box:
        """The face of a placed person in pixels of its picture, cut off at the rim."""
        left, top, side = placed.square
        x0, y0, x1, y1 = self._boxes[id(placed.sprite)]
        corners = (left + side * x0, top + side * y0, left + side * x1, top + side * y1)
        return tuple(min(max(corner, 0.0), float(SIZE)) for corner in corners)


def find_face(lightest: Sprite, darkest: Sprite) -> Box:
    """The face of one drawing given in both outermost tones, as shares of the side."""
    face = _densest_piece(_skin(lightest, darkest))
    rows, columns = np.flatnonzero(_wide(face)), np.flatnonzero(face.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return tuple(float(corner) / SPRITE_SIZE for corner in box)


def _skin(lightest: Sprite, darkest: Sprite) -> np.ndarray:
    """[112, 112] bool."""
    light, dark = (sprite.pixels.astype(np.float32) for sprite in (lightest, darkest))
    opaque = (light[..., 3] > 128) & (dark[..., 3] > 128)
    return opaque & ((light - dark)[..., :3].mean(-1) > DARKER)


def _densest_piece(mask: np.ndarray) -> np.ndarray:
    """The connected pixels around the place above the chest where `mask` is densest."""
    density = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(10)))
    seed = np.unravel_index(np.where(mask & _MIDDLE, density, 0).argmax(), mask.shape)
    piece = np.zeros_like(mask)
    piece[seed] = True
    while True:
        grown = np.asarray(Image.fromarray(piece.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))) > 0
        grown &= mask
        if (grown == piece).all():
            return piece
        piece = grown


def _wide(face: np.ndarray) -> np.ndarray:
    """Which rows belong to the face: a neck or a fringe is narrower than 40 % of it."""
    spans = np.array([np.ptp(np.flatnonzero(row)) + 1 if row.any() else 0 for row in face])
    return spans > 0.4 * spans.max()
