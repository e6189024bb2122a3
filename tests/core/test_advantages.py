import numpy as np
import pytest

from ddpo_core.advantages import Normaliser
from ddpo_core.errors import UsageError
from ddpo_core.types import Prompt


def prompts(*texts):
    return [Prompt(text) for text in texts]


def test_batch_advantages_of_hand_worked_numbers():
    # mean 2, standard deviation √(2/3)
    advantages = Normaliser("batch")("r", np.array([1.0, 2.0, 3.0]), prompts("a", "b", "c"))
    np.testing.assert_allclose(advantages, np.array([-1, 0, 1]) / np.sqrt(2 / 3))


def test_integer_rewards_are_not_truncated():
    advantages = Normaliser("batch")("r", np.array([0, 1, 1, 2]), prompts(*"abcd"))
    assert advantages.dtype == np.float64
    assert sorted(set(np.round(advantages, 3))) == [-1.414, 0, 1.414]


def test_a_constant_reward_gives_zero_and_not_noise():
    jitter = 7 + np.array([1e-9, -1e-9, 0, 2e-9])
    assert np.abs(Normaliser("batch")("r", jitter, prompts(*"abcd"), resolution=1e-3)).max() < 1e-5


@pytest.mark.parametrize("over", ["batch", "prompt", "group"])
def test_a_dropped_sample_gets_zero_and_does_not_touch_the_others(over):
    values, names = np.array([1.0, np.nan, 3.0, 5.0]), prompts("a", "a", "a", "a")
    advantages = Normaliser(over, buffer_size=4, min_count=2)("r", values, names)
    expected = Normaliser(over, buffer_size=4, min_count=2)("r", values[[0, 2, 3]], names[:3])
    assert advantages[1] == 0
    np.testing.assert_allclose(advantages[[0, 2, 3]], expected)


def test_group_advantages_compare_only_the_images_of_one_prompt():
    advantages = Normaliser("group")("r", np.array([0.0, 2.0, 100.0, 104.0]), prompts("a", "a", "b", "b"))
    np.testing.assert_allclose(advantages, [-1, 1, -1, 1])


def test_a_prompt_below_min_count_is_standardised_over_the_batch():
    normaliser = Normaliser("prompt", buffer_size=4, min_count=3)
    advantages = normaliser("r", np.array([0.0, 1.0, 2.0, 10.0]), prompts("a", "a", "a", "b"))
    np.testing.assert_allclose(advantages[:3], np.array([-1, 0, 1]) / np.sqrt(2 / 3))  # own statistics
    assert advantages[3] == pytest.approx((10 - 3.25) / np.std([0, 1, 2, 10]))  # the batch's


def test_the_ring_buffer_keeps_only_the_latest_scores_and_includes_the_current_ones():
    normaliser = Normaliser("prompt", buffer_size=2, min_count=2)
    normaliser("r", np.array([-50.0, 50.0]), prompts("a", "a"))
    advantages = normaliser("r", np.array([1.0, 3.0]), prompts("a", "a"))
    np.testing.assert_allclose(advantages, [-1, 1])  # mean 2, deviation 1: the old ones are gone


def test_long_prompts_that_differ_only_at_the_end_keep_separate_statistics():
    long = "word " * 100
    normaliser = Normaliser("prompt", buffer_size=4, min_count=2)
    normaliser("r", np.array([0.0, 1.0, 5.0, 6.0]), prompts(long + "a", long + "a", long + "b", long + "b"))
    assert set(normaliser.buffers["r"]) == {long + "a", long + "b"}


def test_each_reward_has_statistics_of_its_own():
    normaliser = Normaliser("prompt", buffer_size=4, min_count=2)
    first = normaliser("r", np.array([0.0, 2.0]), prompts("a", "a"))
    second = normaliser("s", np.array([0.0, 2000.0]), prompts("a", "a"))
    np.testing.assert_allclose(first, second)


def test_state_round_trip_gives_the_same_next_advantages():
    one, other = (Normaliser("prompt", buffer_size=8, min_count=2) for _ in range(2))
    one("r", np.array([0.0, 1.0, 4.0]), prompts("a", "a", "b"))
    other.load_state_dict(one.state_dict())
    values, names = np.array([3.0, 9.0]), prompts("a", "b")
    np.testing.assert_array_equal(one("r", values, names), other("r", values, names))


def test_impossible_buffers_are_refused():
    with pytest.raises(UsageError, match="got min_count=16 and buffer_size=8"):
        Normaliser("prompt", buffer_size=8)


def test_raw_scores_stay_as_they_are_and_a_failure_becomes_0():
    values = np.array([3.0, np.nan, -1.0])
    assert Normaliser("raw")("r", values, prompts("a", "b", "c")).tolist() == [3, 0, -1]
