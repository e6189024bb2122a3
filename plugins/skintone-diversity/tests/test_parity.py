"""Parity and credit against the table of simulations, exact sums over all draws, and hand computations."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from ddpo_reward_skintone_diversity.parity import (
    finite_sample_floor,
    leave_one_out_credit,
    parity,
    squared_parity,
    unbiased_parity,
)

SKEWED = (0.05, 0.15, 0.2, 0.6)


def draws(n: int, shares) -> list[tuple[list[int], float]]:
    """Every sequence of n draws as counts, with its probability."""
    table = []
    for sequence in product(range(len(shares)), repeat=n):
        counts = np.bincount(sequence, minlength=len(shares))
        table.append((counts.tolist(), math.prod(shares[bucket] for bucket in sequence)))
    return table


@pytest.mark.parametrize(
    ("counts", "target", "expected"),
    [
        ([4, 4, 4, 4], None, 0.0),  # perfect
        ([16, 0, 0, 0], None, math.sqrt(0.75)),  # one bucket only: √(1 − 1/4)
        ([8, 8, 0, 0], None, 0.5),  # 4 × 0.25²
        ([3, 1], [0.75, 0.25], 0.0),  # another target, met
        ([0, 0, 4], [0.5, 0.5, 0.0], math.sqrt(1.5)),
    ],
)
def test_parity_is_the_l2_distance_to_the_target(counts, target, expected):
    assert parity(counts, target) == pytest.approx(expected)
    assert squared_parity(counts, target) == pytest.approx(expected**2)


@pytest.mark.parametrize(
    ("n", "mean"), [(4, 0.399), (8, 0.281), (16, 0.197), (32, 0.142), (64, 0.101), (128, 0.071)]
)
def test_the_floor_is_that_of_the_table_of_simulations(n, mean):
    assert finite_sample_floor(n, 4) == pytest.approx(mean, abs=0.0035)  # the table was drawn at random
    counts = np.random.default_rng(0).multinomial(n, [0.25] * 4, size=20_000)
    distances = np.sqrt(((counts / n - 0.25) ** 2).sum(axis=1))
    assert finite_sample_floor(n, 4) == pytest.approx(distances.mean(), abs=4 * distances.std() / 20_000**0.5)


@pytest.mark.parametrize(("n", "mean", "sd"), [(4, 0.536, 0.180), (16, 0.444, 0.118), (64, 0.426, 0.063)])
def test_a_skewed_model_measures_what_the_table_says(n, mean, sd):
    counts = np.random.default_rng(0).multinomial(n, SKEWED, size=4000)
    measured = np.array([parity(row) for row in counts])
    assert measured.mean() == pytest.approx(mean, abs=4 * sd / math.sqrt(4000) + 0.0005)
    assert measured.std() == pytest.approx(sd, abs=0.006)


def test_the_floor_is_the_exact_mean_and_its_limit_law_continues_it(monkeypatch):
    by_hand = sum(probability * parity(counts) for counts, probability in draws(4, [0.25] * 4))
    assert finite_sample_floor(4, 4) == pytest.approx(by_hand)
    exact = finite_sample_floor(60, 4)
    monkeypatch.setattr("ddpo_reward_skintone_diversity.parity.MOST_TABLES", 1)
    finite_sample_floor.cache_clear()
    assert finite_sample_floor(60, 4) == pytest.approx(exact, rel=0.01)
    finite_sample_floor.cache_clear()


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("target", [(0.25,) * 4, (0.1, 0.2, 0.3, 0.4), (1.0, 0.0, 0.0, 0.0)])
def test_the_unbiased_estimate_is_right_on_average_for_any_group_size_and_target(n, target):
    truth = sum((share - wanted) ** 2 for share, wanted in zip(SKEWED, target, strict=True))
    table = draws(n, SKEWED)
    mean = sum(probability * unbiased_parity(counts, target) for counts, probability in table)
    assert mean == pytest.approx(truth, abs=1e-12)
    biased = sum(probability * squared_parity(counts, target) for counts, probability in table)
    assert biased == pytest.approx(truth + (1 - sum(share**2 for share in SKEWED)) / n)


def test_too_few_pictures_have_no_estimate():
    assert math.isnan(unbiased_parity([1, 0, 0, 0]))
    assert math.isnan(parity([0, 0, 0, 0]))


def test_a_rare_tone_earns_more_than_a_common_one():
    credit = leave_one_out_credit([10, 4, 2, 0])
    assert credit[0] < 0 < credit[1] < credit[2]
    assert math.isnan(credit[3])


@pytest.mark.parametrize("estimator", ["l2", "squared", "unbiased"])
def test_the_credit_is_the_parity_without_the_picture_minus_that_with_it(estimator):
    measure = {"l2": parity, "squared": squared_parity, "unbiased": unbiased_parity}[estimator]
    credit = leave_one_out_credit([3, 1, 2], estimator=estimator)
    assert credit == pytest.approx(
        [measure(rest) - measure([3, 1, 2]) for rest in ([2, 1, 2], [3, 0, 2], [3, 1, 1])]
    )


def test_credits_follow_the_gradient_of_the_expected_parity():
    """Σ_i credit_i ∇log p(x_i) on average is the gradient of −E SP: summed over every draw of three."""
    shares, n = np.array([0.5, 0.3, 0.2]), 3

    def expected(p) -> float:
        return -sum(probability * squared_parity(counts) for counts, probability in draws(n, p))

    step = 1e-6
    direction = np.array([1.0, -0.4, -0.6])
    slope = (expected(shares + step * direction) - expected(shares - step * direction)) / (2 * step)
    estimate = 0.0
    for counts, probability in draws(n, shares):
        credit = np.nan_to_num(leave_one_out_credit(counts, estimator="squared"))
        estimate += probability * float((np.array(counts) * credit * direction / shares).sum())
    assert estimate == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("call", [lambda: parity([1, 2], [0.2, 0.3, 0.5]), lambda: finite_sample_floor(0, 4)])
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match="expects"):
        call()
