"""Skin tone diversity of the pictures of one prompt (Pinterest, arXiv 2401.12244, section 4.2).

pictures → faces → tones → buckets → parity of the group → credit of each picture
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ddpo_core import Prompt, Scores, UsageError
from ddpo_core.judges import to_uint8
from ddpo_reward_skintone_diversity.faces import (
    REWARD,
    Face,
    FaceDetector,
    Mtcnn,
    Whole,
    YuNet,
    ZeroShot,
    largest,
)
from ddpo_reward_skintone_diversity.parity import (
    ESTIMATORS,
    Estimator,
    finite_sample_floor,
    leave_one_out_credit,
    parity,
    unbiased_parity,
)
from ddpo_reward_skintone_diversity.tone import (
    MONK,
    Scale,
    SkinLimits,
    Span,
    Tone,
    ita_scale,
    palette_scale,
    skin_tone,
)

Credit = Literal["leave-one-out", "shared"]
NoFace = Literal["ignore", "nan", "worst"]
Detector = Literal["yunet", "mtcnn", "zero-shot", "whole"]
ScaleName = Literal["monk", "ita", "palette"]


@dataclass(frozen=True)
class Reading:
    """What was seen in one picture: its largest face, and the tone and bucket of that."""

    face: Face | None = None
    tone: Tone | None = None  # None: no face, or a face without skin
    bucket: int | None = None


class SkintoneDiversity:
    """Minus the statistical parity of the group, with each picture's own part in it."""

    def __init__(
        self,
        *,
        detector: Detector = "yunet",
        detector_weights: str | None = None,
        query: str = "a face",
        min_score: float | None = None,
        scale: ScaleName = "monk",
        buckets: int | None = None,
        edges: Sequence[int] | None = None,
        cuts: Sequence[float] | None = None,
        palette: Sequence[str] | None = None,
        target: Sequence[float] | None = None,
        no_face: NoFace = "ignore",
        credit: Credit = "leave-one-out",
        parity: Estimator = "l2",
        inner: float = 0.8,
        hue: Span = (15, 100),
        chroma: Span = (3, 75),
        lightness: Span = (5, 98),
        min_skin: float = 0.1,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        """See `ddpo rewards show skintone-diversity` for the options.

        Raises `UsageError` for options that do not go together, `EnvironmentFault` for missing weights.
        """
        self.scale = _scale(scale, buckets=buckets, edges=edges, cuts=cuts, palette=palette)
        self.target = _target(target, len(self.scale.names))
        self.no_face, self.credit, self.estimator = no_face, credit, parity
        self.limits = SkinLimits(_span("hue", hue), _span("chroma", chroma), _span("lightness", lightness))
        self.inner, self.min_skin = inner, min_skin
        self.detector: FaceDetector | None = _detector(
            detector,
            detector_weights,
            query=query,
            min_score=min_score,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
        )

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        """Credits of images [B, 3, H, W] in [0, 1], one prompt's pictures; the level is minus the parity."""
        readings = self.read(images)
        buckets = [reading.bucket for reading in readings]
        about_group = self.summary(buckets)
        return Scores(
            self.credits(buckets),
            [self._detail(reading, about_group) for reading in readings],
            levels=np.full(len(buckets), self.level(buckets)),
        )

    def close(self) -> None:
        """Let go of the detector."""
        self.detector = None

    # ---- pictures → buckets

    def read(self, images: Tensor) -> list[Reading]:
        """Face, tone and bucket of each of images [B, 3, H, W]; the largest face counts."""
        assert self.detector is not None, "this reward was closed"
        pictures = list(to_uint8(images).permute(0, 2, 3, 1).numpy())
        found = self.detector(pictures)
        return [self._reading(picture, faces) for picture, faces in zip(pictures, found, strict=True)]

    def _reading(self, picture: np.ndarray[Any, np.dtype[np.uint8]], faces: Sequence[Face]) -> Reading:
        face = largest(faces)
        if face is None:
            return Reading()
        tone = skin_tone(picture, face.box, inner=self.inner, limits=self.limits, min_skin=self.min_skin)
        return Reading(face, tone, None if tone is None else self.scale.bucket(tone))

    # ---- buckets → scores

    def level(self, buckets: Sequence[int | None]) -> float:
        """−SP of the group; NaN where there is nothing to measure."""
        return -ESTIMATORS[self.estimator](*self._table(self._slots(buckets)))

    def credits(self, buckets: Sequence[int | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """What each picture is given for its bucket (None: no face), [B].

        shared          −SP for every picture
        leave-one-out   n (SP₋ᵢ − its mean over the group): 0 on average, and by the factor n as large as the
                        slope of SP in the shares, whatever the group's size

        A picture that is left out of the counts has the credit 0. NaN where there is nothing to measure.
        """
        level, slots = self.level(buckets), self._slots(buckets)
        credits = np.full(len(slots), level if self.credit == "shared" else 0.0 * level)
        if self.no_face == "nan":
            credits[[slot is None for slot in slots]] = math.nan
        counted = [place for place, slot in enumerate(slots) if slot is not None]
        if self.credit == "leave-one-out" and counted:
            of_bucket = leave_one_out_credit(*self._table(slots), self.estimator)
            credit = of_bucket[[slot for slot in slots if slot is not None]]
            if np.isfinite(credit).all():  # one picture alone, or two for `unbiased`, have no others to leave
                credits[counted] = len(counted) * (credit - credit.mean())
        return credits

    def summary(self, buckets: Sequence[int | None]) -> dict[str, object]:
        """The group's numbers, as a record: both estimates of parity, and the floor for so many pictures."""
        counts = [sum(bucket == place for bucket in buckets) for place in range(len(self.scale.names))]
        n = sum(counts)
        return {
            "parity": _number(parity(counts, self.target)),
            "unbiased": _number(unbiased_parity(counts, self.target)),
            "n": n,
            "no_face": len(buckets) - n,
            "floor": finite_sample_floor(n, len(counts)) if n else None,
        }

    def _slots(self, buckets: Sequence[int | None]) -> list[int | None]:
        """Buckets, with the extra one for pictures without a face where they count as worst."""
        missing = len(self.scale.names) if self.no_face == "worst" else None
        return [missing if bucket is None else bucket for bucket in buckets]

    def _table(
        self, slots: Sequence[int | None]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.float64]]]:
        target = np.append(self.target, 0.0) if self.no_face == "worst" else self.target
        taken = [slot for slot in slots if slot is not None]
        return np.bincount(np.array(taken, dtype=np.int64), minlength=len(target)), target

    # ---- records

    def _detail(self, reading: Reading, group: Mapping[str, object]) -> dict[str, object]:
        """One picture's record; "bucket" is an index into `buckets` buckets from light to dark, or None."""
        record: dict[str, object] = {
            "bucket": reading.bucket,
            "buckets": len(self.scale.names),
            "statistics": group,
            "boxes": [],
            "caption": "no face",
        }
        if reading.face is not None:
            box = [min(max(side, 0.0), 1.0) for side in reading.face.box]
            record["boxes"] = [{"label": "face", "score": reading.face.score, "box": box}]
            record["caption"] = "a face without skin colours"
        if reading.tone is not None and reading.bucket is not None:
            name = self.scale.names[reading.bucket]
            record |= {
                "tone": name,
                "ita": reading.tone.ita,
                "lab": list(reading.tone.lab),
                "skin": reading.tone.skin,
                "caption": f"{name}, ITA {reading.tone.ita:.0f}°",
            }
        return record


# ---- options -----------------------------------------------------------------------------------------


def _scale(
    name: ScaleName,
    *,
    buckets: int | None,
    edges: Sequence[int] | None,
    cuts: Sequence[float] | None,
    palette: Sequence[str] | None,
) -> Scale:
    """The scale that the options name. Raises `UsageError`, also for an option of another scale."""
    others: Mapping[str, Mapping[str, object]] = {
        "monk": {"cuts": cuts, "palette": palette},
        "ita": {"edges": edges, "palette": palette},
        "palette": {"cuts": cuts},
    }
    for option, value in others[name].items():
        if value is not None:
            raise UsageError(f"the reward {REWARD}: {option}= does not belong to scale={name}")
    if name == "palette" and not palette:
        raise UsageError(f"the reward {REWARD}: scale=palette expects colours, as palette='[\"#f7dece\", …]'")
    try:
        if name == "ita":
            return ita_scale(cuts, buckets=buckets)
        if name == "palette":
            return palette_scale(palette or (), edges, buckets=buckets, prefix="tone ")
        wanted = buckets if buckets is not None or edges is not None else 4
        return palette_scale(MONK, edges, buckets=wanted, prefix="MST ")
    except (TypeError, ValueError) as error:
        raise UsageError(f"the reward {REWARD}, scale={name}: {error}") from error


def _target(target: Sequence[float] | None, buckets: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    if target is None:
        return np.full(buckets, 1 / buckets)
    shares = np.array(target, dtype=np.float64)
    if shares.shape != (buckets,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise UsageError(
            f"the reward {REWARD} expects target= {buckets} shares that add up to 1, got {list(target)}"
        )
    return shares


def _span(option: str, value: Sequence[float]) -> Span:
    if len(value) != 2 or not value[0] < value[1]:
        raise UsageError(f"the reward {REWARD} expects {option}= two rising numbers, got {list(value)}")
    return (float(value[0]), float(value[1]))


def _detector(
    name: Detector,
    weights: str | None,
    *,
    query: str,
    min_score: float | None,
    device: str,
    dtype: str,
    batch_size: int,
) -> FaceDetector:
    if weights is not None and name in ("mtcnn", "whole"):
        raise UsageError(f"the reward {REWARD}: detector={name} takes no detector_weights=")
    if name == "whole":
        return Whole()
    if name == "mtcnn":
        return Mtcnn(min_score=0.9 if min_score is None else min_score, device=device)
    if name == "yunet":
        return YuNet(weights, min_score=0.6 if min_score is None else min_score)
    return ZeroShot(
        weights,
        query=query,
        min_score=0.1 if min_score is None else min_score,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
    )


def _number(value: float) -> float | None:
    """A number as JSON has it."""
    return value if math.isfinite(value) else None
