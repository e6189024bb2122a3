"""Before the first update: are the numbers what the method takes them to be?

Most runs that never learn fail one of these checks: a ratio that is not 1 under the weights that sampled,
a log-prob that is not finite, nothing to train, black pictures, a reward that says the same of everything.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ddpo_core.denoising import Policy
from ddpo_core.errors import SelfCheckError
from ddpo_core.types import Judged

FULL_PRECISION_TOLERANCE = 1e-6
HALF_PRECISION_TOLERANCE = 1e-5  # a tenth of the paper's clip range
BLACK = 1 / 255


def self_check(
    policy: Policy, judged: Judged, *, batch_size: int, half_precision: bool, trained: set[str], rated: bool
) -> float:
    """Raise `SelfCheckError` for the first thing that is wrong; else the largest |ratio − 1| that was seen.

    `judged` is a round sampled under the present weights, `batch_size` the train batch size, `trained` the
    labels of the rewards that are trained on, and `rated` whether log-probs are used at all. Costs one
    forward pass of one minibatch at every step.
    """
    check_trainable(policy)
    check_pictures(judged)
    check_rewards({label: values for label, values in judged.rewards.items() if label in trained})
    if not rated:
        return 0.0
    check_log_probs(judged, policy.schedule.rated)
    return check_ratios(
        policy, judged, batch_size, HALF_PRECISION_TOLERANCE if half_precision else FULL_PRECISION_TOLERANCE
    )


def check_trainable(policy: Policy) -> None:
    """Some weights require a gradient."""
    if not policy.denoiser.trainable_parameters():
        raise SelfCheckError(
            "self-check: no weights to train; expected a LoRA (--lora-rank 16) or rank 0 for all"
        )


def check_pictures(judged: Judged) -> None:
    """The pictures are finite and not all black."""
    images = judged.trajectory.images
    if not torch.isfinite(images).all():
        raise SelfCheckError(
            "self-check: the sampled pictures hold NaN or infinity", hint="try --mixed-precision bf16 or no"
        )
    if images.max() <= BLACK:
        raise SelfCheckError(
            "self-check: every sampled picture is black",
            hint="half precision overflows in some models: try --mixed-precision bf16 or no",
        )


def check_rewards(rewards: Mapping[str, np.ndarray]) -> None:
    """Every trained reward tells the pictures apart."""
    for label, values in rewards.items():
        if len(values) > 1 and np.nanmax(values) == np.nanmin(values):
            raise SelfCheckError(
                f"self-check: reward {label!r} gave {values[0]:g} to all {len(values)} pictures;"
                " there is nothing to learn",
                hint=f"score some pictures by hand, or watch it without training on it: --watch {label}",
            )


def check_log_probs(judged: Judged, rated: list[int]) -> None:
    """There are rated steps, and their log-probs are finite."""
    if not rated:
        raise SelfCheckError(
            "self-check: σ = 0 at every step; expected a sampler with noise, such as ddim,eta=1"
        )
    finite = torch.isfinite(judged.trajectory.log_probs).all(0)
    if not finite.all():
        raise SelfCheckError(f"self-check: log-probs are not finite at step {int((~finite).nonzero()[0])}")


@torch.no_grad()
def check_ratios(policy: Policy, judged: Judged, batch_size: int, tolerance: float) -> float:
    """|p / p_old − 1| ≤ tolerance at every rated step of one minibatch; the largest is returned."""
    trajectory, device = judged.trajectory, policy.denoiser.device
    rows = slice(0, batch_size)
    conditioning = {name: tensor[rows].to(device) for name, tensor in trajectory.conditioning.items()}
    worst = 0.0
    for t in policy.schedule.rated:
        latents = trajectory.latents[rows, t].to(device)
        step = policy.step(torch.full((len(latents),), t, device=device), latents, conditioning)
        log_prob = step.log_prob(trajectory.latents[rows, t + 1].to(device))
        difference = (log_prob - trajectory.log_probs[rows, t].to(device)).expm1().abs().max().item()
        if not difference <= tolerance:  # NaN fails too
            raise SelfCheckError(
                f"self-check: ratio is off by {difference:.2g} at step {t} of {policy.schedule.num_steps}"
                f" before any update; expected at most {tolerance:g}",
                hint="kernels differ by batch size: make --train-batch-size equal to --sample-batch-size,"
                " or use --mixed-precision no",
            )
        worst = max(worst, difference)
    return worst
