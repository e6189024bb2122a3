"""Counting (DDPO's code, `llava_vqa`): does a vision-language model find that many of that animal?

    "two wolves"  →  "How many wolves are there in this image?"   →  two, or 2            half of the score
                     "What animal is in this image?"              →  wolf, or wolves      the other half

DDPO's code looks for the expected answer anywhere inside the model's, so that six is found in "sixteen" and 2
is not two. Here whole words are compared, numbers by value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ddpo_core import Prompt, RewardError, Scores
from ddpo_core.judges import to_pil
from ddpo_reward_llava_bertscore.answerers import make_answerer

if TYPE_CHECKING:
    from torch import Tensor

Match = Literal["strict", "soft"]

NAMED_NUMBERS = 100  # zero … ninety-nine have words
# A word with its hyphens and apostrophes; a number with its decimal point.
_WORD = re.compile(r"\w+(?:[-'’]\w+|(?<=\d)[.,]\d+)*")


@dataclass(frozen=True)
class Count:
    """What a prompt asks for: "two wolves"."""

    number: int
    singular: str
    plural: str

    @property
    def questions(self) -> tuple[str, str]:
        """DDPO's two questions: the number, and the kind."""
        return f"How many {self.plural} are there in this image?", "What animal is in this image?"


class Counting:
    """The mean of two credits: for the number and for the animal."""

    def __init__(self, *, match: Match = "strict", **answering: Any) -> None:
        """`answering` are the options of `make_answerer`, which says what they raise."""
        self.match = match
        self.answerer = make_answerer("counting", **answering)

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        """Scores in [0, 1] of images [B, 3, H, W] in [0, 1]; NaN where the model left a question unanswered.

        Raises `RewardError` for a prompt that is no count.
        """
        wanted = [count_of(prompt) for prompt in prompts]
        questions = [question for count in wanted for question in count.questions]
        pictures = [picture for picture in to_pil(images) for _ in range(2)]
        answers = self.answerer(pictures, questions)
        judged = [
            judge(count, number, animal, self.match)
            for count, number, animal in zip(wanted, answers[::2], answers[1::2], strict=True)
        ]
        return Scores(np.array([score for score, _ in judged]), [detail for _, detail in judged])

    def close(self) -> None:
        """Let go of the model."""
        self.answerer.close()


# ---- what is asked for -------------------------------------------------------------------------------


def count_of(prompt: Prompt) -> Count:
    """The count a prompt asks for, by its metadata or its words. Raises `RewardError` where there is none."""
    number, animal = prompt.metadata.get("count"), prompt.metadata.get("animal")
    if isinstance(number, int) and isinstance(animal, str):
        plural = prompt.metadata.get("plural")
        return Count(number, animal, plural if isinstance(plural, str) else _grammar().plural_noun(animal))
    return _count_in(prompt.text)


@cache
def _count_in(text: str) -> Count:
    """ "six polar bears" is 6, "polar bear", "polar bears"; a plural is needed except after one."""
    first, _, noun = text.strip().partition(" ")
    number = number_in(first.lower())
    if number == 1 and noun and not _grammar().singular_noun(noun):
        return Count(number, noun, _grammar().plural_noun(noun))
    singular = number is not None and noun and _grammar().singular_noun(noun)
    if number is None or not singular:
        raise RewardError(
            f"reward 'counting' expects prompts of a number and a plural, such as 'two wolves', got {text!r}",
            hint="--prompts counting, or prompts with the metadata count and animal",
        )
    return Count(number, singular, noun)


# ---- what was answered -------------------------------------------------------------------------------


def judge(count: Count, number: str, animal: str, match: Match) -> tuple[float, dict[str, object]]:
    """The score of two answers, and the record to show; NaN where one of them is empty."""
    caption = f"{number} · {animal}"
    words = words_of(number), words_of(animal)
    if not all(words):
        return np.nan, {"caption": caption, "failure": "the model left a question unanswered"}
    number_credit = credit_for_number(count.number, words[0], match)
    animal_credit = float(is_named(count, words[1]))
    detail = {"caption": caption, "number_credit": number_credit, "animal_credit": animal_credit}
    return (number_credit + animal_credit) / 2, detail


def credit_for_number(wanted: int, words: Sequence[str], match: Match) -> float:
    """1 where the number is among the words. Soft: max(0, 1 − |n − N| / N) of the nearest number n."""
    numbers = [number for word in words if (number := number_in(word)) is not None]
    if wanted in numbers:
        return 1.0
    if match == "strict" or not numbers or wanted == 0:
        return 0.0
    return max(0.0, 1.0 - min(abs(number - wanted) for number in numbers) / wanted)


def is_named(count: Count, words: Sequence[str]) -> bool:
    """Whether the animal stands among the words, singular or plural; its name may be several words."""
    names = [words_of(count.singular), words_of(count.plural)]
    return any(
        list(words[start : start + len(name)]) == name for name in names for start in range(len(words))
    )


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation; "twenty-six" is one, and "the wolf's" has a wolf in it."""
    return [re.sub(r"['’]s$", "", word) for word in _WORD.findall(text.lower())]


def number_in(word: str) -> int | None:
    """The value of a number, in digits or as a word up to ninety-nine; None for any other word."""
    if re.fullmatch(r"[0-9]{1,9}", word):
        return int(word)
    return _number_words().get(word)


@cache
def _number_words() -> dict[str, int]:
    return {_grammar().number_to_words(number): number for number in range(NAMED_NUMBERS)}


@cache
def _grammar() -> Any:
    import inflect  # here, because its import takes a second

    return inflect.engine()
