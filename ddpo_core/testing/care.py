"""What every plugin is held to: sums to rounding, and the global random state left alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

TOLERANCE = 1e-4  # relative: what float32 networks lose when a batch is summed in another order

_RANDOM_STATES: dict[str, Callable[[], object]] = {
    "python's random": lambda: random.getstate(),
    "numpy.random": lambda: tuple(map(str, np.random.get_state(legacy=False).items())),
    "torch": lambda: torch.get_rng_state().tolist(),
}


def random_states() -> dict[str, object]:
    """The global random state of each library that has one."""
    return {source: state() for source, state in _RANDOM_STATES.items()}


def moved_since(before: Mapping[str, object]) -> list[str]:
    """The libraries whose global random state is not what it was."""
    return [source for source, state in random_states().items() if state != before[source]]


@contextmanager
def random_state_kept(name: str) -> Iterator[None]:
    before = random_states()
    yield
    for source in moved_since(before):
        raise AssertionError(
            f"{name} drew from or seeded the global random state of {source}; use a generator of its own"
        )
