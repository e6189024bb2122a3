"""What a reward says of pictures that are there already: of any size, from wherever they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ddpo_core.errors import UsageError
from ddpo_core.rewards import Term, call_reward, merge, settled
from ddpo_core.types import Prompt, Scores

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 16

# [3, H, W] in [0, 1]; [H, W, 3] of 0 … 255; a picture of PIL's; a file
Picture: TypeAlias = "Tensor | np.ndarray | Image | str | PathLike[str]"


def as_tensor(picture: Picture) -> Tensor:
    """The picture [3, H, W] float32 in [0, 1]; transparency lies on white. Raises `UsageError`."""
    if isinstance(picture, Tensor):
        if picture.ndim == 3 and picture.is_floating_point():
            return picture.detach().float().cpu()
        raise UsageError(
            f"a picture that is a tensor is [3, H, W] in [0, 1]; got {list(picture.shape)} of {picture.dtype}"
        )
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.dtype != np.uint8:
            raise UsageError(
                "a picture that is an array is [H, W, 3] of uint8;"
                f" got {list(picture.shape)} of {picture.dtype}"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        try:
            with Image.open(picture) as opened:
                picture = opened.convert("RGBA")
        except (OSError, UnidentifiedImageError, AttributeError) as error:
            raise UsageError(f"cannot read {picture} as a picture: {error}") from error
    picture = picture.convert("RGBA")
    flat = Image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    return torch.from_numpy(np.asarray(flat.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def judge(term: Term, images: Sequence[Tensor], prompts: Sequence[Prompt]) -> Scores:
    """Scores of N images [3, H, W] in their order, judged together as the reward's scope asks.

    A reward of groups is given all images of one prompt. Raises `RewardError`, or `UsageError` where images
    to be judged together are not of one size.
    """
    parts = []
    for rows in together(term, images, prompts):
        batch = torch.stack([images[row] for row in rows])
        parts.append((rows, call_reward(term, batch, [prompts[row] for row in rows])))
    scores = merge(parts, len(images))
    return replace(scores, values=settled(term, scores.values, prompts, scores.error))


def together(term: Term, images: Sequence[Tensor], prompts: Sequence[Prompt]) -> list[list[int]]:
    """Which images go into one call: batches of one size, all of one prompt, or all."""
    keys: list[object] = {
        "sample": [image.shape for image in images],
        "group": [prompt.text for prompt in prompts],
        "batch": [""] * len(images),
    }[term.info.scope]  # type: ignore[assignment]
    sets: dict[object, list[int]] = {}
    for row, key in enumerate(keys):
        sets.setdefault(key, []).append(row)
    for rows in sets.values():
        sizes = sorted({f"{images[row].shape[2]} × {images[row].shape[1]}" for row in rows})
        if len(sizes) > 1:
            raise UsageError(
                f"{term.label} judges pictures together, which have to be of one size; got"
                f" {' and '.join(sizes)}"
            )
    size = BATCH if term.info.scope == "sample" else len(images)
    return [rows[start : start + size] for rows in sets.values() for start in range(0, len(rows), size)]
