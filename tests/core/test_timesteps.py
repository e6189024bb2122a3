"""Which steps are learned from: fraction, count, window, an update each."""

import pytest
import torch

from ddpo_core.errors import UsageError
from ddpo_core.timesteps import TimestepChoice

STEPS = [0, 1, 2, 3, 4, 6]  # step 5 is not rated
SEEDS = list(range(100, 140))


def picked(choice, *, epoch=1, inner_epoch=0, seeds=SEEDS):
    return choice.pick(STEPS, seeds, epoch=epoch, inner_epoch=inner_epoch)


def test_all_steps_are_taken_once_each_in_an_order_of_the_samples_own():
    rows = picked(TimestepChoice())
    assert all(sorted(row.tolist()) == STEPS for row in rows)
    assert len({tuple(row.tolist()) for row in rows}) > 20


@pytest.mark.parametrize(
    ("options", "count"),
    [({"timestep_fraction": 0.5}, 3), ({"timestep_fraction": 0.01}, 1), ({"timestep_count": 5}, 5)],
)
def test_so_many_steps_are_drawn_without_repetition(options, count):
    rows = picked(TimestepChoice(**options))
    assert rows.shape == (40, count)
    assert all(len(set(row.tolist())) == count and set(row.tolist()) <= set(STEPS) for row in rows)
    assert set(rows.flatten().tolist()) == set(STEPS)  # each has its chance


def test_a_pass_draws_anew_and_a_samples_steps_follow_from_its_seed_alone():
    choice = TimestepChoice(timestep_count=2)
    assert not torch.equal(picked(choice), picked(choice, inner_epoch=1))
    assert torch.equal(picked(choice, seeds=SEEDS[7:9]), picked(choice)[7:9])


def test_more_steps_than_there_are_is_an_error_that_says_how_many_there_are():
    with pytest.raises(UsageError, match="timestep_count 7: there are only 6 steps") as caught:
        picked(TimestepChoice(timestep_count=7))
    assert "timestep_count=6" in caught.value.hint


def test_a_count_and_a_fraction_exclude_each_other():
    with pytest.raises(UsageError, match="got both"):
        TimestepChoice(timestep_count=2, timestep_fraction=0.5)


def test_the_window_slides_from_the_noise_to_the_picture_and_begins_anew():
    choice = TimestepChoice(window=4)
    assert [choice.eligible(STEPS, epoch) for epoch in (1, 2, 3, 4)] == [
        [0, 1, 2, 3],
        [1, 2, 3, 4],
        [2, 3, 4, 6],
        [0, 1, 2, 3],
    ]


def test_the_window_moves_by_its_stride_every_so_many_epochs_and_always_reaches_the_last_step():
    choice = TimestepChoice(window=3, window_stride=2, window_every=2)
    assert [choice.eligible(STEPS, epoch)[0] for epoch in range(1, 9)] == [0, 0, 2, 2, 3, 3, 0, 0]


def test_early_steps_are_those_nearer_to_the_noise():
    assert TimestepChoice(early_fraction=0.5).eligible(STEPS, 1) == [0, 1, 2]


def test_an_update_takes_one_step_of_every_sample_where_each_timestep_has_its_own():
    rows = torch.tensor([[4, 1], [0, 2], [3, 3]])
    assert [each.tolist() for each in TimestepChoice(update_per_timestep=True).updates(rows)] == [
        [[4], [0], [3]],
        [[1], [2], [3]],
    ]
    assert torch.equal(TimestepChoice().updates(rows)[0], rows)
