"""Boxes and a scene → a score in [0, 1]. Pure functions; no model here.

presence   mean over objects of the best confidence, 0 for an absent one    Pinterest (2401.12244), Eq. 13
count      mean over numbered objects: 1 where as many are found, else 0    T2I-CompBench numeracy
           or 1 − |found − asked| / asked, not below 0                      Flow-GRPO's GenEval, clamped
position   the relation of the two best boxes                               T2I-CompBench 2-D spatial
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddpo_reward_detector_compositionality.scenes import ABOVE, BELOW, LEFT, NEAR, RIGHT, Scene

Box = tuple[float, float, float, float]
Count = Literal["off", "exact", "soft"]
Spatial = Literal["off", "graded", "t2i-compbench"]

SAME_OBJECT = 0.9  # part of a box inside another of its name from which both are one object; also of IoU
NEAR_PIXELS, OF_WIDTH = 150, 512  # "near" is 150 pixels in pictures 512 pixels wide
MOST_OVERLAP = 0.1  # IoU from which left, right, above and below lose points
CUT = 0.5  # T2I-CompBench: totals below are 0


@dataclass(frozen=True)
class Found:
    """One box: which of the scene's objects it shows, how surely, and where in parts of width and height."""

    name: str
    score: float
    box: Box


@dataclass(frozen=True)
class Verdict:
    """A picture's score and the parts it is the mean of; None: the prompt says nothing of that."""

    score: float
    confidences: tuple[float, ...]  # one for each object
    numbers: tuple[int, ...]  # found of each object
    presence: float
    count: float | None = None
    position: float | None = None


def judge(
    scene: Scene,
    boxes: Sequence[Found],
    *,
    count: Count = "off",
    spatial: Spatial = "off",
    aspect: float = 1.0,
) -> Verdict:
    """The verdict on `distinct` boxes, best first. `aspect` is the picture's height / width."""
    best = [next((box for box in boxes if box.name == name), None) for name in scene.names]
    confidences = tuple(box.score if box else 0.0 for box in best)
    numbers = tuple(sum(box.name == name for box in boxes) for name in scene.names)
    presence = sum(confidences) / len(confidences)
    counted = None if count == "off" else count_score(scene, numbers, soft=count == "soft")
    placed = None
    if spatial != "off" and scene.relation is not None:
        first, second = best[0], best[1]
        placed = position_score(scene.relation, first.box, second.box, aspect) if first and second else 0.0
    score = _combined(presence, counted, placed, cut=spatial == "t2i-compbench")
    return Verdict(score, confidences, numbers, presence, counted, placed)


def _combined(presence: float, counted: float | None, placed: float | None, *, cut: bool) -> float:
    """The mean of the parts there are; presence and position are one half each of T2I-CompBench's total."""
    parts = [presence, *(part for part in (placed, counted) if part is not None)]
    if cut and placed is not None and (presence + placed) / 2 < CUT:
        parts[:2] = [0.0, 0.0]
    return sum(parts) / len(parts)


# ---- count -------------------------------------------------------------------------------------------


def count_score(scene: Scene, numbers: Sequence[int], *, soft: bool) -> float | None:
    """Mean over the objects that have a number; None where none has."""
    scores = [
        max(0.0, 1 - abs(found - wanted.count) / wanted.count) if soft else float(found == wanted.count)
        for wanted, found in zip(scene.objects, numbers, strict=True)
        if wanted.count is not None
    ]
    return sum(scores) / len(scores) if scores else None


def distinct(boxes: Sequence[Found], overlap: float = SAME_OBJECT) -> list[Found]:
    """The boxes without repetitions, best first.

    T2I-CompBench's rule: two boxes of one name are one object where their IoU, or the part of either that
    lies in the other, is above 0.9. A smaller `overlap` is for detectors that suppress no repetition.
    """
    kept: list[Found] = []
    for box in sorted(boxes, key=lambda box: box.score, reverse=True):
        if not any(box.name == other.name and _same_object(box.box, other.box, overlap) for other in kept):
            kept.append(box)
    return kept


def _same_object(first: Box, second: Box, overlap: float) -> bool:
    shared, smaller = _intersection(first, second), min(_area(first), _area(second))
    return iou(first, second) > overlap or (smaller > 0 and shared / smaller > SAME_OBJECT)


# ---- position ----------------------------------------------------------------------------------------


def position_score(relation: str, first: Box, second: Box, aspect: float = 1.0) -> float:
    """How well the first box stands in that relation to the second, by T2I-CompBench's rule, in [0, 1].

    near: 1 within 150 / 512 of the picture's width in either direction, else that over the larger distance.
    The others: 1 where the direction is right and dominates, or 0.1 / IoU where the boxes overlap by more
    than that; else 0.
    """
    right = _centre(second, 0) - _centre(first, 0)  # in widths
    down = (_centre(second, 1) - _centre(first, 1)) * aspect
    if relation == NEAR:
        near = NEAR_PIXELS / OF_WIDTH
        return 1.0 if min(abs(right), abs(down)) < near else near / max(abs(right), abs(down))
    along, across = {LEFT: (right, down), RIGHT: (-right, down), ABOVE: (down, right), BELOW: (-down, right)}[
        relation
    ]
    if along <= abs(across):
        return 0.0
    return min(1.0, MOST_OVERLAP / max(iou(first, second), MOST_OVERLAP))


def iou(first: Box, second: Box) -> float:
    """Intersection over union."""
    shared = _intersection(first, second)
    union = _area(first) + _area(second) - shared
    return shared / union if union > 0 else 0.0


def _centre(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _intersection(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)
