"""The contract of a reward as tests of their own, for its author.

from ddpo_core.testing import RewardContract

class TestRedness(RewardContract):
    spec = "redness"
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddpo_core.testing import subjects
from ddpo_core.testing.care import TOLERANCE
from ddpo_core.testing.contract import CHECKS, outcome
from ddpo_core.testing.examples import example_images, example_prompts
from ddpo_core.testing.trial import COUNT, Picture, Trial
from ddpo_core.types import Prompt


class RewardContract:
    """Holds one reward to its contract: a test for each check, `test_contract[finite]` and so on.

    Subclass it as `Test…` and set `spec`: an installed reward with options, a plugin file or the folder of a
    distribution. What else is here may be overridden. Only that plugin is loaded.
    """

    spec: ClassVar[str] = ""
    model: ClassVar[str] = ""  # judges that suit this model's pictures, such as "pocket"
    tolerance: ClassVar[float] = TOLERANCE  # relative to the largest score, or 1

    def images(self) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] that the reward can judge."""
        return example_images(COUNT)

    def prompts(self) -> Sequence[Prompt]:
        """Their prompts; fewer are taken in turn. A reward of groups is given the first one for all."""
        return example_prompts()

    def better(self) -> Tensor | None:
        """Pictures [n, 3, H, W] that should score higher than those of `worse`, with `prompts` in turn."""

    def worse(self) -> Tensor | None:
        """Pictures [m, 3, H, W] that should score lower."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each check."""
        if "contract_check" in metafunc.fixturenames:
            metafunc.parametrize("contract_check", [check.key for check in CHECKS])

    def test_contract(self, contract_check: str) -> None:
        import pytest

        trial = self.trial()
        made = outcome(trial, contract_check)
        if made.status == "failed":
            pytest.fail(f"{trial.subject.name}: {made.told}", pytrace=False)
        if made.status == "skipped":
            pytest.skip(made.told)
        if made.status == "advised":
            warnings.warn(f"{trial.subject.name}: {made.told}", stacklevel=1)

    @classmethod
    def trial(cls) -> Trial:
        """The reward and what it answered, one for all tests of the class."""
        if "_trial" not in cls.__dict__:
            assert cls.spec, f"{cls.__name__} expects spec = 'NAME', the reward to hold to its contract"
            cls._trial = cls()._make_trial()
        return cls._trial

    _trial: ClassVar[Trial]

    def _make_trial(self) -> Trial:
        subject = subjects.find(self.spec, self.model)
        prompts = list(self.prompts())
        in_groups = subject.info is not None and subject.info.scope == "group"
        return Trial(
            subject,
            images=self.images(),
            prompts=prompts[:1] if in_groups else prompts,
            better=_pictures(self.better(), prompts),
            worse=_pictures(self.worse(), prompts),
            tolerance=self.tolerance,
        )

    @classmethod
    def teardown_class(cls) -> None:
        """Let go of the reward."""
        if "_trial" in cls.__dict__:
            cls._trial.close()
            del cls._trial


def _pictures(images: Tensor | None, prompts: Sequence[Prompt]) -> list[Picture]:
    images = torch.empty(0) if images is None else images
    return [Picture(image, prompts[place % len(prompts)]) for place, image in enumerate(images)]
