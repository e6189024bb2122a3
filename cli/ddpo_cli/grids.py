"""The fixed-seed grid: the same prompts and the same noise every time, so that only the training differs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddpo_cli.records import Record, records_of
from ddpo_cli.run_folder import RunFolder, write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ddpo_core.denoising import Policy
    from ddpo_core.protocols import PromptSet
    from ddpo_core.rewards import Term
    from ddpo_core.types import Prompt, Scores

GRID_EPOCH = 0  # epochs count from 1: no training sample has noise of this seed


@dataclass(frozen=True)
class GridPlan:
    """Which pictures are drawn, in reading order."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int]


def plan_grid(prompt_set: PromptSet, count: int, run_seed: int) -> GridPlan:
    """`count` prompts spread evenly over the set, repeated where it is smaller; each with its own seed."""
    from ddpo_core.rollout import sample_seeds

    size = len(prompt_set)
    prompts = [prompt_set[index * size // count % size] for index in range(count)]
    return GridPlan(prompts, sample_seeds(run_seed, GRID_EPOCH, range(count)))


def draw(policy: Policy, plan: GridPlan, batch_size: int) -> Tensor:
    """Pictures [N, 3, H, W] in [0, 1] of the plan under the present weights."""
    import torch

    from ddpo_core.rollout import rollout

    batches = []
    for start in range(0, len(plan.prompts), batch_size):
        rows = slice(start, start + batch_size)
        batches.append(rollout(policy, plan.prompts[rows], plan.seeds[rows]).images)
    return torch.cat(batches)


def judge(terms: Sequence[Term], images: Tensor, plan: GridPlan) -> list[Record]:
    """What the rewards that judge single pictures say of the grid [N, 3, H, W].

    These pictures are to be looked at, not trained on: a reward that fails says so here, and stops nothing.
    """
    from ddpo_core.errors import RewardError
    from ddpo_core.rewards import Objective

    scores: dict[str, Scores] = {}
    failed: dict[str, str] = {}
    for term in terms:
        if term.info.scope == "sample":
            try:
                scores |= Objective([term]).score(images, plan.prompts)
            except RewardError as error:
                failed[term.label] = str(error)
    records = records_of(plan.prompts, plan.seeds, scores, len(plan.prompts))
    for record in records:
        record["details"] |= {label: {"error": message} for label, message in failed.items()}
    return records


def to_pil(images: Tensor) -> list[Image]:
    """One 8-bit picture for each of images [N, 3, H, W] in [0, 1]."""
    from PIL import Image

    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def columns_for(count: int) -> int:
    """A grid a little wider than high."""
    return math.ceil(math.sqrt(count * 4 / 3))


def tile(pictures: Sequence[Image]) -> Image:
    """Pictures of one size side by side, row by row."""
    from PIL import Image

    columns = columns_for(len(pictures))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def png(picture: Image) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def save_grid(folder: RunFolder, epoch: int, images: Tensor, plan: GridPlan) -> None:
    """images/epoch-000000.png, and beside it what its cells are."""
    cells = {
        "width": images.shape[3],
        "height": images.shape[2],
        "prompts": [prompt.text for prompt in plan.prompts],
        "seeds": list(plan.seeds),
    }
    folder.write_json(folder.images / "grid.json", cells)
    write_atomic(folder.images / f"epoch-{epoch:06d}.png", png(tile(to_pil(images))))


@dataclass(frozen=True)
class SavedGrid:
    """A grid read back from a run's folder."""

    epoch: int
    cells: Sequence[Image]
    prompts: Sequence[str]
    records: Sequence[Record]  # what rewards said of each cell; empty where none was asked

    def judged(self) -> list[tuple[Image, Record | None]]:
        """Each cell with its record."""
        records: Sequence[Record | None] = self.records or [None] * len(self.cells)
        return list(zip(self.cells, records, strict=True))


def saved_epochs(folder: RunFolder) -> list[int]:
    """The epochs that were drawn, in order."""
    return sorted(int(path.stem.removeprefix("epoch-")) for path in folder.images.glob("epoch-*.png"))


def read_grid(folder: RunFolder, epoch: int) -> SavedGrid:
    """One grid, cut into its cells."""
    from PIL import Image

    about: Mapping[str, Any] = folder.read_json(folder.images / "grid.json")
    width, height, prompts = about["width"], about["height"], about["prompts"]
    columns = columns_for(len(prompts))
    with Image.open(folder.images / f"epoch-{epoch:06d}.png") as sheet:
        cells = [
            _cell(sheet, index % columns * width, index // columns * height, width, height)
            for index in range(len(prompts))
        ]
    return SavedGrid(epoch, cells, prompts, _records(folder, epoch, len(cells)))


def _records(folder: RunFolder, epoch: int, count: int) -> Sequence[Record]:
    """The grid's records, where the run kept some."""
    file = folder.record(epoch)
    grid: Sequence[Record] = folder.read_json(file).get("grid", ()) if file.is_file() else ()
    return grid if len(grid) == count else ()


def _cell(sheet: Image, left: int, top: int, width: int, height: int) -> Image:
    return sheet.crop((left, top, left + width, top + height))
