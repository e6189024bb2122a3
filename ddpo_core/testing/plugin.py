"""Fixtures for the tests of a plugin. Opt in, in conftest.py:

pytest_plugins = ["ddpo_core.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from torch import Tensor

from ddpo_core.protocols import Reward
from ddpo_core.testing import examples, subjects
from ddpo_core.testing.trial import COUNT
from ddpo_core.types import Prompt


@pytest.fixture
def example_images() -> Tensor:
    """Five pictures [5, 3, 64, 64] in [0, 1], no two alike."""
    return examples.example_images(COUNT)


@pytest.fixture
def example_prompts() -> list[Prompt]:
    """Five prompts, no two alike."""
    return examples.example_prompts()


@pytest.fixture
def build_reward() -> Iterator[Callable[..., Reward]]:
    """`build_reward("redness,gamma=2", model="pocket")`: built as a run builds it, closed after the test."""
    built: list[Reward] = []

    def build(spec: str, model: str = "") -> Reward:
        subject = subjects.find(spec, model)
        assert subject.build is not None
        built.append(subject.build({}))
        return built[-1]

    yield build
    for reward in built:
        getattr(reward, "close", lambda: None)()


@pytest.fixture
def reward(request: pytest.FixtureRequest, build_reward: Callable[..., Reward]) -> Reward:
    """The reward of the `RewardContract` that the test stands in."""
    spec = getattr(request.cls, "spec", "")
    if not spec:
        pytest.fail(
            "the fixture `reward` builds the `spec` of the RewardContract around it; elsewhere: build_reward",
            pytrace=False,
        )
    return build_reward(spec, getattr(request.cls, "model", ""))
