"""What rewards said of single pictures, as plain records that JSON can hold.

    {"prompt": "a cat", "seed": 7, "scores": {"align": 0.71}, "details": {"align": {"caption": "a cat"}}}

A score is null where the reward had none. Details are as the reward gave them; two of their keys are drawn on
pages: "caption" under the picture and "boxes" on it (see `ddpo_core.types.Scores`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpo_core.types import Prompt, Scores

Record = dict[str, Any]


def records_of(
    prompts: Sequence[Prompt], seeds: Sequence[int], scores: Mapping[str, Scores], count: int
) -> list[Record]:
    """The records of the first `count` pictures."""
    return [
        {
            "prompt": prompts[index].text,
            "seed": seeds[index],
            "scores": {label: plain(float(said.values[index])) for label, said in scores.items()},
            "details": {
                label: plain(said.details[index])
                for label, said in scores.items()
                if said.details and said.details[index]
            },
        }
        for index in range(min(count, len(prompts)))
    ]


def plain(value: object) -> Any:
    """The value in JSON's own types: numbers that are not finite become null, what is unknown its text."""
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def captions(record: Record) -> list[tuple[str, str]]:
    """(reward, caption) of each reward that gave one."""
    said = record.get("details", {}).items()
    return [(label, str(detail["caption"])) for label, detail in said if detail.get("caption")]


def boxes(record: Record) -> list[Mapping[str, Any]]:
    """All boxes that rewards drew on this picture."""
    return [box for detail in record.get("details", {}).values() for box in detail.get("boxes") or ()]
