"""The optimisers a run can choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ddpo_core.errors import EnvironmentFault


def make_optimizer(name: str, parameters: Sequence[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """AdamW ("adamw"), or bitsandbytes' with its two moments in 8 bits ("adamw8bit").

    Raises `EnvironmentFault` where bitsandbytes is missing.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise EnvironmentFault(
            "the optimizer adamw8bit needs the package 'bitsandbytes', which is not installed",
            hint="pip install bitsandbytes",
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **options)
    return optimizer
