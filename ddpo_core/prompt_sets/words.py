"""Prompt sets of word lists: the DDPO paper's (arXiv 2305.13301), occupations, what was typed on the spot.

The lists of animals and activities are those of the paper's appendix D.6 and its code. The labels in
`imagenet_animals.txt` are lines 1–398 of ImageNet-1k's synset words (ILSVRC 2012, the WordNet lemmas of
classes 0–397, in class order), as tabulated in the package timm 1.0.31 (`imagenet_synsets.txt` joined with
`imagenet_synset_to_lemma.txt`). They are facts of that data set, wrong spellings included. The occupations in
`occupations.txt` are the 100 of "Large-scale Reinforcement Learning for Diffusion Models" (arXiv 2401.12244,
Table 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from itertools import product
from typing import Any

from ddpo_core.errors import EnvironmentFault, UsageError
from ddpo_core.prompt_sets import INSTALL_INFLECT, PORTRAIT
from ddpo_core.types import Prompt

_ANIMALS = """
    cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox wolf lizard
    beetle ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle frog chicken duck goose bee
    pig turkey fly llama camel bat gorilla hedgehog kangaroo
"""
_COUNTABLE_ANIMALS = """
    cat dog horse monkey rabbit spider bird sheep cow lion tiger bear raccoon fox wolf ant fish squirrel
    turtle frog chicken pig
"""
ANIMALS = tuple(_ANIMALS.split())
COUNTABLE_ANIMALS = tuple(_COUNTABLE_ANIMALS.split())
ACTIVITIES = ("washing the dishes", "riding a bike", "playing chess")
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}


def animals(*, article: bool = False) -> Sequence[Prompt]:
    """45 prompts: 'cat', or 'a cat' with an article."""
    prompts = [Prompt(animal, {"animal": animal, "objects": [animal]}) for animal in ANIMALS]
    return with_articles(prompts) if article else prompts


def animals_activities(*, article: bool = True) -> Sequence[Prompt]:
    """135 prompts: 'a cat washing the dishes', …, 'a kangaroo playing chess'."""
    prompts = [
        Prompt(f"{animal} {activity}", {"animal": animal, "activity": activity, "objects": [animal]})
        for animal, activity in product(ANIMALS, ACTIVITIES)
    ]
    return with_articles(prompts) if article else prompts


def counting() -> Sequence[Prompt]:
    """154 prompts: 'two cats', …, 'eight pigs'. Plurals are those of the package inflect."""
    plural_of = {animal: _grammar().plural_noun(animal) for animal in COUNTABLE_ANIMALS}
    return [
        Prompt(
            f"{number} {plural_of[animal]}",
            {
                "count": count,
                "number": number,
                "animal": animal,
                "plural": plural_of[animal],
                "objects": [animal],
            },
        )
        for animal, (number, count) in product(COUNTABLE_ANIMALS, NUMBERS.items())
    ]


def imagenet_animals(*, article: bool = False) -> Sequence[Prompt]:
    """398 prompts: the whole label lines of ImageNet-1k classes 0–397, as DDPO's code used them."""
    prompts = [
        Prompt(label, {"animal": label.split(",")[0], "class_index": index})
        for index, label in enumerate(_lines("imagenet_animals.txt"))
    ]
    return with_articles(prompts) if article else prompts


def occupations(*, template: str = PORTRAIT) -> Sequence[Prompt]:
    """100 prompts: 'a portrait of an accountant', …; `{}` in the template is the occupation with its article.

    Raises `UsageError` for a template without `{}`.
    """
    if template.count("{}") != 1:
        raise UsageError(
            f"occupations: template must hold {{}} once, for the occupation; got {template!r}",
            hint='--prompts "occupations,template=a photo of {}"',
        )
    return [
        Prompt(template.replace("{}", _grammar().a(occupation)), {"occupation": occupation})
        for occupation in _lines("occupations.txt")
    ]


def inline(*, texts: object, article: bool = False) -> Sequence[Prompt]:
    """The given texts, blank ones skipped. Raises `UsageError` unless they are strings, some not blank."""
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UsageError(
            f"the prompt set 'inline' expects texts to be a list of strings, got {texts!r}",
            hint="""--prompts 'inline,texts=["a cat", "a dog"]'""",
        )
    prompts = [Prompt(text.strip()) for text in texts if text.strip()]
    if not prompts:
        raise UsageError("the prompt set 'inline' expects at least one prompt, got none in texts")
    return with_articles(prompts) if article else prompts


def _lines(file: str) -> list[str]:
    """The lines of a word list that lies beside this module."""
    return resources.files("ddpo_core.prompt_sets").joinpath(file).read_text("utf-8").splitlines()


def with_articles(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts with 'a' or 'an' put before, as the package inflect chooses: 'an ant', 'a unicorn'.

    Raises `EnvironmentFault` where inflect is not installed.
    """
    grammar = _grammar()
    return [Prompt(grammar.a(prompt.text), prompt.metadata) for prompt in prompts]


@cache
def _grammar() -> Any:
    try:
        import inflect  # here, because its import takes a second
    except ImportError as error:
        raise EnvironmentFault(
            "articles and plurals of prompts need the package inflect, which is not installed",
            hint=INSTALL_INFLECT,
        ) from error
    return inflect.engine()
