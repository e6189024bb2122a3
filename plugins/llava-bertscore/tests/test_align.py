"""align: the BERTScore of what the model says against the prompt; silence is a failure and never a 0."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from ddpo_reward_llava_bertscore import ddpo_rewards
from ddpo_reward_llava_bertscore.align import Align
from ddpo_reward_llava_bertscore.bertscore import BertScorer

from ddpo_core import Prompt, RewardError, UsageError
from ddpo_core.rewards import Objective, Term
from ddpo_core.testing import check_reward, example_images, example_prompts

INFO = {info.name: info for info in ddpo_rewards()}["align"]
PROMPTS = [Prompt("a cat"), Prompt("two dogs riding a bike"), Prompt("three wolves")]
IMAGES = example_images(3, 24)


class Says:
    """An answerer with its answers written down; it keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, images, questions):
        self.asked += questions
        return list(self.answers)

    def close(self) -> None:
        pass


@pytest.fixture
def align(tiny_bert):
    """`align("an answer", …, score="f1")`: the reward, with a model that says just that."""

    def make(*answers: str, **options: object) -> Align:
        reward = Align(endpoint="http://127.0.0.1:9", bert_model=str(tiny_bert), bert_layers=2, **options)
        reward.answerer = Says(*answers)
        return reward

    return make


@pytest.mark.parametrize("family", ["tiny_llava", "tiny_gemma3"])
def test_the_reward_keeps_the_contract(family, request, tiny_bert):
    folder = request.getfixturevalue(family)
    reward = Align(
        vlm=str(folder),
        bert_model=str(tiny_bert),
        bert_layers=2,
        max_new_tokens=8,
        batch_size=2,
        device="cpu",
    )
    check_reward(reward, INFO, size=24)


def test_batch_size_does_not_change_a_score(tiny_llava, tiny_bert):
    def scores(batch_size: int) -> np.ndarray:
        reward = Align(
            vlm=str(tiny_llava),
            bert_model=str(tiny_bert),
            bert_layers=2,
            max_new_tokens=8,
            batch_size=batch_size,
            device="cpu",
        )
        return reward(example_images(5, 24), example_prompts()).values

    assert np.allclose(scores(1), scores(16), atol=1e-6)
    assert np.allclose(scores(3), scores(16), atol=1e-6)


@pytest.mark.parametrize("kind", ["recall", "precision", "f1"])
def test_the_prompt_is_the_reference_and_the_answer_the_candidate(align, tiny_bert, kind):
    answers = ["a cat", "a dog", "two wolves in this image"]
    references = [f"The image contains {prompt.text}" for prompt in PROMPTS]
    bert = BertScorer("align", str(tiny_bert), 2, device="cpu")
    expected = getattr(bert(answers, references), kind)
    scores = align(*answers, score=kind)(IMAGES, PROMPTS)
    assert np.array_equal(scores.values, expected)
    assert [detail["caption"] for detail in scores.details] == answers
    assert [detail[kind] for detail in scores.details] == list(expected)
    assert scores.details[0]["bert_model"] == str(tiny_bert) and scores.details[0]["bert_layers"] == 2


def test_question_and_reference_may_be_others(align, tiny_bert):
    reward = align("a cat", "a dog", "a wolf", question="what is this", reference="{prompt} , {prompt} {x}")
    scores = reward(IMAGES, PROMPTS).values
    assert reward.answerer.asked == ["what is this"] * 3
    bert = BertScorer("align", str(tiny_bert), 2, device="cpu")
    assert scores[0] == pytest.approx(bert(["a cat"], ["a cat , a cat {x}"]).recall[0], abs=1e-6)


def test_the_defaults_are_those_of_the_paper(align):
    reward = align("", "", "")
    reward(IMAGES, PROMPTS)
    assert reward.answerer.asked == ["Answer concisely: what is going on in this image?"] * 3
    defaults = {option.name: option.default for option in INFO.options}
    assert defaults["reference"] == "The image contains {prompt}"
    assert (defaults["score"], defaults["max_new_tokens"]) == ("recall", 64)
    assert (defaults["vlm"], defaults["bert_model"]) == (
        "llava-hf/llava-1.5-13b-hf",
        "microsoft/deberta-xlarge-mnli",
    )
    assert INFO.aliases == ("llava-bertscore",)


def test_silence_is_a_failure_of_that_picture_and_never_a_zero(align):
    scores = align("a cat", "", " \n")(IMAGES, PROMPTS)
    assert np.isnan(scores.values).tolist() == [False, True, True]
    alone = align("a cat")(IMAGES[:1], PROMPTS[:1])
    assert scores.values[0] == pytest.approx(alone.values[0], abs=1e-6)
    assert scores.details[1] == {"caption": "", "failure": "the model answered nothing"}


def test_the_runs_policy_settles_silence(align):
    def run(on_error: str) -> np.ndarray:
        term = Term("align", 1.0, align("a cat", "", "two wolves"), INFO, on_error)
        return Objective([term]).score(IMAGES, PROMPTS)["align"].values

    with pytest.raises(RewardError, match="no finite score for 1 of 3 images; first is sample 1"):
        run("raise")
    assert np.isnan(run("drop")).tolist() == [False, True, False]
    imputed = run("impute")
    assert imputed[1] == pytest.approx((imputed[0] + imputed[2]) / 2)


def test_a_reference_without_the_prompt_is_refused(align):
    with pytest.raises(UsageError, match=r"reference expects a text with \{prompt\} in it, got 'a picture'"):
        align(reference="a picture")


def test_a_key_is_taken_from_the_environment_and_must_be_there(tiny_bert, monkeypatch):
    options = {"bert_model": str(tiny_bert), "bert_layers": 1, "endpoint": "http://127.0.0.1:9"}
    with pytest.raises(UsageError, match="api_key_env=OUR_KEY, and there is no such variable"):
        Align(api_key_env="OUR_KEY", **options)
    monkeypatch.setenv("OUR_KEY", "secret")
    assert Align(api_key_env="OUR_KEY", **options).answerer.client.headers["authorization"] == "Bearer secret"


def test_every_option_is_one_that_the_factory_takes(tiny_bert):
    given = {option.name: option.default for option in INFO.options if option.default is not None}
    given |= {"bert_model": str(tiny_bert), "bert_layers": 1, "endpoint": "http://127.0.0.1:9"}
    Align(**given).close()
    assert INFO.factory == f"{Align.__module__}:{Align.__name__}"


def test_metadata_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'bert_score', 'httpx2', 'inflect', 'numpy', 'PIL'}"
    code = f"import sys, ddpo_reward_llava_bertscore; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
