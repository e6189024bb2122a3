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


def denoising_loss(noise_pred: Tensor, target: Tensor) -> Tensor:
    """‖noise_pred − target‖² [b], the mean over latent elements (arXiv 2006.11239 Eq. 14)."""
    return (noise_pred - target).square().flatten(1).mean(1)


def softmax_weights(rewards: Tensor, inverse_temperature: float) -> Tensor:
    """RWR's weights of n samples, exp(β r) / Z with the mean one (arXiv 2305.13301 §4.2) [n].

    β = 0 weighs all the same: plain denoising. What β means depends on the unit of `rewards`.
    """
    return len(rewards) * torch.softmax(inverse_temperature * rewards, dim=0)


def top_weights(rewards: Tensor, percentile: float) -> Tensor:
    """RWR-sparse's weights of n samples, 1[r ≥ C] / Z with the mean one (arXiv 2305.13301 §4.2) [n].

    C lies above this part of the samples: 0.9 keeps the best tenth, and what equals its worst; 0 keeps all.
    """
    best = (rewards >= torch.quantile(rewards, percentile)).to(rewards.dtype)
    return best / best.mean()


def approx_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """½ (log p − log p_old)² [b]: a low-variance stand-in for KL(p_old ‖ p) near ratio 1."""
    return 0.5 * (log_prob - old_log_prob).square()


def clip_fraction(log_prob: Tensor, old_log_prob: Tensor, clip_range: float) -> Tensor:
    """1 where the ratio lies outside 1 ± clip_range, else 0 [b]."""
    return ((torch.exp(log_prob - old_log_prob) - 1).abs() > clip_range).float()


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Kish's (Σw)² / (b·Σw²) of b weights, a part of b between 1/b and 1: 1 where all weigh the same."""
    weights = torch.softmax(log_weights.float(), dim=0)
    return 1 / (weights.square().sum() * len(weights))


def gaussian_kl(mean: Tensor, other_mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(other_mean, std²)) = (mean − other_mean)² / (2 std²) [b].

    The mean over latent elements, as log-probs are: nats per element. Two policies of one sampler have the
    same standard deviation, so this is exact (arXiv 2305.16381 Lemma 4.1; arXiv 2505.05470 §4.1).
    """
    return ((mean - other_mean) / std).square().flatten(1).mean(1) / 2


def clip_range_from_nats(nats: float, latent_elements: int) -> float:
    """The clip range in mean-reduced units that lets the summed log-prob of a step move by `nats`.

    The paper's 1e-4 is 1.64 nats at Stable Diffusion's 4 × 64 × 64 latent elements.
    """
    return nats / latent_elements


def optimality(advantage: Tensor, clip: float) -> Tensor:
    """r = ½ + ½ · clip(A / Z, −1, 1) [b]: how probable it is that a sample is a good one, Z = `clip`.

    arXiv 2509.16117 §3.3, Algorithm 1 line 5.
    """
    return 0.5 + 0.5 * (advantage / clip).clamp(-1, 1)


def self_normalised_error(prediction: Tensor, clean: Tensor) -> Tensor:
    """‖x̂0 − x0‖² / sg(mean |x̂0 − x0|) [b], the mean over latent elements (arXiv 2509.16117 §3.3).

    It takes the place of a weight for each timestep; sg stops the gradient.
    """
    error = (prediction - clean).flatten(1)
    scale = error.detach().abs().mean(1).clamp(min=1e-5)
    return error.square().mean(1) / scale


def negative_aware_loss(
    positive_error: Tensor, negative_error: Tensor, optimality: Tensor, strength: float
) -> Tensor:
    """DiffusionNFT: (r · E⁺ + (1 − r) · E⁻) / β [b] (arXiv 2509.16117 Eq. 5).

    E± are the errors of v± = (1 ∓ β)·v_old ± β·v. Divided by β = `strength`, as in the authors' code: so the
    first step is as long for every β.
    """
    return (optimality * positive_error + (1 - optimality) * negative_error) / strength


def matching_log_prob(error: Tensor) -> Tensor:
    """log π(x0) ≈ −‖v − target‖² [b]: the denoising loss as a likelihood (arXiv 2509.25050 §4, w(t) = 1)."""
    return -error


def huber_matching_log_prob(error: Tensor, noise: Tensor, power: float = 0.25) -> Tensor:
    """−t · (L + δ)^p / p [b] for L = ‖v − target‖², t = `noise` at the timestep, δ = 1e-10.

    The weighting of AWM's published code ("ghuber"): what the network errs in more counts less, and what
    stands in more noise counts more.
    """
    flattened: Tensor = (error + 1e-10).pow(power) - 1e-10**power
    return -noise * flattened / power
