"""Several rewards as one direction: shares are honest, projections as published, multipliers ascend."""

import math

import numpy as np
import pytest
import torch

from ddpo_core.advantages import Normaliser, standardise
from ddpo_core.constraints import Constraint, Multipliers
from ddpo_core.errors import UsageError
from ddpo_core.mixing import GDPO, MIXERS, PCGrad, WeightedSum, correlations, equal_spread, shares_of
from ddpo_core.types import Prompt


def over_batch(values):
    """Standardises over the batch, as `Normaliser("batch")` does."""
    normaliser = Normaliser("batch")
    return lambda label, scores: normaliser(label, scores, [Prompt("a cat")] * len(values))


def mix(mixer, scores, weights):
    return mixer.mix(scores, weights, over_batch(next(iter(scores.values()))))


def two_units(count=4000):
    """Kilobytes with σ = 25, a grade with σ = 0.45: the example of design.md, section 5."""
    generator = np.random.default_rng(0)
    return {"jpeg": generator.normal(-90, 25, count), "aesthetic": generator.normal(5, 0.45, count)}


def test_equal_weights_give_equal_shares_whatever_the_units_are():
    mixed = mix(GDPO(), two_units(), {"jpeg": 0.5, "aesthetic": 0.5})
    assert mixed.shares["jpeg"] == pytest.approx(0.5, abs=0.03)
    assert sum(mixed.shares.values()) == pytest.approx(1)
    assert mixed.directions["all"].std() == pytest.approx(1)
    assert mixed.directions["all"].mean() == pytest.approx(0, abs=1e-12)


def test_a_raw_sum_belongs_to_the_larger_unit_and_says_so():
    shares = mix(WeightedSum(), two_units(), {"jpeg": 0.5, "aesthetic": 0.5}).shares
    assert shares["aesthetic"] == pytest.approx(0.45**2 / (0.45**2 + 25**2), abs=0.01)  # 0.03 %


def test_a_raw_sum_is_standardised_as_one_reward():
    scores = {"a": np.array([0.0, 1.0, 2.0]), "b": np.array([4.0, 0.0, 2.0])}
    direction = mix(WeightedSum(), scores, {"a": 1.0, "b": -0.5}).directions["all"]
    np.testing.assert_allclose(direction, standardise(np.array([-2.0, 1.0, 1.0]), 0.0, math.sqrt(2), 1e-6))


def test_a_sample_that_one_reward_failed_on_has_no_sum():
    scores = {"a": np.array([0.0, 1.0, 2.0]), "b": np.array([1.0, np.nan, 5.0])}
    assert mix(WeightedSum(), scores, {"a": 1.0, "b": 1.0}).directions["all"][1] == 0


def test_shares_follow_the_squares_of_the_weights_of_independent_rewards():
    generator = np.random.default_rng(1)
    shares = shares_of({"a": 3.0 * generator.normal(size=100_000), "b": generator.normal(size=100_000)})
    assert shares["a"] == pytest.approx(0.9, abs=0.01)  # 9 / (9 + 1)


@pytest.mark.parametrize("mixer", [GDPO(), PCGrad()])
def test_a_reward_that_few_prompts_tell_apart_has_the_share_of_its_weight_all_the_same(mixer):
    generator = np.random.default_rng(2)
    scores = {"a": generator.normal(size=4000), "b": generator.normal(size=4000)}
    scores["b"][1000:] = 0  # three prompts of four: no difference, so no advantage
    mixed = mixer.mix(scores, {"a": 0.5, "b": 0.5}, lambda label, values: values)
    assert mixed.shares["b"] == pytest.approx(0.5, abs=0.03)


def test_what_is_all_but_constant_is_not_blown_up():
    assert equal_spread(np.array([-1e-3, 1e-3])) == pytest.approx([-4e-3, 4e-3])
    assert equal_spread(np.array([-3.0, 3.0])) == pytest.approx([-1, 1])


def test_one_reward_alone_is_only_turned_by_its_sign():
    values = np.array([-1.0, 0.5, 2.0])
    alone = GDPO().mix({"r": values}, {"r": -0.3}, lambda label, scores: scores)
    np.testing.assert_allclose(alone.directions["all"], -values)


@pytest.mark.parametrize("mixer", [GDPO(), WeightedSum()])
def test_opposed_rewards_that_cancel_give_no_advantage(mixer):
    values = np.array([-1.0, 1.0])
    mixed = mix(mixer, {"a": values, "b": values}, {"a": 1.0, "b": -1.0})
    assert mixed.directions["all"].tolist() == [0, 0]
    assert mixed.shares == {"a": 0, "b": 0}


def test_pcgrad_keeps_gradients_that_agree():
    gradients = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert PCGrad().gradient(gradients, np.random.default_rng(0)).tolist() == [2, 1]


def test_pcgrad_takes_out_what_contradicts():
    # g1 − (g1·g2 / |g2|²) g2 = (1, 0) + ½ (−1, 1) = (½, ½); g2 − (g1·g2 / |g1|²) g1 = (0, 1)
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    total = PCGrad().gradient(gradients, np.random.default_rng(0))
    torch.testing.assert_close(total, torch.tensor([0.5, 1.5]))
    assert (gradients @ total >= 0).all()  # neither reward is set back, to first order


def test_pcgrad_gives_each_reward_a_direction_of_its_own_weighted():
    scores = {"a": np.array([0.0, 2.0]), "b": np.array([5.0, 3.0])}
    directions = mix(PCGrad(), scores, {"a": 1.0, "b": -2.0}).directions
    assert {label: part.tolist() for label, part in directions.items()} == {"a": [-1, 1], "b": [-2, 2]}


@pytest.mark.parametrize("name", MIXERS)
def test_one_gradient_alone_stays_as_it_is(name):
    gradient = torch.tensor([[0.5, -2.0]])
    assert MIXERS[name]().gradient(gradient, np.random.default_rng(0)).tolist() == [0.5, -2]


def test_correlations_leave_failures_and_constants_out():
    first = np.array([0.0, 1.0, 2.0, np.nan])
    found = correlations({"a": first, "b": -2 * first, "c": np.ones(4)})
    assert found == {("a", "b"): pytest.approx(-1)}


def test_a_multiplier_grows_by_rate_times_sigmas_of_violation_and_falls_back_to_0():
    constraint = Constraint("aesthetic", minimum=5.5, rate=0.5)
    multipliers = Multipliers([constraint])
    multipliers.update(constraint, mean=5.1, spread=0.4)  # one σ below
    assert multipliers.weight("aesthetic") == pytest.approx(0.5)
    multipliers.update(constraint, mean=5.1, spread=0.4)
    assert multipliers.weight("aesthetic") == pytest.approx(1.0)
    multipliers.update(constraint, mean=6.5, spread=0.4)  # 2.5 σ above: 1 − 1.25 is cut off at 0
    assert multipliers.weight("aesthetic") == 0


def test_an_upper_bound_weighs_against_the_reward():
    constraint = Constraint("jpeg", maximum=-2.0, rate=1.0, limit=3.0)
    multipliers = Multipliers([constraint])
    for _ in range(5):
        multipliers.update(constraint, mean=-1.0, spread=1.0)
    assert multipliers.weight("jpeg") == -3  # up to its limit


def test_multipliers_come_back_as_they_were():
    constraint = Constraint("r", minimum=1.0)
    multipliers, restored = Multipliers([constraint]), Multipliers([constraint])
    multipliers.update(constraint, mean=0.0, spread=1.0)
    restored.load_state_dict(multipliers.state_dict())
    assert restored.weight("r") == multipliers.weight("r") == 0.5


@pytest.mark.parametrize(
    ("bounds", "message"),
    [({}, "expects min or max, got neither"), ({"minimum": 2.0, "maximum": 1.0}, "got 2 and 1")],
)
def test_a_constraint_without_room_is_refused(bounds, message):
    with pytest.raises(UsageError, match=message):
        Constraint("r", **bounds)
