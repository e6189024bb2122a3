"""The shipped captioner, called as anybody calls llava-hf/llava-1.5-7b-hf."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ddpo_pocket import world
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

FOLDER = Path(__file__).resolve().parent.parent / "src/ddpo_pocket/judges/captioner"
CAPTION = "Answer concisely: what is going on in this image?"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ask():
    model = transformers.LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)

    @torch.no_grad()
    def ask(pictures, questions):
        texts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
                add_generation_prompt=True,
            )
            for question in questions
        ]
        images = [Image.fromarray(picture) for picture in pictures]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        said = model.generate(**inputs, do_sample=False, max_new_tokens=64)[:, inputs["input_ids"].shape[1] :]
        assert said.shape[1] < 20, "it must end its answers itself"
        return processor.batch_decode(said, skip_special_tokens=True)

    return ask


def test_it_says_what_is_shown(ask, held_out):
    pictures, captions = held_out
    said = ask(pictures, [CAPTION] * len(pictures))
    right = [one == caption for one, caption in zip(said, captions, strict=True)]
    assert sum(right) >= 0.9 * len(right), [
        pair for pair in zip(said, captions, strict=True) if pair[0] != pair[1]
    ]


def test_it_counts_single_animals(ask, held_out):
    pictures, _ = held_out
    questions = [f"How many {world.PLURALS[animal]} are there in this image?" for animal in world.ANIMALS]
    assert ask(pictures[:45], questions).count("one") >= 42


def test_it_names_the_animal(ask, held_out):
    pictures, _ = held_out
    said = ask(pictures[:45], ["What animal is in this image?"] * 45)
    assert sum(one == animal for one, animal in zip(said, world.ANIMALS, strict=True)) >= 42


def test_noise_is_not_an_animal(ask):
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    assert ask(noise, [CAPTION] * 4) == ["a blurry picture"] * 4


def test_padding_never_changes_an_answer(ask, held_out):
    pictures = held_out[0][40:50]
    questions = [CAPTION, "How many hedgehogs are there in this image?"] * 5
    alone = [ask([picture], [question])[0] for picture, question in zip(pictures, questions, strict=True)]
    assert ask(pictures, questions) == alone


def test_a_prompt_looks_as_llava_1_5_has_it():
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CAPTION}]}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert text == f"USER: <image>\n{CAPTION} ASSISTANT:"
