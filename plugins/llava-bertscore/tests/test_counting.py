"""counting: whole words, numbers by value, and the traps of DDPO's substring search."""

from __future__ import annotations

import numpy as np
import pytest
from ddpo_reward_llava_bertscore import ddpo_rewards
from ddpo_reward_llava_bertscore.counting import Count, Counting, count_of, judge, words_of

from ddpo_core import Prompt, RewardError
from ddpo_core.prompt_sets.words import counting as counting_prompts
from ddpo_core.testing import check_reward, example_images

INFO = {info.name: info for info in ddpo_rewards()}["counting"]
WOLVES = Count(2, "wolf", "wolves")


def score(count: Count, number: str, animal: str, match="strict") -> float:
    return judge(count, number, animal, match)[0]


@pytest.mark.parametrize(
    ("number", "animal", "expected"),
    [
        ("two", "wolf", 1.0),
        ("There are two wolves in this image.", "The animal in this image is a wolf.", 1.0),
        ("Two.", "Wolves!", 1.0),
        ("2", "wolf", 1.0),  # DDPO's code: "two" is not in "2"
        ("There are 2.", "These are wolves", 1.0),  # nor "wolf" in "wolves"
        ("three", "wolf", 0.5),
        ("two", "dog", 0.5),
        ("five", "cat", 0.0),
        ("TWO", "WOLF", 1.0),
        ("twenty-two", "wolf", 0.5),
        ("22", "wolf", 0.5),
        ("2.5", "wolf", 0.5),
        ("2nd", "wolf", 0.5),
        ("1, 2 or 3", "a wolf, perhaps", 1.0),
        ("two-legged", "wolf", 0.5),
        ("two", "werewolf", 0.5),
        ("two", "The wolf's head", 1.0),
        ("two", "wolf-like", 0.5),
        ("none", "no animal", 0.0),
    ],
)
def test_two_wolves(number, animal, expected):
    assert score(WOLVES, number, animal) == expected


@pytest.mark.parametrize(
    ("count", "number", "animal"),
    [
        (Count(6, "fish", "fish"), "sixteen", "catfish"),  # "six" is in "sixteen"
        (Count(7, "ant", "ants"), "seventeen", "elephant"),  # "seven" in "seventeen", "ant" in "elephant"
        (Count(8, "cat", "cats"), "eighteen", "cattle"),
        (Count(4, "pig", "pigs"), "forty-four", "pigeons"),
        (Count(1, "dog", "dogs"), "none", "dogfish"),
    ],
)
def test_a_word_inside_another_is_not_that_word(count, number, animal):
    assert score(count, number, animal) == 0.0


@pytest.mark.parametrize(
    ("answer", "strict", "soft"),
    [
        ("four", 1, 1),
        ("3", 0, 0.75),
        ("six", 0, 0.5),
        ("two", 0, 0.5),
        ("8", 0, 0),
        ("20", 0, 0),
        ("many", 0, 0),
    ],
)
def test_a_soft_match_gives_what_is_left_of_one_minus_the_relative_distance(answer, strict, soft):
    count = Count(4, "cat", "cats")
    assert judge(count, answer, "cat", "strict")[1]["number_credit"] == strict
    assert judge(count, answer, "cat", "soft")[1]["number_credit"] == soft


def test_a_soft_match_never_gives_less_than_a_strict_one():
    for answer in ("one", "two", "2 or 3", "seven wolves", "none", "some"):
        assert score(WOLVES, answer, "wolf", "soft") >= score(WOLVES, answer, "wolf", "strict")


def test_an_unanswered_question_is_a_failure_and_never_a_zero():
    assert np.isnan(score(WOLVES, "", "wolf")) and np.isnan(score(WOLVES, "two", ""))
    assert np.isnan(score(WOLVES, "...", "wolf"))


def test_words_are_split_at_everything_but_hyphens_and_apostrophes():
    assert words_of("It's twenty-six, or 2.5?  The wolf's, 3,000.") == [
        "it",
        "twenty-six",
        "or",
        "2.5",
        "the",
        "wolf",
        "3,000",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two wolves", Count(2, "wolf", "wolves")),
        ("six sheep", Count(6, "sheep", "sheep")),
        ("5 Foxes", Count(5, "Fox", "Foxes")),
        ("three polar bears", Count(3, "polar bear", "polar bears")),
        ("one mouse", Count(1, "mouse", "mice")),
        ("twenty-one geese", Count(21, "goose", "geese")),
    ],
)
def test_a_number_and_a_plural_is_a_count(text, expected):
    assert count_of(Prompt(text)) == expected


@pytest.mark.parametrize(
    "text", ["a cat", "wolves", "two", "", "four wolf", "two dogs riding", "some cats", "2.5 cats"]
)
def test_other_prompts_are_refused_by_name(text):
    with pytest.raises(
        RewardError, match="expects prompts of a number and a plural, such as 'two wolves'"
    ) as caught:
        count_of(Prompt(text))
    assert repr(text) in str(caught.value)


def test_every_prompt_of_the_counting_set_says_the_same_by_its_words_and_by_its_metadata():
    prompts = list(counting_prompts())
    assert len(prompts) == 154
    assert [count_of(Prompt(prompt.text)) for prompt in prompts] == [count_of(prompt) for prompt in prompts]


def test_metadata_counts_whatever_the_words_are():
    prompt = Prompt("a pack on the hunt", {"count": 3, "animal": "wolf"})
    assert count_of(prompt) == Count(3, "wolf", "wolves")


def test_the_two_questions_are_those_of_the_paper_and_answers_stay_with_their_pictures():
    reward = Counting(endpoint="http://127.0.0.1:9")
    asked = []

    class Says:
        def __call__(self, images, questions):
            asked.extend(zip(images, questions, strict=True))
            return ["two", "a wolf", "4", "sheep", "", "fox"]

        def close(self):
            pass

    reward.answerer = Says()
    scores = reward(example_images(3, 8), [Prompt("two wolves"), Prompt("three sheep"), Prompt("two foxes")])
    assert scores.values[:2].tolist() == [1.0, 0.5] and np.isnan(scores.values[2])
    assert [question for _, question in asked[:3]] == [
        "How many wolves are there in this image?",
        "What animal is in this image?",
        "How many sheep are there in this image?",
    ]
    assert [image.tobytes() for image, _ in asked[::2]] == [image.tobytes() for image, _ in asked[1::2]]
    assert scores.details[1] == {"caption": "4 · sheep", "number_credit": 0.0, "animal_credit": 1.0}


def test_the_reward_keeps_the_contract_with_questions_of_different_lengths(tiny_llava):
    texts = ("2 cats", "three polar bears", "4 ants", "five wolves", "6 dogs")
    prompts = [Prompt(text) for text in texts]
    for match in ("strict", "soft"):
        reward = Counting(vlm=str(tiny_llava), match=match, max_new_tokens=6, batch_size=3, device="cpu")
        check_reward(reward, INFO, size=24, prompts=prompts)


def test_every_option_is_one_that_the_factory_takes():
    given = {option.name: option.default for option in INFO.options if option.default is not None}
    Counting(**given | {"endpoint": "http://127.0.0.1:9"}).close()
    assert INFO.factory == f"{Counting.__module__}:{Counting.__name__}"
