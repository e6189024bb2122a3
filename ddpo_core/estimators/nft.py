"""DiffusionNFT: a denoising loss that learns from good and bad samples alike (arXiv 2509.16117).

Finished latents are noised again, v is what a perfect network would answer, v_old what this one did under
the weights that sampled. A sample that is good with probability r pulls an implicit positive policy to
itself, and with probability 1 − r an implicit negative one (Eq. 5):

    r · ‖v⁺ − v‖² + (1 − r) · ‖v⁻ − v‖²,    v± = (1 ∓ β) · v_old ± β · v_θ

The errors are taken in x̂0, self-normalised (§3.3), where velocity and ε come to the same thing. No step is
rated, so any sampler serves, and no trajectory is kept. Left out: a sampling policy that lags behind (the
paper's soft update), which would need a second set of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ddpo_core.denoising import Policy
from ddpo_core.estimators.forward import ForwardProcess, Noised
from ddpo_core.losses import negative_aware_loss, optimality, self_normalised_error
from ddpo_core.types import Judged, Loss


class NegativeAware:
    """DiffusionNFT.

    beta            β: the smaller, the further the optimum lies from v_old (v_old + 2/β · Δ, Eq. 6)
    advantage_clip  Z: an advantage of this much makes a sample good with certainty
    forward         the fields of `ForwardProcess`
    """

    def __init__(self, *, beta: float = 1.0, advantage_clip: float = 5.0, **forward: Any) -> None:
        self.beta = beta
        self.advantage_clip = advantage_clip
        self.forward = ForwardProcess(**forward)
        self.needs = self.forward.needs

    def updates(
        self, policy: Policy, judged: Judged, *, num_updates: int, batch_size: int
    ) -> Iterator[Iterator[Noised]]:
        """`num_updates` optimiser steps for each pass over the round; v_old is asked for before the first."""
        return self.forward.updates(
            policy, judged, self.forward.predict, num_updates=num_updates, batch_size=batch_size
        )

    def loss(self, policy: Policy, minibatch: Noised) -> Loss:
        noise_pred, old = self.forward.predict(policy, minibatch), minibatch.old
        good = optimality(minibatch.advantage, self.advantage_clip)
        positive = self.error(policy, minibatch, (1 - self.beta) * old + self.beta * noise_pred)
        negative = self.error(policy, minibatch, (1 + self.beta) * old - self.beta * noise_pred)
        value = negative_aware_loss(positive, negative, good, self.beta).mean()
        moved = (noise_pred.detach() - old).square().flatten(1).mean(1)
        diagnostics = {
            "positive_error": positive.detach().mean(),
            "negative_error": negative.detach().mean(),
            "moved": moved.mean(),
        }
        return self.forward.loss(policy, minibatch, noise_pred, value, diagnostics, moved=moved)

    def error(self, policy: Policy, minibatch: Noised, noise_pred: Tensor) -> Tensor:
        """How far x̂0 is from x0 where the network answers this, self-normalised [b]."""
        process = policy.denoiser.process
        prediction = process.clean(minibatch.latents, noise_pred, minibatch.timesteps)
        return self_normalised_error(prediction, minibatch.clean)
