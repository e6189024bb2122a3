"""The pocket world in words: what its pictures show, how captions say it, which combinations were never
trained.

Needs the standard library only, so that prompt lists can be made without torch. The pictures themselves are
drawn by `train/pocket_train/render.py`, which takes every name below from here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

Split = Literal["all", "seen", "held_out"]

# The 45 animals of the DDPO paper (Black et al. 2023, appendix D), in its order.
# fmt: off
ANIMALS: tuple[str, ...] = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat",
    "lion", "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish",
    "shark", "whale", "dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck",
    "goose", "bee", "pig", "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)
# fmt: on

_IRREGULAR_PLURALS = {
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "wolf": "wolves",
    "fox": "foxes",
    "mouse": "mice",
    "goose": "geese",
    "butterfly": "butterflies",
    "fly": "flies",
}
PLURALS: dict[str, str] = {animal: _IRREGULAR_PLURALS.get(animal, animal + "s") for animal in ANIMALS}

# The three activities of the DDPO paper, in its order.
ACTIVITIES: tuple[str, ...] = ("washing the dishes", "riding a bike", "playing chess")
# Every phrase a caption may use for an activity.
ACTIVITY_PHRASES: dict[str, tuple[str, ...]] = {
    "washing the dishes": ("washing the dishes", "washing dishes"),
    "riding a bike": ("riding a bike",),
    "playing chess": ("playing chess",),
}

# fmt: off
PROFESSIONS: tuple[str, ...] = (
    "doctor", "teacher", "judge", "farmer", "cook", "mechanic", "factory worker", "office worker",
    "scientist", "programmer", "singer", "artist", "pilot", "astronaut", "firefighter", "police officer",
    "guard", "builder", "detective", "student",
)
PEOPLE: tuple[str, ...] = (
    *PROFESSIONS,
    "man", "woman", "boy", "girl", "baby", "person", "grandmother", "grandfather", "princess", "prince",
)
# fmt: on

# Skin tones of the drawings, and each one's share in training: unbalanced on purpose, never in a caption.
TONES: tuple[str, ...] = ("light", "medium-light", "medium", "medium-dark", "dark")
TONE_SHARES: tuple[float, ...] = (0.70, 0.15, 0.08, 0.04, 0.03)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 60, 55),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (90, 185, 90),
    "blue": (80, 140, 230),
    "purple": (150, 100, 210),
    "pink": (250, 170, 200),
    "brown": (150, 105, 70),
    "gray": (150, 150, 150),
    "white": (250, 250, 250),
    "black": (30, 30, 35),
}

NUMBERS: tuple[str, ...] = ("two", "three", "four", "five", "six", "seven", "eight")
DRAWN_NUMBERS: tuple[str, ...] = ("two", "three")  # the others are words only: no training picture shows them
RELATIONS: tuple[str, ...] = ("and", "next to", "left of", "right of")

# fmt: off
_OTHER_WORDS = (
    "a", "an", "the", "one", "of", "on", "in", "with", "and", "background", "photo", "picture", "portrait",
    "grey", "people", "animals", "bicycle",
)
# fmt: on


@dataclass(frozen=True)
class HeldOut:
    """Combinations that no training picture shows. Their parts all do appear, each in other company."""

    activities: frozenset[tuple[str, str]]  # (animal, activity)
    pairs: frozenset[tuple[str, str]]  # two animals, in the order of ANIMALS


def _held_out() -> HeldOut:
    # 7 shares no factor with the 3 activities, so every activity loses some animals.
    activities = [pair for place, pair in enumerate(product(ANIMALS, ACTIVITIES)) if place % 7 == 3]
    pairs = [pair for place, pair in enumerate(combinations(ANIMALS, 2)) if place % 11 == 5]
    return HeldOut(frozenset(activities), frozenset(pairs))


HELD_OUT = _held_out()


def is_held_out_activity(animal: str, activity: str) -> bool:
    """Whether training never showed `animal` doing `activity` (an entry of ACTIVITIES)."""
    return (animal, activity) in HELD_OUT.activities


def is_held_out_pair(first: str, second: str) -> bool:
    """Whether training never showed these two animals together, in either order."""
    return (first, second) in HELD_OUT.pairs or (second, first) in HELD_OUT.pairs


def with_article(noun: str) -> str:
    """`"a cat"`, `"an ant"`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def animals() -> list[str]:
    """The 45 bare nouns, as the paper's compressibility and aesthetic experiments prompt."""
    return list(ANIMALS)


def animals_activities(split: Split = "all") -> list[str]:
    """`"a cat washing the dishes"`, ...: 45 × 3 prompts, or the trained or the held-out ones of them."""
    return [
        f"{with_article(animal)} {activity}"
        for animal, activity in product(ANIMALS, ACTIVITIES)
        if _in_split(is_held_out_activity(animal, activity), split)
    ]


def people() -> list[str]:
    """`"a doctor"`, ...: 30 prompts that leave the skin tone open."""
    return [with_article(person) for person in PEOPLE]


def pairs(split: Split = "all") -> list[str]:
    """`"a cat and a dog"`, ...: 990 prompts, or the trained or the held-out ones of them."""
    return [
        f"{with_article(first)} and {with_article(second)}"
        for first, second in combinations(ANIMALS, 2)
        if _in_split(is_held_out_pair(first, second), split)
    ]


def counts() -> list[str]:
    """`"two cats"`, `"three cats"`, ...: the counts that training pictures show."""
    return [f"{number} {PLURALS[animal]}" for animal, number in product(ANIMALS, DRAWN_NUMBERS)]


def words() -> list[str]:
    """Every word that is one token, sorted. All other words are spelt in letters."""
    phrases = (*ANIMALS, *PLURALS.values(), *PEOPLE, *COLOURS, *NUMBERS, *RELATIONS, *_OTHER_WORDS)
    activities = [phrase for phrases_of_one in ACTIVITY_PHRASES.values() for phrase in phrases_of_one]
    return sorted({word for phrase in (*phrases, *activities) for word in re.findall(r"[a-z]+", phrase)})


def _in_split(held_out: bool, split: Split) -> bool:
    if split not in ("all", "seen", "held_out"):
        raise ValueError(f"split must be 'all', 'seen' or 'held_out', got {split!r}")
    return split == "all" or held_out == (split == "held_out")
