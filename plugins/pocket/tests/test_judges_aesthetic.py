"""The shipped aesthetic head on the shipped CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from safetensors.torch import load_file

JUDGES = Path(__file__).resolve().parent.parent / "src/ddpo_pocket/judges"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def grade():
    model = transformers.CLIPModel.from_pretrained(JUDGES / "clip", dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(JUDGES / "clip")
    weights = {
        name: tensor.float() for name, tensor in load_file(JUDGES / "aesthetic/head.safetensors").items()
    }

    @torch.no_grad()
    def grade(pictures):
        pixels = processor(images=list(pictures), return_tensors="pt").pixel_values
        values = torch.nn.functional.normalize(
            model.get_image_features(pixel_values=pixels).pooler_output, dim=-1
        )
        for layer in (0, 2, 4, 6, 7):
            weight, bias = weights[f"layers.{layer}.weight"], weights[f"layers.{layer}.bias"]
            values = torch.nn.functional.linear(values, weight, bias)
        return values[:, 0].numpy()

    return grade


def test_the_head_has_the_form_of_laions_predictor():
    shapes = {
        name: tuple(tensor.shape) for name, tensor in load_file(JUDGES / "aesthetic/head.safetensors").items()
    }
    assert shapes == {
        "layers.0.weight": (1024, 128),
        "layers.0.bias": (1024,),
        "layers.2.weight": (128, 1024),
        "layers.2.bias": (128,),
        "layers.4.weight": (64, 128),
        "layers.4.bias": (64,),
        "layers.6.weight": (16, 64),
        "layers.6.bias": (16,),
        "layers.7.weight": (1, 16),
        "layers.7.bias": (1,),
    }


def test_whole_pictures_beat_blurred_ones_and_those_beat_noise(grade, held_out):
    pictures, _ = held_out
    blurred = np.stack([_blurred(picture, 2.5) for picture in pictures])
    noise = np.random.default_rng(0).integers(0, 256, pictures.shape).astype(np.uint8)
    whole, soft, none = grade(pictures).mean(), grade(blurred).mean(), grade(noise).mean()
    assert whole > soft + 2
    assert soft > none + 1


def test_more_blur_is_a_lower_grade(grade, held_out):
    pictures, _ = held_out
    means = [
        grade(np.stack([_blurred(picture, radius) for picture in pictures])).mean() for radius in range(5)
    ]
    assert means == sorted(means, reverse=True)


def test_a_picture_scores_the_same_alone_and_in_a_batch(grade, held_out):
    pictures = held_out[0][:6]
    alone = np.concatenate([grade(pictures[[place]]) for place in range(6)])
    np.testing.assert_allclose(grade(pictures), alone, atol=1e-4)


def _blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))
