"""The shipped detector, through plain transformers, on renderings that no training saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ddpo_pocket import world

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "src/ddpo_pocket/judges/detector"
DATA = Path(__file__).with_name("data")
PICTURES = 32
ANIMALS = [world.with_article(animal) for animal in world.ANIMALS]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judge():
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(FOLDER, dtype=torch.float32)
    return model.eval(), transformers.AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def sheet() -> tuple[list[Image.Image], list[list[dict]]]:
    """Pictures, and the objects (name, box) of each."""
    image, objects = Image.open(DATA / "detector.png"), json.loads((DATA / "detector.json").read_text())
    places = [(place % 8 * 64, place // 8 * 64) for place in range(PICTURES)]
    return [image.crop((left, top, left + 64, top + 64)) for left, top in places], objects


@torch.no_grad()
def _detect(judge, pictures, queries, threshold=0.3):
    """`queries` has one list of texts for each picture."""
    model, processor = judge
    inputs = processor(text=queries, images=pictures, return_tensors="pt")
    sizes = [(picture.height, picture.width) for picture in pictures]
    return processor.post_process_grounded_object_detection(model(**inputs), threshold, sizes)


def _overlap(first, second) -> float:
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def _found(judge, pictures, objects, scale=1) -> list[bool]:
    """Of every object, whether a box of its name lies on it."""
    queries = [sorted({world.with_article(thing["name"]) for thing in of_one}) for of_one in objects]
    longest = max(map(len, queries))
    padded = [texts + [""] * (longest - len(texts)) for texts in queries]
    result = []
    for texts, things, seen in zip(padded, objects, _detect(judge, pictures, padded), strict=True):
        for thing in things:
            wanted = [scale * corner for corner in thing["box"]]
            boxes = seen["boxes"][seen["labels"] == texts.index(world.with_article(thing["name"]))]
            result.append(any(_overlap(box, wanted) > 0.5 for box in boxes.tolist()))
    return result


def test_it_finds_animals_and_people(judge, sheet):
    pictures, objects = sheet
    things = [[thing for thing in of_one if thing["name"] != "face"] for of_one in objects]
    assert np.mean(_found(judge, pictures, things)) >= 0.9


def test_it_finds_faces(judge, sheet):
    pictures, objects = sheet
    people = [
        place for place, of_one in enumerate(objects) if any(thing["name"] == "face" for thing in of_one)
    ]
    faces = [[thing for thing in objects[place] if thing["name"] == "face"] for place in people]
    assert np.mean(_found(judge, [pictures[place] for place in people], faces)) >= 0.85


def test_boxes_are_in_pixels_of_the_picture_as_given(judge, sheet):
    pictures, objects = sheet
    large = [picture.resize((256, 256)) for picture in pictures[:8]]
    assert np.mean(_found(judge, large, objects[:8], scale=4)) >= 0.8


def test_an_animal_that_is_absent_hardly_ever_passes_the_threshold(judge, sheet):
    pictures, objects = sheet
    there = [{world.with_article(thing["name"]) for thing in of_one} for of_one in objects]
    absent = [[text for text in ANIMALS if text not in names][:43] for names in there]
    passing = [len(set(seen["labels"].tolist())) for seen in _detect(judge, pictures, absent)]
    assert sum(passing) / (PICTURES * 43) <= 0.01


def test_nobody_is_an_animal_and_no_animal_has_a_human_face(judge, sheet):
    pictures, objects = sheet
    is_person = [any(thing["name"] == "face" for thing in of_one) for of_one in objects]
    queries = [ANIMALS if person else ["a face"] for person in is_person]
    longest = len(ANIMALS)
    seen = _detect(judge, pictures, [texts + [""] * (longest - len(texts)) for texts in queries])
    assert sum(len(one["scores"]) > 0 for one in seen) <= 1


def test_a_picture_scores_the_same_alone_and_in_a_batch(judge, sheet):
    pictures, _ = sheet
    texts = ["a cat", "a dog", "a face"]
    together = _detect(judge, pictures[:5], [texts] * 5, threshold=0.0)
    for picture, one in zip(pictures, together, strict=False):
        alone = _detect(judge, [picture], [texts], threshold=0.0)[0]
        torch.testing.assert_close(one["scores"], alone["scores"], rtol=0, atol=1e-5)


def test_confidence_falls_as_a_picture_fades(judge, sheet):
    pictures, objects = sheet
    noise = np.random.default_rng(0).normal(size=(64, 64, 3)) * 60 + 128
    means = []
    for share in (0.0, 0.6, 0.95):
        mixed = [Image.fromarray(_mix(picture, noise, share)) for picture in pictures[:12]]
        queries = [[world.with_article(of_one[0]["name"])] for of_one in objects[:12]]
        means.append(np.mean([one["scores"].max() for one in _detect(judge, mixed, queries, threshold=0.0)]))
    assert means[0] > means[1] > means[2]
    assert means[2] < 0.3


def _mix(picture: Image.Image, noise: np.ndarray, share: float) -> np.ndarray:
    mixed = (1 - share) * np.asarray(picture) + share * noise
    return np.clip(mixed, 0, 255).astype(np.uint8)
