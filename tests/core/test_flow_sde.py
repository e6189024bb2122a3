"""Flow-GRPO's kernel: the published step, its first one, and what is known of its marginals."""

import math

import pytest
import torch

from ddpo_core.denoising import GaussianStep
from ddpo_core.processes import Flow
from ddpo_core.samplers.flow_ode import FlowODE
from ddpo_core.samplers.flow_sde import FlowSDE
from ddpo_core.testing import GaussianDenoiser, ToyDenoiser, marginals

T = 8


def noise_scale(t, a, sigma):
    """Eq. 10's σ_t = a·√(t / (1 − t)); at 1 the second entry stands in for t below the line."""
    below = sigma[1] if t == 0 else sigma[t]
    return a * math.sqrt(sigma[t] / (1 - below))


@pytest.mark.parametrize("a", [0.3, 0.7, 1.2])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_step_is_equation_9_with_torchs_normal_as_log_prob(a, shift):
    sampler, process = FlowSDE(noise_level=a), Flow(shift=shift)
    schedule = sampler.schedule(ToyDenoiser(process=process), T)
    sigma = [*(schedule.timesteps.double() / 1000).tolist(), 0.0]
    generator = torch.Generator().manual_seed(0)
    for t in range(T):
        x, v, noise = torch.randn(3, 2, 1, 3, 3, generator=generator).double()
        now, dt, s = sigma[t], sigma[t + 1] - sigma[t], noise_scale(t, a, sigma)
        mean = x + (v + s**2 / (2 * now) * (x + (1 - now) * v)) * dt
        ours = GaussianStep(*sampler.step(schedule, torch.full((2,), t), x, v))
        torch.testing.assert_close(ours.mean.double(), mean, atol=1e-5, rtol=1e-5)
        drawn = mean + s * math.sqrt(-dt) * noise
        expected = torch.distributions.Normal(mean, s * math.sqrt(-dt)).log_prob(drawn).flatten(1).mean(1)
        torch.testing.assert_close(ours.log_prob(drawn).double(), expected, atol=1e-4, rtol=1e-4)


def test_the_first_step_draws_as_much_as_the_noise_level_says():
    # s²·(−Δ) = a²·1/(1 − σ_1)·(1 − σ_1)
    schedule = FlowSDE(noise_level=0.7).schedule(ToyDenoiser(process=Flow(shift=3.0)), T)
    assert schedule.std[0].item() == pytest.approx(0.7)
    assert schedule.latents_coef[0].item() == pytest.approx(1 - 0.7**2 / 2)


def test_the_last_step_draws_noise_too_and_is_rated():
    # four equal parts: σ = 1/4 and s = a·√(1/3), over a step of 1/4
    schedule = FlowSDE(noise_level=0.7).schedule(ToyDenoiser(process=Flow()), 4)
    assert schedule.rated == [0, 1, 2, 3]
    assert schedule.std[-1].item() == pytest.approx(0.7 * math.sqrt(1 / 3) * math.sqrt(1 / 4))


def test_without_noise_it_is_eulers_method():
    denoiser = ToyDenoiser(process=Flow(shift=3.0))
    ours, euler = (sampler.schedule(denoiser, T) for sampler in (FlowSDE(noise_level=0), FlowODE()))
    for table in ("timesteps", "latents_coef", "noise_coef", "std"):
        torch.testing.assert_close(getattr(ours, table), getattr(euler, table))
    assert not FlowSDE(noise_level=0).has_log_prob


def test_it_leaves_more_noise_than_the_model_expects():
    # arXiv 2509.05952's complaint: with one picture in the world, the spread at σ' should be σ'
    denoiser = GaussianDenoiser(0.5, 1e-4, Flow())
    schedule = FlowSDE().schedule(denoiser, T)
    _, stds = marginals(FlowSDE(), denoiser, T)
    assert (stds[1:-1] > 1.01 * (schedule.timesteps[1:] / 1000).view(-1, 1, 1, 1)).all()
    assert (stds[-1] >= schedule.std[-1]).all()  # and the last step's noise stays in the picture


def test_its_pictures_come_near_the_true_spread_though_slowly():
    # The steps are equal in log(1 − σ) near σ = 1, however many there are; what they do wrong there fades as
    # T^(−a²): at a = 0.7 the error at 16 times the steps is still about 16^(−0.49) = 0.26 times as large.
    denoiser = GaussianDenoiser(0.0, 1.0, Flow())
    few, many = (marginals(FlowSDE(), denoiser, steps)[1][-1].max().item() - 1 for steps in (128, 2048))
    assert 0 < many < few < 0.005
    assert math.log(few / many) / math.log(16) < 0.49
