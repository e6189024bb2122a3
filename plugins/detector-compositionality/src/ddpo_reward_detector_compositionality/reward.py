"""Compositionality by a detector (Pinterest, arXiv 2401.12244, section 4.2).

prompt → the objects it wants · picture → their boxes · both → a score
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ddpo_core import Prompt, Scores, UsageError
from ddpo_core.judges import to_pil
from ddpo_reward_detector_compositionality.detectors import Detector, load
from ddpo_reward_detector_compositionality.rules import Count, Found, Spatial, Verdict, distinct, judge
from ddpo_reward_detector_compositionality.scenes import REWARD, Scene, scene_of

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_DRAWN = 20  # boxes in a picture's record


class DetectorCompositionality:
    """How surely a detector finds every object of the prompt."""

    def __init__(
        self,
        *,
        detector: str | Detector = "zero-shot",
        weights: str | None = None,
        query: str | None = None,
        min_score: float = 0.1,
        overlap: float | None = None,
        count: Count = "off",
        spatial: Spatial = "off",
        vocabulary: Sequence[str] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """`detector` may also be a `Detector` of your own; see `ddpo rewards show` for the options.

        Raises `UsageError` and `EnvironmentFault` for options and weights that will not do.
        """
        if vocabulary is not None and (
            isinstance(vocabulary, str)
            or not vocabulary
            or not all(isinstance(name, str) for name in vocabulary)
        ):
            raise UsageError(f"the reward {REWARD} expects vocabulary= a list of names, got {vocabulary!r}")
        self.count, self.spatial, self.vocabulary, self.batch_size = count, spatial, vocabulary, batch_size
        self.detector: Detector | None = (
            load(detector, weights, query=query, min_score=min_score, device=device, dtype=dtype)
            if isinstance(detector, str)
            else detector
        )
        self.overlap = self.detector.overlap if overlap is None else overlap

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        """Scores [B] in [0, 1] of images [B, 3, H, W], with the boxes found."""
        scenes = [scene_of(prompt, self.vocabulary) for prompt in prompts]
        pictures = to_pil(images)
        scores, details = [], []
        for start in range(0, len(pictures), self.batch_size):
            part = slice(start, start + self.batch_size)
            for scene, picture, boxes in zip(
                scenes[part], pictures[part], self._look(pictures[part], scenes[part]), strict=True
            ):
                verdict = judge(
                    scene,
                    boxes,
                    count=self.count,
                    spatial=self.spatial,
                    aspect=picture.height / picture.width,
                )
                scores.append(verdict.score)
                details.append(_detail(scene, verdict, boxes))
        return Scores(np.array(scores, dtype=np.float64), details)

    def close(self) -> None:
        """Let go of the model."""
        self.detector = None

    def _look(self, pictures: Sequence[Image], scenes: Sequence[Scene]) -> list[list[Found]]:
        assert self.detector is not None, "this reward was closed"
        found = self.detector(pictures, [scene.names for scene in scenes])
        return [distinct(boxes, self.overlap) for boxes in found]


def _detail(scene: Scene, verdict: Verdict, boxes: Sequence[Found]) -> dict[str, Any]:
    """One picture's record: each object's confidence and number, the parts of the score, the boxes."""
    return {
        "objects": [
            {"name": wanted.name, "confidence": confidence, "found": number, "asked": wanted.count}
            for wanted, confidence, number in zip(
                scene.objects, verdict.confidences, verdict.numbers, strict=True
            )
        ],
        "relation": scene.relation,
        "parts": {"presence": verdict.presence, "count": verdict.count, "position": verdict.position},
        "boxes": [
            {"label": box.name, "score": box.score, "box": list(box.box)} for box in boxes[:MOST_DRAWN]
        ],
        "caption": ", ".join(
            f"{name} {confidence:.2f}" if confidence else f"no {name}"
            for name, confidence in zip(scene.names, verdict.confidences, strict=True)
        ),
    }
