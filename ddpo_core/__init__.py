"""ddpo: reinforcement learning for diffusion models.

The light public names live here: what a plugin says of itself, what a reward receives and returns, and
the errors. Importing this package never imports torch.
"""

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

__version__ = "0.1.0"

__all__ = [
    "__version__",
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
