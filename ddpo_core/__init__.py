"""ddpo: reinforcement learning for diffusion models.

The light public names live here: what a plugin says of itself, what a reward receives and returns, and
the errors. Importing this package never imports torch.

    for epoch in ddpo_core.train({"mine": function, "jpeg": 0.5}, model="pocket"): …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddpo_core.errors import (
    BatchError,
    BrokenPlugin,
    CheckpointError,
    DdpoError,
    EnvironmentFault,
    RewardError,
    RunError,
    SelfCheckError,
    SpecError,
    UnknownName,
    UsageError,
)
from ddpo_core.hookspecs import hookimpl
from ddpo_core.info import (
    EstimatorInfo,
    ModelInfo,
    Option,
    PromptSetInfo,
    RewardInfo,
    SamplerInfo,
    Weights,
)
from ddpo_core.types import Prompt, Scores

if TYPE_CHECKING:
    from ddpo_core.api import score, train
    from ddpo_core.config.given import reward

__version__ = "0.1.0"

# imported when they are asked for: a plugin that says what it is should not wait for them
_LATER = {
    "train": "ddpo_core.api",
    "score": "ddpo_core.api",
    "reward": "ddpo_core.config.given",
}

__all__ = [
    "__version__",
    # training from Python
    "train",
    "score",
    "reward",
    # what a plugin says of itself
    "hookimpl",
    "Option",
    "RewardInfo",
    "SamplerInfo",
    "EstimatorInfo",
    "ModelInfo",
    "PromptSetInfo",
    "Weights",
    # what a reward receives and returns
    "Prompt",
    "Scores",
    # what can go wrong
    "DdpoError",
    "UsageError",
    "SpecError",
    "UnknownName",
    "BatchError",
    "EnvironmentFault",
    "BrokenPlugin",
    "RunError",
    "RewardError",
    "SelfCheckError",
    "CheckpointError",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'ddpo_core' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
