"""One reward on trial: how it is built, the pictures it is shown, and what it answered.

What several checks look at is asked for once. Every call gets copies of pictures and prompts, so that a
reward that edits them spoils nothing but its own check.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpo_core.errors import DdpoError
from ddpo_core.info import OptionValue, RewardInfo
from ddpo_core.protocols import Reward
from ddpo_core.rewards import as_scores
from ddpo_core.testing.care import TOLERANCE, moved_since, random_states
from ddpo_core.testing.examples import example_images, example_prompts
from ddpo_core.types import Prompt, Scores

COUNT = 5  # example pictures
OF_ONE_KIND = (
    "if it judges pictures or prompts of one kind only, bring some (--images, --prompts; in tests images(),"
    " prompts())"
)


class Broken(AssertionError):
    """The reward breaks its contract: expected, got, and what to do."""


class NotMade(Exception):
    """A check that says nothing of this reward, and why."""


class Advice(Exception):
    """Nothing that breaks, and something to mend."""


class Picture(NamedTuple):
    """A picture [3, H, W] in [0, 1] and the prompt it is judged with."""

    pixels: Tensor
    prompt: Prompt


@dataclass(frozen=True)
class Subject:
    """What is on trial: a reward that is there, or a way to build one; and what it says of itself."""

    name: str  # as in messages: "reward 'redness'"
    info: RewardInfo | None = None
    reward: Reward | None = None
    build: Callable[[dict[str, OptionValue]], Reward] | None = None  # given options in place of its own
    listed: str = ""  # the module or file that lists it, for a fresh interpreter


@dataclass
class Answer:
    """What one call returned, and what it did besides."""

    output: Any
    count: int
    edited: list[str]  # "images", "prompts"
    touched: list[str]  # libraries whose global random state it moved
    seconds: float
    scores: Scores = field(init=False)

    def read(self) -> Answer:
        """Itself, once its scores are checked: one real number per image. Raises `Broken`."""
        self.scores = one_score_per_image(self.output, self.count)
        return self


class Trial:
    """A subject, its pictures, and the calls that were made so far.

    `better` and `worse` are pictures of which the author knows which should score higher.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        images: Tensor | None = None,
        prompts: Sequence[Prompt] | None = None,
        size: int = 64,
        better: Sequence[Picture] = (),
        worse: Sequence[Picture] = (),
        tolerance: float = TOLERANCE,
    ) -> None:
        self.subject = subject
        self.better, self.worse = better, worse
        self.tolerance = tolerance
        self.seen: list[tuple[str, np.ndarray]] = []  # all scores, and of which pictures
        self.outcomes: dict[str, Any] = {}  # by the key of each check that was made, see `contract`
        self.build_seconds = 0.0
        count = len(images) if images is not None else len(prompts) if prompts else COUNT
        self.images = images if images is not None else example_images(count, size)
        given = list(prompts or (example_prompts()[:1] if self.scope == "group" else example_prompts()))
        self.prompts = [given[place % len(given)] for place in range(count)]

    @property
    def info(self) -> RewardInfo:
        """What it says of itself. Raises `NotMade` where it says nothing."""
        if self.subject.info is None:
            raise NotMade("there is no RewardInfo to hold it to")
        return self.subject.info

    @property
    def scope(self) -> str:
        return self.subject.info.scope if self.subject.info else "sample"

    # ---- building

    @cached_property
    def reward(self) -> Reward:
        """The reward: the one that was given, or built once with the options of its spec."""
        if self.subject.reward is not None:
            return self.subject.reward
        start = time.perf_counter()
        reward = self.build()
        self.build_seconds = time.perf_counter() - start
        return reward

    @cached_property
    def second(self) -> Reward:
        """The same, built again."""
        return self.build()

    def build(self, **options: OptionValue) -> Reward:
        """A new one, with these options in place of its own. Raises `NotMade` where none can be built."""
        if self.subject.build is None:
            raise NotMade("it was given ready-made")
        return self.subject.build(options)

    def close(self) -> None:
        """Let go of what was built here. A reward that was given stays as it is."""
        built = [self.__dict__.pop(name, None) for name in ("reward", "second")]
        for reward in built:
            if reward is not None and reward is not self.subject.reward:
                with contextlib.suppress(Exception):  # the check `close` tells of it
                    getattr(reward, "close", lambda: None)()

    # ---- judging

    def ask(
        self, images: Tensor, prompts: Sequence[Prompt], what: str, reward: Reward | None = None
    ) -> Answer:
        """One call on copies. Raises `Broken` for a crash; a `DdpoError` comes through."""
        reward = reward or self.reward
        given_images, given_prompts = images.clone(), copied(prompts)
        before, start = random_states(), time.perf_counter()
        try:
            output = reward(given_images, given_prompts)
        except DdpoError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).strip()}"
            raise Broken(f"expected scores for {what}, got {said}") from error
        seconds = time.perf_counter() - start
        edited = [] if torch.equal(given_images, images) else ["images"]
        edited += [] if told(given_prompts) == told(prompts) else ["prompts"]
        return Answer(output, len(prompts), edited, moved_since(before), seconds)

    def judge(self, images: Tensor, prompts: Sequence[Prompt], what: str) -> Scores:
        """Scores [B], one finite number for each image. Raises `Broken` for anything else."""
        scores = self.ask(images, prompts, what).read().scores
        broken = np.flatnonzero(~np.isfinite(scores.values))
        if len(broken):
            first = int(broken[0])
            raise Broken(f"expected finite scores, got {scores.values[first]} for image {first} of {what}")
        self.seen.append((what, scores.values))
        return scores

    @cached_property
    def first(self) -> Answer:
        """The answer to the example pictures. Raises `Broken` where it cannot be read."""
        try:
            return self.ask(self.images, self.prompts, "the example pictures").read()
        except DdpoError as error:
            raise Broken(
                f"expected scores for the example pictures, got {type(error).__name__}: {error};"
                f" {OF_ONE_KIND}"
            ) from error

    @cached_property
    def scores(self) -> np.ndarray:
        """The scores of the example pictures, float64 [B]."""
        values = self.first.scores.values
        self.seen.append(("the example pictures", values))
        return values

    @property
    def margin(self) -> float:
        """Scores nearer than this are the same."""
        return self.margin_of(self.scores)

    def margin_of(self, scores: np.ndarray) -> float:
        return self.tolerance * max(1.0, float(np.abs(scores).max()))


def one_score_per_image(output: Any, count: int) -> Scores:
    """The scores [count] of an output. Raises `Broken` for another shape, or what is no real number."""
    values = output.values if isinstance(output, Scores) else output
    kind = numbers_of(values)
    if kind not in "fiub":
        got = "complex numbers" if kind == "c" else _type_of(values)
        raise Broken(f"expected {count} real numbers, got {got}: return a tensor or a list of floats")
    scores = as_scores(output)
    shape = scores.values.shape
    if shape != (count,):
        raise Broken(f"expected one score per image, shape ({count},), got {shape}{_why(shape, count)}")
    if len(scores.details) not in (0, count):
        raise Broken(f"expected {count} records of details or none, got {len(scores.details)}")
    if scores.levels is not None and scores.levels.shape != (count,):
        raise Broken(f"expected {count} levels, one per image, or none; got shape {scores.levels.shape}")
    return scores


def _why(shape: tuple[int, ...], count: int) -> str:
    """What most likely led to a wrong shape."""
    if count == 1:
        return (
            ": squeeze(1), not squeeze(), which takes the only image's dimension too" if shape == () else ""
        )
    if shape == (count, count):
        return ": each image was judged against every prompt"
    return ": squeeze its last dimension" if shape == (count, 1) else ""


def numbers_of(values: Any) -> str:
    """numpy's letter for the kind of number: f, i, u, b, c, or O for what is none."""
    if isinstance(values, Tensor):
        if values.is_complex():
            return "c"
        return "f" if values.is_floating_point() else "b" if values.dtype == torch.bool else "i"
    try:
        return np.asarray(values).dtype.kind
    except (TypeError, ValueError, RuntimeError):  # unequal lengths, tensors that numpy cannot take
        return "O"


def _type_of(values: Any) -> str:
    """What was returned, in a few words; of a list, its first item that is no number."""
    if isinstance(values, list | tuple) and values:
        odd = next((item for item in values if not _is_number(item)), values[0])
        return f"a {type(values).__name__} with {odd!r}"
    return "None" if values is None else type(values).__name__


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


def copied(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with metadata of their own."""
    return [Prompt(prompt.text, copy.deepcopy(dict(prompt.metadata))) for prompt in prompts]


def told(prompts: Sequence[Prompt]) -> list[tuple[str, dict[str, object]]]:
    """All that the prompts say."""
    return [(prompt.text, dict(prompt.metadata)) for prompt in prompts]
