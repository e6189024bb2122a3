"""Measures the detector on renderings it never saw and on what the pocket model draws."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ddpo_pocket import world
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    CLIPTokenizer,
    Owlv2ForObjectDetection,
)

from .autoencoder import to_model_range
from .detector import overlaps, predict
from .detector_data import CONCEPTS, FACE, Artist, EvenTones, normalised, objects_of
from .evaluate import Sampling, generate, load_pipeline
from .faces import FaceBook
from .render import HELD_OUT_SEED, Picture, held_out_pictures
from .sheets import grid
from .sprites import load_or_draw

FOUND, OVERLAP = 0.3, 0.5
SEED = HELD_OUT_SEED + 2_000_000
SHEET_SEED = HELD_OUT_SEED + 2_900_000
SHEET = {"animal": 12, "activity": 4, "pair": 6, "count": 2, "person": 8}
SCENES = {"animal": 400, "pair": 200, "activity": 150, "count": 150, "person": 200}
SAMPLED = 60  # pictures of the pocket model for each guidance
_ANIMALS = slice(0, len(world.ANIMALS))


@dataclass(frozen=True)
class Seen:
    """What the detector says about some pictures: of every concept, its most confident box."""

    scores: np.ndarray  # [N, C]
    boxes: Tensor  # [N, C, 4] centre and size, shares of the side
    all_scores: Tensor  # [N, 64, C]
    all_boxes: Tensor  # [N, 64, 4]


class Detector:
    """The shipped folder, asked for every concept at once."""

    def __init__(self, folder: Path) -> None:
        self._model = Owlv2ForObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        texts = [world.with_article(concept) for concept in CONCEPTS]
        self._ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids

    @torch.no_grad()
    def look(self, pixels: np.ndarray) -> Seen:
        """[N, 64, 64, 3] uint8."""
        parts = [predict(self._model, self._ids, block) for block in to_model_range(pixels).split(50)]
        logits, boxes = (torch.cat(part) for part in zip(*parts, strict=True))
        scores, tokens = logits.sigmoid().max(1)
        best = boxes.gather(1, tokens[..., None].expand(-1, -1, 4))
        return Seen(scores.numpy(), best, logits.sigmoid(), boxes)


def report_detector(folder: Path, sprites: Path, model: Path, docs: Path) -> dict:
    """Everything measured, also put into `docs/judges.json` under "detector"; other entries stay."""
    numbers, file = measure(folder, sprites, model), docs / "judges.json"
    everything = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(everything | {"detector": numbers}, indent=2) + "\n")
    return numbers


def measure(folder: Path, sprites: Path, model: Path) -> dict:
    """Every number of the section."""
    book, detector = load_or_draw(Path(), sprites), Detector(folder)
    faces, even, artist = FaceBook(book), EvenTones(book), Artist(model)
    numbers: dict = {"threshold": FOUND, "overlap": OVERLAP}
    for place, (scene, count) in enumerate(SCENES.items()):
        drawn = held_out_pictures(even, count, scene, SEED + place * 100_000, "all")
        plain = np.stack([picture.pixels for picture in drawn])
        for look, pixels in (("rendered", plain), ("decoded", artist.decode_again(plain[: count // 2]))):
            numbers[f"{scene}, {look}"] = score_scene(detector, faces, drawn[: len(pixels)], pixels)
    numbers["pairs drawn by pocket"] = score_samples(detector, model)
    numbers["pictures a second, one thread"] = {str(count): speed(folder, count) for count in (1, 2, 46)}
    return numbers


@torch.no_grad()
def speed(folder: Path, queries: int) -> float:
    """Pictures a second through plain transformers, 16 at a time, each asked for `queries` names."""
    processor = AutoProcessor.from_pretrained(folder)
    network = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [[world.with_article(concept) for concept in CONCEPTS[-queries:]]] * 16
    pictures = [Image.fromarray(np.full((64, 64, 3), 16 * shade, np.uint8)) for shade in range(16)]
    sizes, seconds = [(64, 64)] * 16, []
    for _ in range(3):
        start = time.time()
        inputs = processor(text=texts, images=pictures, return_tensors="pt")
        processor.post_process_grounded_object_detection(network(**inputs), FOUND, sizes)
        seconds.append(time.time() - start)
    return round(16 / min(seconds), 1)


def write_test_sheet(sprites: Path, folder: Path) -> None:
    """`detector.png` and `detector.json` (the objects of each picture) for the tests of the weights."""
    book = load_or_draw(Path(), sprites)
    faces, even = FaceBook(book), EvenTones(book)
    drawn = [
        picture
        for place, (scene, count) in enumerate(SHEET.items())
        for picture in held_out_pictures(even, count, scene, SHEET_SEED + place * 1000, "all")
    ]
    sheet = grid(np.stack([picture.pixels for picture in drawn]), columns=8, gap=0)
    rows = [json.dumps(_described(*objects_of(picture, faces))) for picture in drawn]
    folder.mkdir(exist_ok=True)
    sheet.save(folder / "detector.png", optimize=True)
    (folder / "detector.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")


def _described(boxes: np.ndarray, labels: np.ndarray) -> list[dict]:
    rows = zip(boxes.astype(float).round(1).tolist(), labels, strict=True)
    return [{"name": CONCEPTS[label], "box": box} for box, label in rows if label >= 0]


def score_scene(detector: Detector, faces: FaceBook, drawn: list[Picture], pixels: np.ndarray) -> dict:
    """Shares found and named right, and how often something is seen that is not there."""
    seen = detector.look(pixels)
    objects = [objects_of(picture, faces) for picture in drawn]
    boxes, labels = normalised(np.stack([one[0] for one in objects])), np.stack([one[1] for one in objects])
    rows, slots = np.nonzero(labels >= 0)
    truth = torch.as_tensor(labels[rows, slots])
    scores = seen.all_scores[rows, :, truth]  # [objects, 64]
    wanted = boxes[rows, slots]
    tokens = seen.all_boxes[rows]
    iou = overlaps(tokens.flatten(0, 1), wanted[:, None].expand_as(tokens).flatten(0, 1))[0].view(
        len(rows), -1
    )
    found = ((scores > FOUND) & (iou > OVERLAP)).any(1).numpy()
    is_face = truth.numpy() == CONCEPTS.index(FACE)
    return _shares(seen, labels, rows, found, is_face)


def _shares(seen: Seen, labels: np.ndarray, rows: np.ndarray, found: np.ndarray, is_face: np.ndarray) -> dict:
    result = {"pictures": len(labels), "objects found": _share(found[~is_face])}
    missed = np.unique(rows[~found & ~is_face])
    result["all objects found"] = _share(~np.isin(np.arange(len(labels)), missed))
    if is_face.any():
        result["faces found"] = _share(found[is_face])
    else:
        named = seen.scores[:, _ANIMALS].argmax(1)
        result["most confident name is there"] = _share((named[:, None] == labels).any(1))
    absent = np.ones_like(seen.scores, bool)
    absent[np.arange(len(labels))[:, None].repeat(labels.shape[1], 1)[labels >= 0], labels[labels >= 0]] = (
        False
    )
    strangers = np.where(absent, seen.scores, 0)[:, _ANIMALS]
    result["an absent animal above 0.3"] = _share(strangers.max(1) > FOUND)
    result["confidence, median"] = round(float(np.median(_present(seen, labels))), 3)
    return result


def _present(seen: Seen, labels: np.ndarray) -> np.ndarray:
    rows, slots = np.nonzero(labels >= 0)
    return seen.scores[rows, labels[rows, slots]]


def score_samples(detector: Detector, model: Path) -> dict:
    """The composition reward on the pocket model's own pictures, and the confidence in what is absent."""
    prompts = world.pairs("seen")[:: len(world.pairs("seen")) // SAMPLED][:SAMPLED]
    result = {}
    for guidance in (1.0, 4.0):
        sampling = Sampling(steps=12, guidance_scale=guidance, eta=1.0, seed=5)
        seen = detector.look(generate(load_pipeline(model), prompts, sampling))
        there = np.array([[world.ANIMALS.index(word) for word in _nouns(prompt)] for prompt in prompts])
        wanted = np.take_along_axis(seen.scores, there, 1)
        others = seen.scores[:, _ANIMALS].copy()
        np.put_along_axis(others, there, np.nan, 1)
        result[f"guidance {guidance:g}"] = {
            "reward, mean": round(float(wanted.mean()), 3),
            "reward, standard deviation": round(float(wanted.mean(1).std()), 3),
            "confidence, deciles": np.percentile(wanted, range(10, 100, 10)).round(3).tolist(),
            "both above 0.3": _share((wanted > FOUND).all(1)),
            "absent animals, mean confidence": round(float(np.nanmean(others)), 4),
        }
    return result


def _nouns(prompt: str) -> list[str]:
    return [word for word in prompt.split() if word in world.ANIMALS]


def _share(mask: np.ndarray) -> float:
    return round(float(mask.mean()), 4)
