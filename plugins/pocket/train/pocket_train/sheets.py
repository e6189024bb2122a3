"""Contact sheets: grids of pictures as PNG or JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def grid(pictures: np.ndarray, columns: int, gap: int = 2) -> Image.Image:
    """[N, 64, 64, 3] uint8 side by side on white, row by row."""
    count, side = len(pictures), pictures.shape[1]
    cell, rows = side + gap, -(-count // columns)
    sheet = Image.new("RGB", (columns * cell - gap, rows * cell - gap), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (place % columns * cell, place // columns * cell))
    return sheet


def save_grid(pictures: np.ndarray, columns: int, path: Path) -> None:
    """Writes the grid as JPEG, quality 90."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(pictures, columns).save(path, quality=90)
