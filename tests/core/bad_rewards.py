"""Rewards that keep the contract but for one clause each, and what the check of that clause says of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ddpo_core.discovery import Entry, Registry
from ddpo_core.errors import UsageError
from ddpo_core.info import Option, RewardInfo, Weights
from ddpo_core.plugins import Plugin
from ddpo_core.spec import Spec
from ddpo_core.testing.contract import Outcome, outcomes
from ddpo_core.testing.examples import example_images, example_prompts
from ddpo_core.testing.subjects import subject_of
from ddpo_core.testing.trial import Picture, Trial
from ddpo_core.types import Scores


def brightness(images, prompts):
    return images.mean(dim=(1, 2, 3))


COMPLETE = {"higher_is": "brighter", "fooled_by": "white pictures", "licence": "MIT"}


def declare(factory: Callable[..., Any] | str, **claims: Any) -> RewardInfo:
    return RewardInfo(**{"name": "bad", "summary": "bad", "factory": factory, **COMPLETE, **claims})


def tried(factory: Callable[..., Any] | str, listed: str = "", **more: Any) -> dict[str, Outcome]:
    """The outcomes of all checks of a reward, by key; `more` are pictures for the trial, or claims."""
    pictures = {key: more.pop(key) for key in ("better", "worse", "prompts") if key in more}
    plugin = Plugin(
        distribution="bad-rewards",
        version="1",
        entry_point="bad",
        module=listed,
        infos={"reward": (declare(factory, **more),)},
    )
    registry = Registry([plugin])
    (entry,) = registry.entries("reward")
    assert isinstance(entry, Entry)
    trial = Trial(subject_of(registry, entry, Spec("bad")), size=16, **pictures)
    return {made.check.key: made for made in outcomes(trial)}


@dataclass(frozen=True)
class Bad:
    """A factory, what it claims, and the beginning of what the check says of it."""

    check: str
    factory: Callable[..., Any] | str
    told: str
    claims: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.check}: {self.told[:40]}"


def of(reward: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """A factory of a reward that needs none."""
    return lambda: reward


# ---- built -------------------------------------------------------------------------------------------


def with_gamma(gamma=1.0):
    if gamma == 0:
        return 1 / gamma
    return brightness


def without_keywords():
    return brightness


def refuses_all():
    raise UsageError("no bad rewards here", hint="try a good one")


def crashes():
    raise RuntimeError("out of luck")


def gamma(**facts: Any) -> dict[str, Any]:
    return {"options": (Option(**{"name": "gamma", "type": "float", **facts}),)}


BUILT = [
    Bad("record", of(brightness), "expected a summary", {"summary": " "}),
    Bad("record", of(brightness), "expected a resolution above 0, got 0", {"resolution": 0}),
    Bad("record", of(brightness), "expected scope to be one of sample, group, batch", {"scope": "picture"}),
    Bad("record", of(brightness), "expected group_size to be 2 or more", {"scope": "group"}),
    Bad(
        "record",
        of(brightness),
        "expected the licence of each of its weights",
        {"weights": (Weights(name="a/b", megabytes=1, licence=""),)},
    ),
    Bad("record", of(brightness), "expected range=(lowest, highest), got (1.0, 0.0)", {"range": (1.0, 0.0)}),
    Bad("options", with_gamma, "expected the option 'gamma' to be of type bool, int,", gamma(type="number")),
    Bad("options", with_gamma, "expected the default of the option 'gamma' to fit", gamma(default="much")),
    Bad(
        "options",
        with_gamma,
        "expected the default of the option 'gamma' to fit",
        gamma(default=1, minimum=2),
    ),
    Bad("options", with_gamma, "expected the option 'gamma' to have minimum ≤", gamma(minimum=2, maximum=1)),
    Bad("options", with_gamma, "expected one default for 'gamma', got 2.0 in its Option", gamma(default=2.0)),
    Bad("options", without_keywords, "expected the factory to take each declared option", gamma()),
    Bad("builds", refuses_all, "expected to be built, got UsageError: no bad rewards here (try a good one)"),
    Bad("builds", crashes, "expected to be built, got RuntimeError: out of luck"),
    Bad(
        "builds", "nowhere:Bad", "expected to be built, got BrokenPlugin: reward 'bad' of bad-rewards cannot"
    ),
    Bad("builds", lambda: "a text", "expected the factory to return something to call with"),
    Bad(
        "bounds",
        with_gamma,
        "expected to be built with gamma=0.0, its minimum, got ZeroDivisionError",
        gamma(default=1.0, minimum=0.0),
    ),
]


# ---- the answer --------------------------------------------------------------------------------------


def crashing(images, prompts):
    raise KeyError("cat")


def mean_colour(images, prompts):
    return images.mean()


def nan_for_the_second(images, prompts):
    return torch.where(
        images[:, 0, 0, 0] == example_images(5, 16)[1, 0, 0, 0], torch.nan, brightness(images, prompts)
    )


class Counter:
    """Scores that rise from call to call."""

    calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        return [float(self.calls)] * len(images)


def modify_images(images, prompts):
    scores = brightness(images, prompts)
    images.clamp_(0.2, 0.8)
    return scores


def modify_prompts(images, prompts):
    prompts[0].metadata["seen"] = True
    return brightness(images, prompts)


def draw_from(source):
    def reward(images, prompts):
        source()
        return brightness(images, prompts)

    return of(reward)


class WithParameters:
    """A network whose weights want a gradient, as they do when they are loaded."""

    def __init__(self):
        self.weight = torch.ones((), requires_grad=True)

    def __call__(self, images, prompts):
        return self.weight * brightness(images, prompts)


ANSWERED = [
    Bad("one-score", of(crashing), "expected scores for the example pictures, got KeyError: 'cat'"),
    Bad("one-score", of(mean_colour), "expected one score per image, shape (5,), got ()"),
    Bad(
        "one-score",
        of(lambda images, prompts: brightness(images, prompts)[:, None]),
        "expected one score per image, shape (5,), got (5, 1): squeeze its last dimension",
    ),
    Bad(
        "one-score",
        of(lambda images, prompts: torch.ones(len(images), len(images))),
        "expected one score per image, shape (5,), got (5, 5): each image was judged against every prompt",
    ),
    Bad(
        "one-score",
        of(lambda images, prompts: Scores(np.ones(len(images)), details=[{}])),
        "expected 5 records of details or none, got 1",
    ),
    Bad(
        "one-score",
        of(lambda images, prompts: Scores(np.ones(len(images)), levels=np.ones(1))),
        "expected 5 levels, one per image, or none; got shape (1,)",
    ),
    Bad("one-score", of(lambda images, prompts: None), "expected 5 real numbers, got None"),
    Bad(
        "one-score",
        of(lambda images, prompts: ["0.5"] * len(images)),
        "expected 5 real numbers, got a list with",
    ),
    Bad(
        "one-score",
        of(lambda images, prompts: [None] * len(images)),
        "expected 5 real numbers, got a list with",
    ),
    Bad(
        "one-score",
        of(lambda images, prompts: [[1.0]] + [[1.0, 2.0]] * 4),
        "expected 5 real numbers, got a list",
    ),
    Bad(
        "one-score",
        of(lambda images, prompts: torch.fft.fft(brightness(images, prompts))),
        "expected 5 real numbers, got complex numbers",
    ),
    Bad(
        "finite",
        of(nan_for_the_second),
        "expected finite scores, got nan for image 1 of the example pictures",
    ),
    Bad(
        "digits",
        of(lambda images, prompts: (100 * brightness(images, prompts)).int()),
        "expected scores as fine as its resolution, 0.01, got whole numbers in steps of 1: was it truncated?",
        {"resolution": 0.01},
    ),
    Bad(
        "digits",
        of(lambda images, prompts: (20 + brightness(images, prompts)).bfloat16()),
        "expected scores as fine as its resolution, 0.01, got bfloat16 in steps of 0.1",
        {"resolution": 0.01},
    ),
    Bad(
        "digits",
        of(lambda images, prompts: [2**53 + 1] * len(images)),
        "expected scores that float64 holds exactly, got whole numbers of 2⁵³ and more",
    ),
    Bad("deterministic", Counter, "expected the same scores for the same pictures: image 0 got 2 after 1"),
    Bad(
        "inputs",
        of(modify_images),
        "expected to leave its images as they are; it changed them: work on a copy",
    ),
    Bad(
        "inputs",
        of(modify_prompts),
        "expected to leave its prompts as they are; it changed them: work on a copy",
    ),
    Bad(
        "randomness",
        draw_from(random.random),
        "expected to leave the global random state alone; it moved that of python's",
    ),
    Bad(
        "randomness",
        draw_from(np.random.rand),
        "expected to leave the global random state alone; it moved that of numpy",
    ),
    Bad(
        "randomness",
        draw_from(lambda: torch.rand(1)),
        "expected to leave the global random state alone; it moved that of t",
    ),
    Bad(
        "randomness",
        draw_from(lambda: torch.manual_seed(0)),
        "expected to leave the global random state alone",
    ),
    Bad("graph", WithParameters, "expected scores without a graph, got a tensor that requires a gradient"),
]


# ---- the batch and other pictures --------------------------------------------------------------------


def standardised(images, prompts):
    scores = brightness(images, prompts)
    return scores - scores.mean()


def listens_to_the_prompt_before(images, prompts):
    return [len(prompts[place - 1].text) for place in range(len(prompts))]


def a_level_each(images, prompts):
    scores = brightness(images, prompts).numpy()
    return Scores(scores - scores.mean(), levels=scores)


def level_of_the_first(images, prompts):
    scores = brightness(images, prompts).numpy()
    return Scores(scores - scores.mean(), levels=np.full(len(scores), scores[0]))


def squares_only(images, prompts):
    return (images - images.transpose(2, 3)).abs().mean((1, 2, 3))


def one_size_only(images, prompts):
    weights = torch.ones(3 * 16 * 16) / 768
    return images.flatten(1) @ weights


def contrast(images, prompts):
    deviation = images.std((1, 2, 3))
    return images.mean((1, 2, 3)) / deviation


def crashes_on_black(images, prompts):
    if any(not image.any() for image in images):
        raise ZeroDivisionError("nothing to see")
    return brightness(images, prompts)


def dark(images, prompts):
    return -brightness(images, prompts)


def pictures(grey: float) -> list[Picture]:
    return [Picture(torch.full((3, 8, 8), grey), prompt) for prompt in example_prompts()[:2]]


KNOWN = {"better": pictures(0.9), "worse": pictures(0.2)}

BATCHES = [
    Bad(
        "order",
        of(lambda images, prompts: torch.arange(len(images))),
        "expected each image's score not to depend on its place in the batch: image 0 got 4 after 0",
    ),
    Bad(
        "neighbours",
        of(standardised),
        'expected each image\'s score not to depend on the others; declare scope="group" or "batch"',
    ),
    Bad(
        "alone",
        of(lambda images, prompts: brightness(images, prompts) / len(images)),
        'expected an image\'s score alone as in a batch; declare scope="group" or "batch" if',
    ),
    Bad(
        "alone",
        of(lambda images, prompts: brightness(images, prompts).squeeze()),
        "expected one score per image, shape (1,), got (): squeeze(1), not squeeze()",
    ),
    Bad("levels", of(a_level_each), "expected one level for a set, got", {"scope": "batch"}),
    Bad(
        "levels",
        of(level_of_the_first),
        "expected the same level for the same set in another order: image 0 got",
        {"scope": "group", "group_size": 4},
    ),
    Bad(
        "sizes",
        of(squares_only),
        "expected scores for pictures of 24 × 16 pixels, got RuntimeError: The size",
    ),
    Bad(
        "flat", of(contrast), "expected finite scores for black, white and grey pictures, got [nan, inf, inf]"
    ),
    Bad(
        "flat",
        of(crashes_on_black),
        "expected scores for black, white and grey pictures, got ZeroDivisionError",
    ),
    Bad(
        "range",
        of(brightness),
        "expected scores in the declared range 0 … 0.1, got 0.",
        {"range": (0.0, 0.1)},
    ),
    Bad(
        "range",
        of(
            lambda images, prompts: torch.where(
                brightness(images, prompts) > 0.99, 7, brightness(images, prompts)
            )
        ),
        "expected scores in the declared range 0 … 1, got 7 for one of black, white and grey pictures",
        {"range": (0.0, 1.0)},
    ),
    Bad(
        "direction",
        of(dark),
        "expected better pictures to score higher, got means of -0.9 for the better and -0.2 for the worse",
        KNOWN,
    ),
]


# ---- gradient, building again, closing ---------------------------------------------------------------


class Scored:
    """Brightness, with what a differentiable reward has beside its call."""

    def __init__(self, score):
        self.score = score

    def __call__(self, images, prompts):
        return brightness(images, prompts)


class DrawnHead:
    """A head whose weights nobody loaded."""

    def __init__(self):
        self.weight = float(np.random.default_rng().random())

    def __call__(self, images, prompts):
        return self.weight * brightness(images, prompts)


class ClosesOnce(Scored):
    def __init__(self):
        self.model = nn.Linear(2, 2)

    def close(self):
        del self.model


class KeepsItsModel(Scored):
    def __init__(self):
        self.parts = {"head": [nn.Linear(2, 2)]}

    def close(self):
        pass


def scored(score: Callable[..., Any]) -> Callable[[], Scored]:
    return lambda: Scored(score)


DIFFERENTIABLE = {"differentiable": True}

KEPT = [
    Bad("gradient", of(brightness), "expected a method score(images, prompts) -> [B]", DIFFERENTIABLE),
    Bad(
        "gradient",
        scored(lambda images, prompts: brightness(images.detach(), prompts)),
        "expected score() to pass a gradient to the images, got none",
        DIFFERENTIABLE,
    ),
    Bad(
        "gradient",
        scored(lambda images, prompts: images.mean()),
        "expected score() to return one number per image, shape (5,), got ()",
        DIFFERENTIABLE,
    ),
    Bad(
        "gradient",
        scored(lambda images, prompts: images[:1].mean().expand(len(images))),
        "expected a gradient of score() to every image, got none to image 1",
        DIFFERENTIABLE,
    ),
    Bad(
        "gradient",
        scored(lambda images, prompts: brightness(images - images, prompts).sqrt()),
        "expected a finite gradient of score(), got NaN or infinity",
        DIFFERENTIABLE,
    ),
    Bad("rebuilt", DrawnHead, "expected the same scores when built again; load its weights"),
    Bad("close", ClosesOnce, "expected close() to return when called a second time, got AttributeError"),
    Bad("close", KeepsItsModel, "expected close() to let go of its models, got a Linear that it still holds"),
]

BAD = [*BUILT, *ANSWERED, *BATCHES, *KEPT]
