"""A plugin in a loose file: a judge that fails when it is told to."""

import time

import torch

from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import Option, RewardInfo

DDPO_PLUGIN_API = (1, 0)


@hookimpl
def ddpo_rewards():
    yield RewardInfo(
        name="moody",
        summary="brightness, on good days",
        factory="toy_moods:Moody",
        options=(
            Option(name="raises_at", type="json", default=[], help="calls that raise, from 1"),
            Option(name="sleeps_at", type="json", default=[], help="calls that take 1.5 s"),
            Option(name="silent_on", type="str", default="", help="a prompt's first letter without a score"),
        ),
    )


class Moody:
    def __init__(self, raises_at=(), sleeps_at=(), silent_on=""):
        self.raises_at, self.sleeps_at, self.silent_on = raises_at, sleeps_at, silent_on
        self.calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls in self.raises_at:
            raise ConnectionError("the judge is away")
        if self.calls in self.sleeps_at:
            time.sleep(1.5)
        silent = [
            bool(self.silent_on) and prompt.text.startswith(tuple(self.silent_on)) for prompt in prompts
        ]
        return torch.where(torch.tensor(silent), torch.nan, images.mean((1, 2, 3)))
