import pytest

from ddpo_core.batches import check_batches, nearest_divisors, nearest_multiples
from ddpo_core.errors import BatchError

FITTING = {"samples_per_epoch": 24, "sample_batch_size": 4, "train_batch_size": 2, "updates_per_epoch": 2}


def test_nearest_values():
    assert nearest_multiples(50, 8) == [48, 56]
    assert nearest_multiples(3, 8) == [8]
    assert nearest_divisors(5, 48) == [4, 6]
    assert nearest_divisors(100, 48) == [48]


@pytest.mark.parametrize("changes", [{}, {"processes": 2}, {"group_size": 8}, {"train_batch_size": 50}])
def test_batches_that_divide_are_accepted(changes):
    check_batches(**{**FITTING, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_per_epoch": 30}, "take samples_per_epoch 28 or 32, or sample_batch_size 3 or 5"),
        ({"updates_per_epoch": 5}, "take samples_per_epoch 20 or 25, or updates_per_epoch 4 or 6"),
        ({"train_batch_size": 5}, "take train_batch_size 4 or 6"),
        ({"processes": 4}, "take samples_per_epoch 16 or 32, or sample_batch_size 3 or 6"),
        ({"group_size": 5}, "take samples_per_epoch 20 or 25, or the group size 4 or 6"),
    ],
)
def test_batches_that_do_not_divide_are_refused_with_the_nearest_that_do(changes, message):
    with pytest.raises(BatchError) as refused:
        check_batches(**{**FITTING, **changes})
    assert message in refused.value.hint


def test_batches_of_several_processes_are_named_as_such():
    with pytest.raises(BatchError, match="24 does not divide by sample_batch_size 4 × 4 processes"):
        check_batches(**FITTING, processes=4)
