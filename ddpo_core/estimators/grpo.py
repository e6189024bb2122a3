"""GRPO and DPOK: clipped importance sampling held near the model before training by its exact KL divergence.

Both are DDPO_IS plus `kl_weight` · KL(p ‖ p before training), step by step (Flow-GRPO, arXiv 2505.05470
Eq. 4; DPOK, arXiv 2305.16381 Eq. 4). What else is theirs are settings: GRPO standardises the rewards of one
prompt's images among themselves (`--advantages group`); DPOK follows a single reward. Left out: DPOK's
learned value function.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ddpo_core.denoising import Policy
from ddpo_core.estimators.ddpo import ImportanceSampling
from ddpo_core.info import Need
from ddpo_core.losses import gaussian_kl
from ddpo_core.types import Loss, Minibatch


class KLRegularised(ImportanceSampling):
    """DDPO_IS with a KL penalty. `kl_weight` 0 is DDPO_IS itself, and costs no second network evaluation."""

    def __init__(self, *, kl_weight: float = 0.04, **options: Any) -> None:
        super().__init__(**options)
        self.kl_weight = kl_weight
        untrained: frozenset[Need] = frozenset({"untrained"} if kl_weight else ())
        self.needs = ImportanceSampling.needs | untrained

    def loss(self, policy: Policy, minibatch: Minibatch) -> Loss:
        step = policy.step(minibatch.steps, minibatch.latents, minibatch.conditioning)
        loss = self.loss_of(step, minibatch)
        if not self.kl_weight:
            return loss
        with torch.no_grad(), policy.denoiser.untrained():
            before = policy.step(minibatch.steps, minibatch.latents, minibatch.conditioning)
        kl = gaussian_kl(step.mean, before.mean, step.std)
        return replace(
            loss,
            value=loss.value + self.kl_weight * kl.mean(),
            diagnostics={**loss.diagnostics, "kl": kl.detach().mean()},
            by_step={**loss.by_step, "kl": (minibatch.steps, kl.detach())},
        )
