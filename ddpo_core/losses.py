"""advantages → loss: the formulas, as pure functions on tensors.

A is the advantage, p the probability of a denoising step now, p_old when it was sampled; log-probs are means
over latent elements (see `denoising.gaussian_log_prob`). Every loss is to be minimised and has one value
for each of b steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def score_function_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """DDPO_SF, that is REINFORCE (arXiv 2305.13301 §4.3): −A · log p [b].

    Its gradient is the policy gradient only under the weights that sampled: one update per round.
    """
    return -advantage * log_prob


def importance_sampling_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_range: float
) -> Tensor:
    """DDPO_IS with PPO's trust region (arXiv 2305.13301 §4.3; arXiv 2401.12244 Eq. 7) [b].

    −min(A · r, A · clip(r, 1 − ε, 1 + ε)),    r = exp(log p − log p_old)
    """
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(advantage * ratio, advantage * clipped)


def approx_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """½ (log p − log p_old)² [b]: a low-variance stand-in for KL(p_old ‖ p) near ratio 1."""
    return 0.5 * (log_prob - old_log_prob).square()


def clip_fraction(log_prob: Tensor, old_log_prob: Tensor, clip_range: float) -> Tensor:
    """1 where the ratio lies outside 1 ± clip_range, else 0 [b]."""
    return ((torch.exp(log_prob - old_log_prob) - 1).abs() > clip_range).float()


def clip_range_from_nats(nats: float, latent_elements: int) -> float:
    """The clip range in mean-reduced units that lets the summed log-prob of a step move by `nats`.

    The paper's 1e-4 is 1.64 nats at Stable Diffusion's 4 × 64 × 64 latent elements.
    """
    return nats / latent_elements
