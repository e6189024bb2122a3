"""What an epoch says of a reward: the error of a mean counts prompts, where several images share one."""

import numpy as np
import pytest

from ddpo_core.judgement import standard_error

NAN = np.nan


@pytest.mark.parametrize(
    ("values", "group_size", "error"),
    [
        ([1, 2, 3, 4, 5], 1, np.sqrt(2.5 / 5)),  # s² = 10 / 4
        ([1, 1, 3, 3], 2, 1),  # the prompts' means are 1 and 3: √2 / √2
        ([0, 2, 2, 4], 2, 1),  # the same means, however they come about
        ([1, 3, 1, 3], 2, 0),  # prompts alike
        ([1, NAN, 3, 3], 2, np.sqrt(2 * 2 * (4 / 3) ** 2) / 3),  # mean 7 / 3; sums −4/3 and 4/3
        ([1, NAN, NAN, 3], 1, 1),
        ([1, 3, NAN, NAN], 2, 1),  # one prompt is left: as if the images were all there is
        ([1, 3], 2, 1),
    ],
)
def test_standard_errors_by_hand(values, group_size, error):
    assert standard_error(np.array(values, dtype=float), group_size) == pytest.approx(error)


@pytest.mark.parametrize("values", [[], [1], [NAN, 2], [NAN, NAN]])
def test_fewer_than_two_values_have_no_error(values):
    assert np.isnan(standard_error(np.array(values, dtype=float), 1))


def test_the_error_covers_what_other_prompts_would_have_done():
    """8 prompts of 16 images; prompts differ by 1, images of a prompt by 0.3. Over 2000 epochs."""
    generator = np.random.default_rng(0)
    epochs = generator.normal(size=(2000, 8, 1)) + 0.3 * generator.normal(size=(2000, 8, 16))
    spread = epochs.reshape(2000, -1).mean(1).std()
    clustered = np.mean([standard_error(epoch.ravel(), 16) ** 2 for epoch in epochs]) ** 0.5
    assert clustered == pytest.approx(spread, rel=0.05)
    images_counted = np.mean([standard_error(epoch.ravel(), 1) ** 2 for epoch in epochs]) ** 0.5
    assert images_counted < spread / 3
