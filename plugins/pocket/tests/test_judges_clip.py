"""The shipped CLIP, through plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from ddpo_pocket import world

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

FOLDER = Path(__file__).resolve().parent.parent / "src/ddpo_pocket/judges/clip"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judge():
    model = transformers.CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    return model, transformers.AutoProcessor.from_pretrained(FOLDER)


@torch.no_grad()
def _logits(judge, pictures, texts):
    model, processor = judge
    inputs = processor(text=texts, images=list(pictures), return_tensors="pt", padding=True)
    return model(**inputs).logits_per_image


def test_it_names_the_animals(judge, held_out):
    pictures, captions = held_out
    texts = [world.with_article(animal) for animal in world.ANIMALS]
    found = _logits(judge, pictures[:45], texts).argmax(1)
    right = [texts[place] == caption for place, caption in zip(found, captions[:45], strict=True)]
    assert sum(right) >= 43


def test_it_tells_people_activities_and_counts_apart(judge, held_out):
    pictures, captions = held_out
    found = _logits(judge, pictures[45:], captions[45:]).argmax(1)
    assert (found == torch.arange(len(found))).float().mean() > 0.8


def test_a_picture_scores_the_same_alone_and_in_a_batch(judge, held_out):
    pictures, captions = held_out
    together = _logits(judge, pictures[:6], captions[:3])
    alone = torch.cat([_logits(judge, pictures[[place]], captions[:3]) for place in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_the_processor_takes_pictures_of_any_size(judge, held_out):
    _, processor = judge
    large = held_out[0][:1].repeat(2, 1).repeat(2, 2)
    assert processor(images=list(large), return_tensors="pt").pixel_values.shape == (1, 3, 64, 64)
