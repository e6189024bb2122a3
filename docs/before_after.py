"""The README's picture: the same prompts and noise before training and at the end of one or more runs.

python docs/before_after.py runs/jpeg runs/incompressibility docs/images/before-after.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from ddpo_cli.grids import SavedGrid, read_grid, saved_epochs
from ddpo_cli.run_folder import RunFolder

SCALE = 2
GAP = 2  # pixels between cells


def rows_of(runs: list[Path]) -> list[SavedGrid]:
    """The first run's grid of epoch 0, then the last grid of every run."""
    folders = [RunFolder.open(run) for run in runs]
    return [read_grid(folders[0], 0), *(read_grid(folder, saved_epochs(folder)[-1]) for folder in folders)]


def draw(rows: list[SavedGrid]) -> Image.Image:
    """One row of cells for each grid."""
    width, height = (SCALE * side for side in rows[0].cells[0].size)
    sheet = Image.new(
        "RGB", (len(rows[0].cells) * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP), "white"
    )
    for y, row in enumerate(rows):
        for x, cell in enumerate(row.cells):
            sheet.paste(
                cell.resize((width, height), Image.Resampling.LANCZOS),
                (x * (width + GAP), y * (height + GAP)),
            )
    return sheet


if __name__ == "__main__":
    *runs, out = map(Path, sys.argv[1:])
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows_of(runs)).save(out, optimize=True)
    print(out)
