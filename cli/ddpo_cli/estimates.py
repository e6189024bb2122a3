"""Means of scores with standard errors, changes of them, and two ways to say "as good as the specialist".

Everything is paired: two models that are compared drew their pictures from the same prompts and the same
noise, so the error of a difference or a ratio comes from the differences of single pictures, not from two
separate errors.

A unit is what counts as one independent observation: a picture, or for a reward that judges pictures
together the whole group of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Units = np.ndarray  # [U] float64, NaN where a unit has no score


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known."""

    mean: float
    stderr: float  # NaN where there is one unit only
    count: int  # of units

    @property
    def sigmas(self) -> float:
        """The number in its own standard errors; NaN where those are not known."""
        return self.mean / self.stderr if self.stderr > 0 else math.nan


def units_of(values: np.ndarray, size: int) -> Units:
    """The means [U] of `size` values in a row each, from values [U · size]; NaNs are left out of them."""
    rows = np.asarray(values, dtype=np.float64).reshape(-1, size)
    scored = np.isfinite(rows)
    counts = scored.sum(1)
    sums = np.where(scored, rows, 0.0).sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def estimate(units: Units) -> Estimate:
    """Mean ± σ/√U over the units that have a score."""
    scored = units[np.isfinite(units)]
    count = len(scored)
    mean = float(scored.mean()) if count else math.nan
    stderr = float(scored.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Estimate(mean, stderr, count)


def change(after: Units, before: Units) -> Estimate:
    """The mean of the paired differences, and its error."""
    return estimate(after - before)


def ratio(above: Units, below: Units) -> Estimate:
    """R = mean(above) / mean(below); error by the delta method on pairs, σ(a − R·b) / (|mean b| √U)."""
    both = np.isfinite(above) & np.isfinite(below)
    above, below = above[both], below[both]
    count = len(above)
    divisor = float(below.mean()) if count else math.nan
    if not count or divisor == 0:
        return Estimate(math.nan, math.nan, count)
    value = float(above.mean()) / divisor
    rest = above - value * below
    stderr = float(rest.std(ddof=1) / (abs(divisor) * math.sqrt(count))) if count > 1 else math.nan
    return Estimate(value, stderr, count)


def raw_share(run: Units, specialist: Units) -> Estimate:
    """The run's score as a part of the specialist's: the "over 80 %" of arXiv 2401.12244 (Table 5).

    Scores are higher-is-better. Where both are negative (a cost with a minus) the ratio is turned over, so
    that less cost is more than 1; where their signs differ a ratio means nothing and is NaN.
    """
    mine, best = estimate(run).mean, estimate(specialist).mean
    if mine < 0 and best < 0:
        return ratio(specialist, run)
    if not (mine > 0 and best > 0):
        return Estimate(math.nan, math.nan, len(run))
    return ratio(run, specialist)


def gain_share(run: Units, specialist: Units, base: Units) -> Estimate:
    """The run's gain over the base model as a part of the specialist's; NaN where that gained nothing."""
    gained = specialist - base
    if not estimate(gained).mean > 0:
        return Estimate(math.nan, math.nan, len(run))
    return ratio(run - base, gained)
