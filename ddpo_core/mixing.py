"""scores → advantages, where there are several rewards: one direction from many.

    gdpo     standardise each reward, weight, add, standardise again (GDPO, arXiv 2601.05242): the default.
             All have the same spread over the round before they are weighted, so equal weights are equal
             shares of the sum's variance; 1 beside 2 is a fifth of it (w² / Σw², if nothing correlates)
    sum      weight and add the scores as they are; the largest unit wins, and the shares say so
    pcgrad   a gradient for each reward; what contradicts another reward is taken out of it before they are
             added (PCGrad, Yu et al. 2020, arXiv 2001.06782). Costs one backward pass for each reward

Rewards that take turns, each with its own prompts and updates, are tasks: see `training.Task`. Weights that
follow from a bound on a reward's mean are in `constraints`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SMALLEST_SPREAD = 0.25
Standardise = Callable[[str, np.ndarray], np.ndarray]  # (label, scores [N]) → advantages [N], NaN → 0


@dataclass(frozen=True)
class Mixed:
    """What the updates of a round follow."""

    directions: Mapping[str, np.ndarray]  # name → advantages [N]; a gradient is taken of each
    shares: Mapping[str, float]  # label → share of the sum's variance; they sum to 1


class Mixer(Protocol):
    """Several rewards as one update."""

    def mix(
        self, scores: Mapping[str, np.ndarray], weights: Mapping[str, float], standardise: Standardise
    ) -> Mixed:
        """Directions from raw scores [N] by label (NaN where one failed) and the weights in force."""

    def gradient(self, gradients: Tensor, generator: np.random.Generator) -> Tensor:
        """One gradient [P] from those of the directions [K, P]; K = 1 gives it back."""


class GDPO:
    """Each reward standardised by itself, weighted, added, and standardised once more."""

    def mix(
        self, scores: Mapping[str, np.ndarray], weights: Mapping[str, float], standardise: Standardise
    ) -> Mixed:
        """One reward alone is only turned by its weight's sign: there is nothing to balance it against."""
        if len(weights) == 1:
            ((label, weight),) = weights.items()
            return Mixed({"all": np.sign(weight) * standardise(label, scores[label])}, {label: 1.0})
        parts = {
            label: weight * equal_spread(standardise(label, scores[label]))
            for label, weight in weights.items()
        }
        total = np.sum(list(parts.values()), axis=0)
        spread = total.std()
        whitened = (total - total.mean()) / spread if spread > 0 else np.zeros_like(total)
        return Mixed({"all": whitened}, shares_of(parts))

    def gradient(self, gradients: Tensor, generator: np.random.Generator) -> Tensor:
        return gradients[0]


class WeightedSum:
    """The weighted sum of the scores in their own units, standardised as if it were one reward."""

    def mix(
        self, scores: Mapping[str, np.ndarray], weights: Mapping[str, float], standardise: Standardise
    ) -> Mixed:
        """A sample that one reward could not judge has no sum, and no advantage."""
        parts = {label: weight * scores[label] for label, weight in weights.items()}
        total = np.sum(list(parts.values()), axis=0)
        judged = np.isfinite(total)
        shares = shares_of({label: part[judged] for label, part in parts.items()})
        return Mixed({"all": standardise("+".join(parts), total)}, shares)

    def gradient(self, gradients: Tensor, generator: np.random.Generator) -> Tensor:
        return gradients[0]


class PCGrad:
    """Gradient surgery: a step that sets no reward back, to first order and before Adam."""

    def mix(
        self, scores: Mapping[str, np.ndarray], weights: Mapping[str, float], standardise: Standardise
    ) -> Mixed:
        parts = {
            label: weight * equal_spread(standardise(label, scores[label]))
            for label, weight in weights.items()
        }
        return Mixed(parts, shares_of(parts))

    def gradient(self, gradients: Tensor, generator: np.random.Generator) -> Tensor:
        """Algorithm 1: each g_i loses its part against each g_j with g_i · g_j < 0, in random order."""
        kept = gradients.clone()
        for i in range(len(gradients)):
            for j in generator.permutation(len(gradients)):
                against = torch.dot(kept[i], gradients[j])
                if j != i and against < 0:
                    kept[i] -= against / gradients[j].square().sum() * gradients[j]
        return kept.sum(0)


MIXERS: Mapping[str, Callable[[], Mixer]] = {"gdpo": GDPO, "sum": WeightedSum, "pcgrad": PCGrad}


def equal_spread(standardised: np.ndarray) -> np.ndarray:
    """Advantages [N] with a spread of 1 over the round, so that equal weights are equal shares.

    Standardised over prompts or groups, a reward that is the same for most prompts has a smaller one. What is
    all but constant, and stands under its `resolution`, is raised to four times its spread at most.
    """
    spread = max(float(standardised.std()), SMALLEST_SPREAD)
    return np.asarray(standardised / spread)


def shares_of(parts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Cov(part, Σ) / Var(Σ): what each part contributed to the variance of their sum; 0 if there is none."""
    total = np.sum(list(parts.values()), axis=0)
    if not total.size or total.var() == 0:
        return dict.fromkeys(parts, 0.0)
    centred = total - total.mean()
    return {label: float(np.mean(part * centred) / total.var()) for label, part in parts.items()}


def correlations(scores: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Pearson's r of every two rewards over the samples that both judged; left out where one is constant."""
    found = {}
    for (a, first), (b, second) in combinations(scores.items(), 2):
        both = np.isfinite(first) & np.isfinite(second)
        if both.sum() > 2 and first[both].std() > 0 and second[both].std() > 0:
            found[a, b] = float(np.corrcoef(first[both], second[both])[0, 1])
    return found
