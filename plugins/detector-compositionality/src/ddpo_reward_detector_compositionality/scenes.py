"""Which objects a prompt asks for: from its metadata, else from its text.

    Prompt("a cat next to two dogs")  →  Scene((Wanted("cat", 1), Wanted("dog", 2)), "near")

What of a text is understood, in this order:

1. "a photo of", "an oil painting of" and the like at the start are dropped.
2. The text is cut at relations: next to, near, beside, on side of (near); left of, right of; above, on top
   of; below, under, underneath, beneath, on the bottom of; and at "and" and commas, which say nothing of
   place. The relation of a scene is the one between its first two objects.
3. Of each part, the article or number is read, then words are taken until a verb in -ing that follows a noun
   ("a cat riding a bike" is a cat), a preposition ("in the park") or "that", "is", ….
4. After a number above one, or "some", the last word is put in the singular.

Adjectives stay: "a red car" is asked for as such. With a vocabulary none of this guessing is done: its names
are looked for in the text, in singular and plural, the longest first, and each one there is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ddpo_core import Prompt, RewardError

REWARD = "detector-compositionality"

NEAR, LEFT, RIGHT, ABOVE, BELOW = "near", "left of", "right of", "above", "below"
_RELATIONS: dict[str, str] = {
    **dict.fromkeys(("next to", "near", "near to", "beside", "on side of", "on the side of"), NEAR),
    **dict.fromkeys(("left of", "to the left of", "on the left of", "on left of"), LEFT),
    **dict.fromkeys(("right of", "to the right of", "on the right of", "on right of"), RIGHT),
    **dict.fromkeys(("above", "on top of", "on the top of"), ABOVE),
    **dict.fromkeys(("below", "under", "underneath", "beneath", "on the bottom of"), BELOW),
}
_NUMBERS: dict[str, int | None] = {
    **dict.fromkeys(("a", "an", "one"), 1),
    **{word: value for value, word in enumerate(("two", "three", "four", "five", "six", "seven"), start=2)},
    **{word: value for value, word in enumerate(("eight", "nine", "ten", "eleven", "twelve"), start=8)},
    **dict.fromkeys(("the", "some", "several", "many"), None),
}
_SEVERAL = ("some", "several", "many")
# fmt: off
_STOPS = frozenset((
    "in", "on", "at", "with", "without", "from", "by", "for", "into", "onto", "inside", "outside", "over",
    "during", "through", "behind", "around", "across", "that", "which", "who", "is", "are", "was", "were",
    "while", "as", "to", "has", "have",
))
# Nouns in -ing: not where a noun phrase ends.
_ING_NOUNS = frozenset((
    "building", "ring", "earring", "swing", "string", "king", "wing", "ceiling", "painting", "drawing",
    "clothing", "wedding", "pudding", "icing", "duckling", "sibling", "dumpling", "railing", "lightning",
    "thing", "spring", "sling",
))
# fmt: on
_MEDIUM = re.compile(
    r"^(?:an?|the)?\s*(?:[\w-]+\s+)?"
    r"(?:photo|photograph|picture|image|painting|drawing|illustration|portrait|render)\s+of\s+"
)
_CUT = re.compile(
    r"\s*,?\s*\b("
    + "|".join(re.escape(phrase) for phrase in sorted([*_RELATIONS, "and"], key=len, reverse=True))
    + r")\b\s*|\s*,\s*"
)


@dataclass(frozen=True)
class Wanted:
    """One object of a prompt, and how many of it; None: the prompt gives no number."""

    name: str
    count: int | None = None


@dataclass(frozen=True)
class Scene:
    """What a prompt asks for. The relation is of the first object to the second; None: not said."""

    objects: tuple[Wanted, ...]
    relation: str | None = None

    @property
    def names(self) -> list[str]:
        return [wanted.name for wanted in self.objects]


def scene_of(prompt: Prompt, vocabulary: Sequence[str] | None = None) -> Scene:
    """The objects of a prompt. Raises `RewardError` where none can be told."""
    if "objects" in prompt.metadata:
        return _from_metadata(prompt)
    scene = _from_vocabulary(prompt.text, tuple(vocabulary)) if vocabulary else parse(prompt.text)
    if not scene.objects:
        raise RewardError(
            f"the reward {REWARD} finds no object in the prompt {prompt.text!r}"
            + (" among the names of vocabulary=" if vocabulary else ""),
            hint='give them as metadata: {"text": …, "objects": ["cat", "dog"]} in a .jsonl file of prompts',
        )
    return scene


@lru_cache(maxsize=4096)
def parse(text: str) -> Scene:
    """The objects of a text by rule; none where nothing is understood."""
    text = _MEDIUM.sub("", text.lower().strip().rstrip(".!"))
    parts = _CUT.split(text)  # part, relation, part, relation, …
    wanted = [_noun_phrase(part) for part in parts[::2]]
    relations = [_RELATIONS.get(phrase or "") for phrase in parts[1::2]]
    relation = relations[0] if len(wanted) > 1 and wanted[0] and wanted[1] else None
    return _scene([one for one in wanted if one], relation)


def with_article(name: str) -> str:
    """ "a cat", "an apple"."""
    article: str = _inflect().a(name)
    return article


def singular(word: str) -> str:
    """ "wolf" of "wolves"; a word that has no other singular stays."""
    return _inflect().singular_noun(word) or word


# ---- by rule -----------------------------------------------------------------------------------------


def _noun_phrase(text: str) -> Wanted | None:
    words = text.split()
    number = words[0] if words else ""
    several = number in _SEVERAL
    if number in _NUMBERS or number.isdigit():
        words = words[1:]
    count = int(number) if number.isdigit() else _NUMBERS.get(number)
    taken: list[str] = []
    for word in words:
        verb = word.endswith("ing") and word not in _ING_NOUNS and taken
        if word in _STOPS or verb:
            break
        taken.append(word)
    if not taken or count == 0:
        return None
    if several or (count or 0) > 1:
        taken[-1] = singular(taken[-1])
    return Wanted(" ".join(taken), count)


def _scene(wanted: Iterable[Wanted], relation: str | None) -> Scene:
    """Objects that are named twice are one, with the numbers added."""
    counts: dict[str, int | None] = {}
    for one in wanted:
        if one.name in counts:
            before = counts[one.name]
            counts[one.name] = None if before is None or one.count is None else before + one.count
        else:
            counts[one.name] = one.count
    return Scene(tuple(Wanted(*item) for item in counts.items()), relation if len(counts) > 1 else None)


# ---- by vocabulary -----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _from_vocabulary(text: str, vocabulary: tuple[str, ...]) -> Scene:
    names = _forms(vocabulary)
    text = text.lower()
    found = list(_pattern(vocabulary).finditer(text))
    wanted = [Wanted(names[match["name"]], _count(match["number"])) for match in found]
    relation = None
    if len(found) > 1:
        between = _CUT.search(text[found[0].end() : found[1].start()])
        relation = _RELATIONS.get(between[1] or "") if between else None
    return _scene(wanted, relation)


@lru_cache(maxsize=16)
def _forms(vocabulary: tuple[str, ...]) -> dict[str, str]:
    """Singular and plural → the vocabulary's own form."""
    plurals = {_inflect().plural(name.lower()): name for name in vocabulary}
    return plurals | {name.lower(): name for name in vocabulary}


@lru_cache(maxsize=16)
def _pattern(vocabulary: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(form) for form in sorted(_forms(vocabulary), key=len, reverse=True))
    numbers = "|".join(sorted(_NUMBERS, key=len, reverse=True))
    return re.compile(rf"\b(?:(?P<number>{numbers}|\d+)\s+(?:[\w-]+\s+)??)?(?P<name>{names})\b")


def _count(number: str | None) -> int | None:
    if number is None:
        return None
    return int(number) if number.isdigit() else _NUMBERS[number]


# ---- by metadata -------------------------------------------------------------------------------------


def _from_metadata(prompt: Prompt) -> Scene:
    """metadata["objects"]: names; "counts": as many numbers or None; "relation": a phrase as in texts."""
    names = _list_of(prompt, "objects", str)
    if not names:
        raise RewardError(f"the reward {REWARD}: the prompt {prompt.text!r} has an empty list of objects")
    counts: Sequence[Any] = _list_of(prompt, "counts", (int, type(None))) or [None] * len(names)
    if len(counts) != len(names):
        raise RewardError(
            f"the reward {REWARD}: the prompt {prompt.text!r} has {len(names)} objects and"
            f" {len(counts)} counts"
        )
    return _scene(map(Wanted, names, counts), _relation_of(prompt))


def _relation_of(prompt: Prompt) -> str | None:
    said = prompt.metadata.get("relation")
    if said is None:
        return parse(prompt.text).relation
    if said != "and" and said not in _RELATIONS:
        raise RewardError(
            f"the reward {REWARD}: the prompt {prompt.text!r} has the relation {said!r}, which is none of"
            f" {', '.join(_RELATIONS)}, and"
        )
    return _RELATIONS.get(str(said))


def _list_of(prompt: Prompt, key: str, kind: Any) -> list[Any]:
    value = prompt.metadata.get(key) or []
    if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
        raise RewardError(
            f"the reward {REWARD}: {key} of the prompt {prompt.text!r} should be a list, is {value!r}"
        )
    return list(value)


@lru_cache(maxsize=1)
def _inflect() -> Any:
    import inflect

    return inflect.engine()
