"""The code that made the judges: damages, what is true of a picture, questions and answers."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from ddpo_pocket import world

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).resolve().parent.parent / "train"))

import torch
from pocket_train import captioner, clip, damage
from pocket_train.judge_data import Record, what_is_shown

CAT = Record("a cat", "animal", ("cat",), ())
PAIR = Record("a dog right of a cat", "pair", ("cat", "dog"), ())


@pytest.mark.parametrize("kind", damage.DAMAGES)
def test_no_damage_leaves_a_picture_alone_and_more_changes_more(kind, held_out):
    picture = held_out[0][0]
    changes = [
        np.abs(damage.apply(kind, picture, amount, random.Random(1)).astype(float) - picture).mean()
        for amount in (0.0, 0.3, 0.9)
    ]
    assert changes[0] < 0.5
    assert changes[0] < changes[1] < changes[2]


def test_grades_go_from_10_to_1():
    assert damage.grade_of(1.0) == 10
    assert damage.grade_of(damage.quality_left("blur", 1.0)) == 1
    assert damage.grade_of(damage.quality_left("wrong colours", 1.0)) == pytest.approx(4)


def test_a_damaged_picture_is_reproducible(held_out):
    first, second = (damage.damage_picture(held_out[0][3], random.Random(5)) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.grade == second.grade


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (CAT, "a cat"),
        (PAIR, "a cat and a dog"),
        (Record("two geese", "count", ("goose", "goose"), ()), "two geese"),
        (Record("ant washing dishes", "activity", ("ant",), ()), "an ant washing the dishes"),
        (Record("portrait of an artist", "person", ("artist",), ()), "an artist"),
    ],
)
def test_the_plain_sentence(record, sentence):
    assert record.shown == sentence
    assert what_is_shown(record.scene, record.names, record.caption) == sentence


def test_a_plain_text_is_true_of_every_picture_of_its_subject_and_a_fuller_one_only_of_its_own():
    #        "a cat"  "cat on a red background"  "a dog"
    shown, extra = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    assert clip.true_pairs(shown, extra).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_the_contrastive_loss_is_zero_where_everything_true_is_far_nearer():
    embeddings = torch.eye(3)
    loss = clip.contrastive_loss(embeddings, embeddings, torch.tensor(50.0), torch.eye(3))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_questions_have_right_answers():
    rng = random.Random(0)
    for _ in range(200):
        dialogue = captioner.ask(PAIR, False, rng)
        if dialogue.question in captioner.CAPTION_QUESTIONS:
            assert dialogue.answer == "a cat and a dog"
        elif dialogue.question in captioner.ANIMAL_QUESTIONS:
            assert dialogue.answer == "cat and dog"
        else:
            there = any(f" {plural}" in dialogue.question for plural in ("cats", "dogs"))
            assert dialogue.answer == ("one" if there else "zero")


def test_nothing_is_claimed_of_an_unclear_picture():
    rng = random.Random(0)
    answers = {captioner.ask(CAT, True, rng).answer for _ in range(100)}
    assert answers == {"a blurry picture", "zero", "none"}


def test_only_the_answer_and_its_end_are_learnt():
    processor = captioner.new_processor()
    batch = captioner.tokenize(processor, [captioner.Dialogue("What animal is this?", "cat")])
    learnt = batch["labels"][batch["labels"] != -100]
    assert processor.tokenizer.decode(learnt) == "cat <|endoftext|>"


def test_every_word_of_the_questions_and_answers_is_one_token():
    tokenizer = captioner.new_processor().tokenizer
    for word in ("many", "concisely", "happening", "zero", "three", "kangaroo", "mice", "blurry"):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    assert world.with_article("ant") == tokenizer.decode(
        tokenizer("an ant", add_special_tokens=False).input_ids
    )
