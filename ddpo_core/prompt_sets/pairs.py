"""Two different objects and a relation between them: 'a cat next to a red cabbage'; a million prompts.

The 532 objects, the five relations and the sizes of the split (450 objects to train on, 82 held out) are
those of "Large-scale Reinforcement Learning for Diffusion Models" (arXiv 2401.12244, Table 8; 'rifle, gun'
is one object). Which objects were held out was not published, so a seed draws them. Prompts are computed
from their index and never built: 450 · 449 · 5 = 1 010 250 of seen objects, 82 · 81 · 5 = 33 210 of others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal

from ddpo_core.errors import UsageError
from ddpo_core.prompt_sets.words import with_articles
from ddpo_core.types import Prompt

Split = Literal["seen", "held_out", "all"]

RELATIONS = ("and", "next to", "near", "on side of", "beside")
HELD_OUT_OBJECTS = 82
# Objects that take no article: plurals and what is not counted.
_BARE = """
    asparagus, bar soap, binoculars, boots, bread, broccoli, candy, cheese, chips, chopsticks, coffee, corn,
    dates, dice, earrings, french fries, garlic, glasses, goggles, green beans, green vegetables, headphones,
    high heels, jeans, juice, lavender, lettuce, liquid soap, luggage, meat balls, nuts, okra, pasta, popcorn,
    rice, sandals, scissors, slippers, sneakers, stairs, sunglasses, sushi, swimwear, tape, tea, toothpaste,
    trousers, wine
"""
BARE = frozenset(" ".join(_BARE.split()).split(", "))
_SPELLED = {"suv": "an suv"}  # said letter by letter


@cache
def objects() -> tuple[str, ...]:
    """The 532 objects in alphabetical order."""
    text = resources.files("ddpo_core.prompt_sets").joinpath("objects.txt").read_text("utf-8")
    return tuple(text.splitlines())


def split_objects(split: Split, seed: int) -> tuple[str, ...]:
    """450 objects, the other 82, or all of them, in alphabetical order."""
    everything = objects()
    if split == "all":
        return everything
    held_out = set(random.Random(seed).sample(everything, HELD_OUT_OBJECTS))
    return tuple(name for name in everything if (name in held_out) == (split == "held_out"))


class ObjectPairs:
    """A `PromptSet` of all ordered pairs of different objects, in each relation."""

    def __init__(self, names: Sequence[str], *, article: bool = True) -> None:
        self._names = names
        self._said = _phrase if article else str

    def __len__(self) -> int:
        return len(self._names) * (len(self._names) - 1) * len(RELATIONS)

    def __getitem__(self, index: int) -> Prompt:
        if not 0 <= index < len(self):
            raise IndexError(f"the object pairs are prompts 0 to {len(self) - 1}, got {index}")
        pair, relation = divmod(index, len(RELATIONS))
        first, second = divmod(pair, len(self._names) - 1)
        second += second >= first  # an object does not stand beside itself
        one, other = self._names[first], self._names[second]
        return Prompt(
            f"{self._said(one)} {RELATIONS[relation]} {self._said(other)}",
            {"objects": [one, other], "relation": RELATIONS[relation]},
        )


def object_pairs(*, split: Split = "seen", seed: int = 0, article: bool = True) -> ObjectPairs:
    """The pairs of seen objects, of held-out ones, or of all; `seed` draws which objects are held out.

    Raises `UsageError` for another split.
    """
    if split not in ("seen", "held_out", "all"):
        raise UsageError(f"object-pairs: split must be seen, held_out or all; got {split!r}")
    return ObjectPairs(split_objects(split, seed), article=article)


@cache  # inflect takes its time
def _phrase(name: str) -> str:
    """The object as a sentence has it: 'a cat', 'an suv', 'scissors'."""
    if name in BARE:
        return name
    return _SPELLED.get(name) or with_articles([Prompt(name)])[0].text
