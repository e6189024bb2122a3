"""Means, paired changes and shares: against numbers by hand and against repeated draws."""

import math

import numpy as np
import pytest

from ddpo_cli.estimates import Estimate, change, estimate, gain_share, ratio, raw_share, units_of

NAN = float("nan")


def test_a_group_counts_once():
    assert units_of(np.array([1.0, 3.0, 5.0, 9.0]), 2).tolist() == [2.0, 7.0]


def test_missing_scores_are_left_out_of_a_group_and_an_empty_group_has_none():
    units = units_of(np.array([1.0, NAN, NAN, NAN]), 2)
    assert units[0] == 1.0 and math.isnan(units[1])


def test_the_standard_error_is_that_of_a_mean():
    # 1, 2, 3, 4: variance 5/3 over n − 1, so √(5/3)/2
    assert estimate(np.array([1.0, 2.0, 3.0, 4.0])) == Estimate(2.5, pytest.approx(math.sqrt(5 / 3) / 2), 4)


def test_one_unit_has_no_standard_error_and_none_has_no_mean():
    assert math.isnan(estimate(np.array([1.0])).stderr)
    assert math.isnan(estimate(np.array([NAN])).mean)


def test_a_change_is_known_better_than_its_two_ends():
    before = np.array([1.0, 5.0, 9.0, 13.0])
    moved = change(before + np.array([1.0, 1.1, 0.9, 1.0]), before)
    assert moved.mean == pytest.approx(1.0)
    assert moved.stderr < 0.05 < estimate(before).stderr


def test_a_pair_that_lacks_one_end_is_left_out():
    assert change(np.array([2.0, NAN, 4.0]), np.array([1.0, 1.0, NAN])).count == 1


def test_the_error_of_a_ratio_is_its_spread_over_repetitions():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.5, (2000, 64))  # what pairs have in common
    above = 2 + shared + generator.normal(0, 0.3, (2000, 64))
    below = 3 + shared + generator.normal(0, 0.3, (2000, 64))
    ratios = [ratio(a, b) for a, b in zip(above, below, strict=True)]
    spread = np.std([r.mean for r in ratios])
    assert np.mean([r.stderr for r in ratios]) == pytest.approx(spread, rel=0.05)
    assert np.mean([r.mean for r in ratios]) == pytest.approx(2 / 3, abs=0.005)


@pytest.mark.parametrize(
    ("run", "specialist", "base", "raw", "gain"),
    [  # Table 5 of arXiv 2401.12244: ImageReward, detection, statistical parity (lower is better: minus)
        (0.701, 0.783, 0.273, 0.895, 0.839),
        (0.182, 0.226, 0.098, 0.805, 0.656),
        (-0.499, -0.479, -0.567, 0.960, 0.773),
    ],
)
def test_both_shares_are_the_papers(run, specialist, base, raw, gain):
    one = np.ones(2)
    assert raw_share(run * one, specialist * one).mean == pytest.approx(raw, abs=0.001)
    assert gain_share(run * one, specialist * one, base * one).mean == pytest.approx(gain, abs=0.001)


def test_shares_that_mean_nothing_are_not_numbers():
    one = np.ones(2)
    assert math.isnan(raw_share(one, -one).mean)
    assert math.isnan(gain_share(one, one, 2 * one).mean)  # the specialist lost against the base model
    assert math.isnan(ratio(one, 0 * one).mean)
