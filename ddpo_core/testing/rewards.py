"""The contract of a reward that is there already, as one check for its author's tests."""

from __future__ import annotations

from collections.abc import Sequence

from ddpo_core.info import RewardInfo
from ddpo_core.protocols import Reward
from ddpo_core.testing.care import TOLERANCE
from ddpo_core.testing.contract import CHECKS, outcome
from ddpo_core.testing.trial import Subject, Trial
from ddpo_core.types import Prompt

OF_THE_PLUGIN = ("light", "options", "builds", "bounds")  # what `RewardContract` checks besides


def check_reward(
    reward: Reward,
    info: RewardInfo | None = None,
    *,
    size: int = 64,
    prompts: Sequence[Prompt] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Hold a reward to its contract on pictures of `size` × `size` pixels, one per prompt.

    These are the checks of `contract.CHECKS` that look at how it judges; without `info`, it is taken to judge
    each image by itself. `RewardContract` makes all of them, each as a test of its own.

    `tolerance` is relative to the largest score, or 1. Raises `AssertionError` for the first that fails.
    """
    name = f"reward {info.name!r}" if info else f"the reward {type(reward).__name__}"
    trial = Trial(
        Subject(name=name, info=info, reward=reward), size=size, prompts=prompts, tolerance=tolerance
    )
    for check in CHECKS:
        if check.key not in OF_THE_PLUGIN:
            made = outcome(trial, check.key)
            assert made.status != "failed", f"{name}: {made.told}"
