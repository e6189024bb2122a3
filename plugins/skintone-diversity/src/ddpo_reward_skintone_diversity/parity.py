"""Statistical parity of a group of pictures over K buckets, and each picture's part in it. Pure functions.

With counts c [K], n = Σc, shares p̂ = c / n and target shares t (uniform unless given):

    l2        √Σ(p̂ − t)²                            Pinterest, arXiv 2401.12244, Eq. 12
    squared   Σ(p̂ − t)²
    unbiased  Σ(p̂ − t)² − (1 − Σp̂²) / (n − 1)       on average Σ(p − t)² of the model, for any n and t

The last holds since p̂ is the mean of n draws: E Σ(p̂ − t)² = Σ(p − t)² + (1 − Σp²) / n, whatever t is, and
(1 − Σp̂²) / (n − 1) is (1 − Σp²) / n on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np

Counts = Sequence[int] | np.ndarray[Any, np.dtype[Any]]
Shares = Sequence[float] | np.ndarray[Any, np.dtype[Any]]
Estimator = Literal["l2", "squared", "unbiased"]

MOST_TABLES = 500_000  # tables of counts that the exact floor goes through; beyond, the limit law is used


def squared_parity(counts: Counts, target: Shares | None = None) -> float:
    """Σ(p̂ − t)² of counts [K]; NaN of no pictures at all."""
    counts, target = _checked(counts, target)
    n = counts.sum()
    return float(((counts / n - target) ** 2).sum()) if n else math.nan


def parity(counts: Counts, target: Shares | None = None) -> float:
    """√Σ(p̂ − t)² of counts [K], the paper's: 0 is perfect, √(1 − 1/K) one bucket only at a uniform target."""
    return math.sqrt(squared_parity(counts, target))


def unbiased_parity(counts: Counts, target: Shares | None = None) -> float:
    """Σ(p̂ − t)² free of the group's size, so at times below 0; NaN of fewer than two pictures."""
    counts, target = _checked(counts, target)
    n = counts.sum()
    if n < 2:
        return math.nan
    shares = counts / n
    return squared_parity(counts, target) - float(1 - (shares**2).sum()) / float(n - 1)


ESTIMATORS = {"l2": parity, "squared": squared_parity, "unbiased": unbiased_parity}


def leave_one_out_credit(
    counts: Counts, target: Shares | None = None, estimator: Estimator = "l2"
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """SP(without one picture of the bucket) − SP(all) for each bucket [K]: what that picture is worth.

    Positive where parity is better for the picture's being there. NaN for an empty bucket, and where too few
    pictures would be left to estimate from: 1, or 2 for `unbiased`.

    Minus SP with the baseline minus SP(without i), which does not depend on picture i, is the score-function
    estimate of the gradient of −E SP with each picture's own credit.
    """
    counts, target = _checked(counts, target)
    measure = ESTIMATORS[estimator]
    whole = measure(counts, target)
    without = [
        measure(counts - one, target) if count else math.nan
        for count, one in zip(counts, np.eye(len(counts), dtype=counts.dtype), strict=True)
    ]
    return np.array(without) - whole


@lru_cache(maxsize=256)
def finite_sample_floor(n: int, buckets: int) -> float:
    """The mean of `parity` over groups of n pictures of a model that is perfectly even over the buckets.

    Exact up to half a million tables of counts (128 pictures in 4 buckets); beyond that the limit law,
    n·K·Σ(p̂ − 1/K)² ~ χ² with K − 1 degrees of freedom, which is right to 1 % there.
    """
    if n < 1 or buckets < 1:
        raise ValueError(f"the floor expects 1 picture and 1 bucket or more, got {n} and {buckets}")
    if math.comb(n + buckets - 1, buckets - 1) > MOST_TABLES:
        chi = math.sqrt(2) * math.exp(math.lgamma(buckets / 2) - math.lgamma((buckets - 1) / 2))
        return chi / math.sqrt(n * buckets)
    tables = _tables(n, buckets)
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    log_probability = log_factorial[n] - log_factorial[tables].sum(axis=1) - n * math.log(buckets)
    distances = np.sqrt(((tables / n - 1 / buckets) ** 2).sum(axis=1))
    return float((np.exp(log_probability) * distances).sum())


def _tables(n: int, buckets: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """All counts [tables, K] that sum to n: K − 1 bars among n stars."""
    places = range(n + buckets - 1)
    bars = np.array(list(combinations(places, buckets - 1)), dtype=np.int64).reshape(-1, buckets - 1)
    ends = np.full((len(bars), 1), n + buckets - 1)
    return np.diff(np.hstack([np.full_like(ends, -1), bars, ends]), axis=1) - 1


def _checked(
    counts: Counts, target: Shares | None
) -> tuple[np.ndarray[Any, np.dtype[Any]], np.ndarray[Any, np.dtype[np.float64]]]:
    counts = np.asarray(counts)
    if target is None:
        target = np.full(len(counts), 1 / len(counts))
    target = np.asarray(target, dtype=np.float64)
    if counts.ndim != 1 or counts.shape != target.shape:
        raise ValueError(f"parity expects one target share per bucket, got {target.shape} for {counts.shape}")
    return counts, target
