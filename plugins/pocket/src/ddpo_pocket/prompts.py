"""The pocket world's prompt lists, as prompt sets."""

from __future__ import annotations

from ddpo_core import Prompt
from ddpo_pocket import world


def activities(*, split: world.Split = "seen") -> list[Prompt]:
    """Animals at the three activities of the DDPO paper."""
    return [Prompt(text) for text in world.animals_activities(split)]


def pairs(*, split: world.Split = "seen") -> list[Prompt]:
    """Two different animals."""
    return [Prompt(text) for text in world.pairs(split)]


def people() -> list[Prompt]:
    """People of the training pictures."""
    return [Prompt(text) for text in world.people()]


def counts() -> list[Prompt]:
    """The counts that training pictures show."""
    return [Prompt(text) for text in world.counts()]
