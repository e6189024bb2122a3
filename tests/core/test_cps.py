"""Coefficients-preserving sampling: DDIM's idea on a flow, and what its noise costs."""

import math

import pytest
import torch

from ddpo_core.denoising import GaussianStep
from ddpo_core.processes import Flow
from ddpo_core.samplers.cps import CPS
from ddpo_core.samplers.flow_ode import FlowODE
from ddpo_core.testing import GaussianDenoiser, ToyDenoiser, marginals

T = 8


@pytest.mark.parametrize("level", [0.3, 0.8, 1.0])
def test_every_step_is_the_published_one(level):
    sampler = CPS(noise_level=level)
    schedule = sampler.schedule(ToyDenoiser(process=Flow(shift=3.0)), T)
    sigma = [*(schedule.timesteps.double() / 1000).tolist(), 0.0]
    generator = torch.Generator().manual_seed(0)
    for t in range(T):
        x, v = torch.randn(2, 2, 1, 3, 3, generator=generator).double()
        clean, noise = x - sigma[t] * v, x + (1 - sigma[t]) * v
        std = sigma[t + 1] * math.sin(level * math.pi / 2)
        mean = (1 - sigma[t + 1]) * clean + math.sqrt(sigma[t + 1] ** 2 - std**2) * noise
        ours = GaussianStep(*sampler.step(schedule, torch.full((2,), t), x, v))
        torch.testing.assert_close(ours.mean.double(), mean, atol=1e-5, rtol=1e-5)
        assert ours.std[0].item() == pytest.approx(std, rel=1e-5)


def test_the_last_step_ends_on_the_picture_and_is_not_rated():
    denoiser = ToyDenoiser(process=Flow())
    schedule = CPS().schedule(denoiser, T)
    assert schedule.rated == list(range(T - 1))
    x, v = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, _ = CPS().step(schedule, torch.tensor([T - 1]), x, v)
    torch.testing.assert_close(mean, x - v / T)  # x̂0 at σ = 1/T


def test_without_noise_it_is_eulers_method():
    denoiser = ToyDenoiser(process=Flow(shift=3.0))
    ours, euler = (sampler.schedule(denoiser, T) for sampler in (CPS(noise_level=0), FlowODE()))
    for table in ("timesteps", "latents_coef", "noise_coef", "std"):
        torch.testing.assert_close(getattr(ours, table), getattr(euler, table), atol=1e-6, rtol=1e-5)
    assert not CPS(noise_level=0).has_log_prob


def test_at_full_noise_level_a_step_keeps_nothing_but_the_picture():
    # x_{t+1} = (1 − σ')·x̂0 + σ'·z
    schedule = CPS(noise_level=1).schedule(ToyDenoiser(process=Flow()), T)
    sigma = torch.cat([schedule.timesteps[1:] / 1000, torch.zeros(1)])
    torch.testing.assert_close(schedule.std, sigma)
    torch.testing.assert_close(schedule.latents_coef, 1 - sigma)


def test_the_pictures_spread_falls_short_by_the_cosine_of_half_the_angle_however_many_the_steps():
    # Many steps at one σ settle where V = k²·V + σ²·sin²θ, with θ = πa/2 and k = 1 − σ²·(1 − cos θ)/D, where
    # D = (1 − σ)²s² + σ². As σ → 0, V → s²·(1 + cos θ)/2 = s²·cos²(θ/2): noise that is drawn anew in a fixed
    # part at each step, not in proportion to the step, pulls towards the most likely picture.
    denoiser = GaussianDenoiser(0.5, 0.5, Flow())
    _, stds = marginals(CPS(noise_level=0.8), denoiser, 1024)
    torch.testing.assert_close(
        stds[-1] / 0.5, torch.full((1, 4, 4), math.cos(0.2 * math.pi)), atol=0.01, rtol=0
    )


def test_noise_in_proportion_to_the_step_gives_the_true_spread_at_first_order():
    denoiser = GaussianDenoiser(0.5, 0.5, Flow())
    errors = [
        0.5 - marginals(CPS(noise_level=1 / math.sqrt(steps)), denoiser, steps)[1][-1].max().item()
        for steps in (32, 64, 128)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1) == errors[1] / errors[2]
