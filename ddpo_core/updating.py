"""loss → update: gradients of minibatches added up over all processes, and one optimiser step along them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ddpo_core.denoising import Policy
from ddpo_core.diagnostics import StepMeans
from ddpo_core.errors import EnvironmentFault, RunError
from ddpo_core.types import Loss, Part

T = TypeVar("T")
P = TypeVar("P", bound=Part)


class Updater:
    """The optimiser, and the gradient it is about to follow."""

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        *,
        learning_rate: float,
        warmup_updates: int,
        max_grad_norm: float,
    ) -> None:
        self.accelerator = accelerator
        self.optimizer = optimizer
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.warmup_updates = warmup_updates
        self.max_grad_norm = max_grad_norm
        self.updates = 0  # optimiser steps that are done

    def accumulate(
        self, policy: Policy, minibatches: Iterable[P], loss_of: Callable[[Policy, P], Loss]
    ) -> dict[str, float]:
        """Add up the minibatches' weighted gradients; means of loss and diagnostics over all processes."""
        totals: defaultdict[str, Tensor | float] = defaultdict(float)
        by_step = StepMeans(policy.schedule)
        for minibatch, is_last in mark_last(minibatches):
            with nullcontext() if is_last else self.accelerator.no_sync(policy.denoiser.network):
                loss = loss_of(policy, minibatch)
                self.accelerator.backward(loss.value * minibatch.weight)
            for name, value in {"loss": loss.value.detach(), **loss.diagnostics}.items():
                totals[name] = totals[name] + value * minibatch.weight
            by_step.add(loss)
        means = {name: self.mean_over_processes(total) for name, total in totals.items()}
        return {**means, **by_step.means(lambda sums: self.accelerator.reduce(sums, reduction="sum"))}

    def step(self, totals: Mapping[str, float]) -> dict[str, float]:
        """One optimiser step along the gradient that was added up; `totals` are its metrics.

        Raises `RunError` when loss or gradient is not finite (under fp16 the scaler skips such a step).
        """
        self.set_learning_rate()
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        metrics = {**totals, "grad_norm": float(grad_norm)}
        if self.accelerator.mixed_precision != "fp16" and not all(map(math.isfinite, metrics.values())):
            raise RunError(
                f"loss or gradient is not finite ({metrics}); the weights are as they were before",
                hint="try a lower --learning-rate",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return metrics

    def set_learning_rate(self) -> None:
        """The rate of the coming update. Adam's first steps are the longest, and they follow one batch."""
        share = min(1.0, (self.updates + 1) / max(1, self.warmup_updates))
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.learning_rate

    def take_gradient(self) -> Tensor:
        """The gradient of all trained weights, flat [P]; they have none afterwards."""
        flat = torch.cat(
            [
                (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten().float()
                for parameter in self.parameters
            ]
        )
        self.optimizer.zero_grad(set_to_none=True)
        return flat

    def put_gradient(self, flat: Tensor) -> None:
        """Give the trained weights a gradient [P]."""
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, torch.split(flat, sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def mean_over_processes(self, value: Tensor | float) -> float:
        tensor = torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, reduction="mean"))


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


def mark_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last one."""
    iterator = iter(items)
    try:
        item = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield item, False
        item = following
    yield item, True
