import math

import pytest
import torch

from ddpo_core.denoising import GaussianStep, gaussian_log_prob, guide


def test_log_prob_of_a_standard_normal_at_its_mean_is_minus_half_log_tau():
    at_mean = gaussian_log_prob(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 1, 1))
    assert at_mean.item() == pytest.approx(-0.9189385, abs=1e-6)


def test_log_prob_of_hand_worked_numbers():
    # elements 1 and 3 under N(0, 2²): −½(¼) − ln 2 − .9189 and −½(2.25) − ln 2 − .9189, averaged
    latents = torch.tensor([[[[1.0, 3.0]]]])
    value = gaussian_log_prob(latents, torch.zeros_like(latents), torch.full((1, 1, 1, 1), 2.0))
    assert value.item() == pytest.approx(-0.5 * (0.25 + 2.25) / 2 - math.log(2) - 0.9189385, abs=1e-6)


@pytest.mark.parametrize("std_shape", [(3, 1, 1, 1), (3, 4, 5, 6)])
def test_log_prob_is_the_mean_of_torch_normal_over_elements(std_shape):
    generator = torch.Generator().manual_seed(0)
    mean, latents = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    std = torch.rand(std_shape, generator=generator) + 0.1
    expected = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(latents).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_log_prob(latents, mean, std), expected)


def test_a_step_drawn_with_noise_z_is_rated_as_z():
    step = GaussianStep(mean=torch.full((1, 1, 1, 2), 5.0), std=torch.full((1, 1, 1, 1), 0.5))
    noise = torch.tensor([[[[1.0, -2.0]]]])
    # the log-density of z itself, less log σ
    assert step.log_prob(step.draw(noise)).item() == pytest.approx(
        -0.5 * (1 + 4) / 2 - math.log(0.5) - 0.9189385, abs=1e-6
    )


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 3.0), (5.0, 11.0)])
def test_guidance_goes_from_unconditional_through_the_text(scale, expected):
    assert guide(torch.tensor(1.0), torch.tensor(3.0), scale).item() == expected
