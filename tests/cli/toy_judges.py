"""A plugin in a loose file: judges that say something, judge groups, cannot be had, or fail."""

import numpy as np

from ddpo_core.errors import EnvironmentFault
from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import Option, PromptSetInfo, RewardInfo
from ddpo_core.types import Prompt, Scores

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    yield RewardInfo(
        name="describes", summary="a caption and a box", factory="toy_judges:Describes", unit="grey"
    )
    yield RewardInfo(
        name="spread",
        summary="how much the pictures of one prompt differ",
        factory="toy_judges:Spread",
        scope="group",
        group_size=4,
    )
    yield RewardInfo(name="absent", summary="has no weights", factory="toy_judges:absent")
    yield RewardInfo(
        name="picky",
        summary="scores every second picture, or none",
        factory="toy_judges:Picky",
        options=(Option(name="crash", type="bool", default=False),),
    )


@hookimpl
def ddpo_prompt_sets():
    split = Option(name="split", type="str", default="seen", choices=("seen", "held_out", "all"))
    yield PromptSetInfo(name="letters", summary="a to j", factory="toy_judges:letters", options=(split,))


def letters(split="seen"):
    return [Prompt(letter) for letter in {"seen": "abcdefg", "held_out": "hij", "all": "abcdefghij"}[split]]


class Describes:
    """The mean of the left half; a caption with markup in it, and a box in the middle."""

    def __call__(self, images, prompts):
        values = images[..., : images.shape[3] // 2].mean((1, 2, 3)).double().numpy()
        details = [
            {
                "caption": f"<b>{prompt.text}</b>",
                "boxes": [{"label": prompt.text, "score": 0.5, "box": [0.25, 0.25, 0.75, 0.75]}],
                "odd": np.float32(value),
            }
            for prompt, value in zip(prompts, values, strict=True)
        ]
        return Scores(values, details=details)


class Spread:
    """Levels are the spread over the group; values share it out; a statistic is told besides."""

    def __call__(self, images, prompts):
        assert len({prompt.text for prompt in prompts}) == 1
        means = images.mean((1, 2, 3)).double().numpy()
        spread = float(means.std())
        return Scores(
            np.abs(means - means.mean()),
            levels=np.full(len(means), spread),
            details=[{"statistics": {"size": len(means)}}] * len(means),
        )


class Picky:
    def __init__(self, crash=False):
        self.crash = crash

    def __call__(self, images, prompts):
        if self.crash:
            raise RuntimeError("the judge has left the room")
        values = images.mean((1, 2, 3)).double().numpy()
        values[::2] = np.nan
        return values


def absent():
    raise EnvironmentFault("the weights of absent are not here", hint="fetch them")
