"""Advantage Weighted Matching: policy gradient with the denoising loss as log-likelihood (arXiv 2509.25050).

Finished latents are noised again, and −‖v_θ − v‖² stands for log π(x0): the loss of pretraining, weighted by
the advantage. Ratio and clip are PPO's, with the same noise and timestep now and under the weights that
sampled (§4, Algorithm 1). No step is rated, so any sampler serves, and no trajectory is kept. Left out: the
penalty towards a moving average of the weights that the authors' code has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.estimators.forward import ForwardProcess, Noised
from ddpo_core.losses import (
    approx_kl,
    clip_fraction,
    denoising_loss,
    effective_sample_size,
    huber_matching_log_prob,
    importance_sampling_loss,
    matching_log_prob,
)
from ddpo_core.types import Judged, Loss

Weighting = Literal["uniform", "ghuber"]


class AdvantageWeightedMatching:
    """AWM.

    clip_range      PPO's ε on the ratio of exp(−denoising loss), the loss a mean over latent elements
    advantage_clip  advantages are clamped to ± this before the loss
    weighting       "uniform": every timestep's loss as it is (the paper); "ghuber": noisier ones weigh
                    more and large errors less (the authors' code)
    forward         the fields of `ForwardProcess`
    """

    def __init__(
        self,
        *,
        clip_range: float = 1.0,
        advantage_clip: float = 5.0,
        weighting: Weighting = "uniform",
        **forward: Any,
    ) -> None:
        if weighting not in ("uniform", "ghuber"):
            raise UsageError(f"weighting: expected uniform or ghuber, got {weighting!r}")
        self.clip_range = clip_range
        self.advantage_clip = advantage_clip
        self.weighting = weighting
        self.forward = ForwardProcess(**forward)
        self.needs = self.forward.needs

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Noised]]:
        """`num_updates` optimiser steps for each pass; the old log-probs are asked for before the first."""
        return self.forward.updates(
            policy,
            judged,
            lambda policy, minibatch: self.log_prob(
                policy, minibatch, self.forward.predict(policy, minibatch)
            ),
            num_updates=num_updates,
            batch_size=batch_size,
        )

    def log_prob(self, policy: Policy, minibatch: Noised, noise_pred: Tensor) -> Tensor:
        """What stands for log π(x0) [b]."""
        error = denoising_loss(noise_pred, minibatch.target)
        if self.weighting == "uniform":
            return matching_log_prob(error)
        _, noise = policy.denoiser.process.scales(minibatch.timesteps)
        return huber_matching_log_prob(error, noise)

    def loss(self, policy: Policy, minibatch: Noised) -> Loss:
        noise_pred = self.forward.predict(policy, minibatch)
        log_prob, old_log_prob = self.log_prob(policy, minibatch, noise_pred), minibatch.old
        advantage = minibatch.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        value = importance_sampling_loss(log_prob, old_log_prob, advantage, self.clip_range).mean()
        log_prob = log_prob.detach()
        clipped = clip_fraction(log_prob, old_log_prob, self.clip_range)
        diagnostics = {
            "denoising_error": denoising_loss(noise_pred.detach(), minibatch.target).mean(),
            "approx_kl": approx_kl(log_prob, old_log_prob).mean(),
            "clip_fraction": clipped.mean(),
            "effective_sample_size": effective_sample_size(log_prob - old_log_prob),
        }
        return self.forward.loss(policy, minibatch, noise_pred, value, diagnostics, clip_fraction=clipped)
