"""What is understood of a prompt, sentence by sentence."""

from __future__ import annotations

import pytest
from ddpo_reward_detector_compositionality.scenes import (
    Scene,
    Wanted,
    parse,
    scene_of,
    singular,
    with_article,
)

from ddpo_core import Prompt, RewardError

CAT, DOG = Wanted("cat", 1), Wanted("dog", 1)


@pytest.mark.parametrize(
    ("text", "objects", "relation"),
    [
        # Pinterest's five relations
        ("a cat and a dog", (CAT, DOG), None),
        ("a cat next to a dog", (CAT, DOG), "near"),
        ("a cat near a dog", (CAT, DOG), "near"),
        ("a cat on side of a dog", (CAT, DOG), "near"),
        ("a cat beside a dog", (CAT, DOG), "near"),
        ("alarm clock on side of traffic light", (Wanted("alarm clock"), Wanted("traffic light")), "near"),
        # the others of T2I-CompBench and of pocket
        ("a cat left of a dog", (CAT, DOG), "left of"),
        ("a cat on the left of a dog", (CAT, DOG), "left of"),
        ("a cat to the right of a dog", (CAT, DOG), "right of"),
        ("a cat on top of a dog", (CAT, DOG), "above"),
        ("a cat above a dog", (CAT, DOG), "above"),
        ("a cat on the bottom of a dog", (CAT, DOG), "below"),
        ("a cat under a dog", (CAT, DOG), "below"),
        # numbers
        ("two cats", (Wanted("cat", 2),), None),
        ("four wolves in the park", (Wanted("wolf", 4),), None),
        ("three mice and 2 geese", (Wanted("mouse", 3), Wanted("goose", 2)), None),
        ("two sheep", (Wanted("sheep", 2),), None),
        ("some foxes", (Wanted("fox"),), None),
        ("a cat and a cat", (Wanted("cat", 2),), None),
        # verbs, places and media
        ("a cat riding a bike", (CAT,), None),
        ("an ant washing the dishes", (Wanted("ant", 1),), None),
        ("a dog on the moon", (DOG,), None),
        ("A photo of a cat, a dog and an owl.", (CAT, DOG, Wanted("owl", 1)), None),
        ("an oil painting of a cat", (CAT,), None),
        (
            "the washing machine next to a frying pan",
            (Wanted("washing machine"), Wanted("frying pan", 1)),
            "near",
        ),
        ("a tall building", (Wanted("tall building", 1),), None),
        ("a green colored rabbit", (Wanted("green colored rabbit", 1),), None),
        ("cat", (Wanted("cat"),), None),
        ("", (), None),
        ("in the park", (), None),
    ],
)
def test_a_text_is_read_by_rule(text, objects, relation):
    assert parse(text) == Scene(objects, relation)


@pytest.mark.parametrize(
    ("text", "objects", "relation"),
    [
        ("a cat riding a bike", (CAT, Wanted("bike", 1)), None),
        ("two big dogs left of the cat", (Wanted("dog", 2), Wanted("cat")), "left of"),
        ("a hot dog beside a dog", (Wanted("hot dog", 1), DOG), "near"),
        ("cats and wolves", (Wanted("cat"), Wanted("wolf")), None),
        ("a caterpillar and a dog", (DOG,), None),
    ],
)
def test_with_a_vocabulary_its_names_are_looked_for(text, objects, relation):
    vocabulary = ["dog", "cat", "hot dog", "bike", "wolf"]
    assert scene_of(Prompt(text), vocabulary) == Scene(objects, relation)


def test_metadata_goes_before_the_text():
    prompt = Prompt("whatever", {"objects": ["cat", "dog"], "counts": [2, None], "relation": "left of"})
    assert scene_of(prompt, ["owl"]) == Scene((Wanted("cat", 2), Wanted("dog")), "left of")
    assert scene_of(Prompt("a cat next to a dog", {"objects": ["cat", "dog"]})).relation == "near"
    assert scene_of(Prompt("x", {"objects": ["cat", "dog"], "relation": "and"})).relation is None


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt("in the park"), "no object in the prompt 'in the park'"),
        (Prompt("x", {"objects": []}), "empty list"),
        (Prompt("x", {"objects": "cat"}), "should be a list"),
        (Prompt("x", {"objects": ["cat", 3]}), "should be a list"),
        (Prompt("x", {"objects": ["cat"], "counts": [1, 2]}), "1 objects and 2 counts"),
        (Prompt("x", {"objects": ["cat", "dog"], "relation": "inside"}), "'inside', which is none of"),
    ],
)
def test_a_prompt_without_objects_is_an_error_that_names_it(prompt, words):
    with pytest.raises(RewardError, match=words):
        scene_of(prompt)


def test_the_way_out_is_told():
    with pytest.raises(RewardError) as caught:
        scene_of(Prompt("a bird"), ["cat"])
    assert "among the names of vocabulary=" in str(caught.value)
    assert "metadata" in caught.value.hint


def test_articles_and_singulars():
    assert (with_article("apple"), with_article("unicorn"), with_article("cat")) == (
        "an apple",
        "a unicorn",
        "a cat",
    )
    assert [singular(word) for word in ("wolves", "sheep", "foxes", "buses", "mice")] == [
        "wolf", "sheep", "fox", "bus", "mouse",
    ]  # fmt: skip
