"""DDPM is diffusers' DDPM, and each of its variances is exact in the world that it is right for."""

import pytest
import torch
from diffusers import DDPMScheduler

from ddpo_core.denoising import GaussianStep
from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.samplers.ddpm import DDPM
from ddpo_core.testing import GaussianDenoiser, ToyDenoiser, marginals


def process_of(scheduler, final_alpha_cumprod=1.0):
    return Diffusion(
        scheduler.alphas_cumprod.double(),
        final_alpha_cumprod,
        scheduler.config.steps_offset,
        scheduler.config.timestep_spacing,
    )


def scheduler(**options):
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **options
    )


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [1000, 30, 8])
def test_every_step_equals_diffusers_own_with_the_same_noise(variance, spacing, num_steps):
    theirs = scheduler(variance_type=variance, timestep_spacing=spacing)
    theirs.set_timesteps(num_steps)
    sampler = DDPM(variance=variance)
    schedule = sampler.schedule(ToyDenoiser(process=process_of(theirs)), num_steps)
    generator = torch.Generator().manual_seed(0)
    # theirs ends with noise in the picture where β is drawn and the last timestep is not 0; ours never does
    steps = num_steps - 1 if (variance, spacing) == ("fixed_large", "trailing") else num_steps
    for t in {0, 1, num_steps // 2, steps - 1}:
        latents, noise_pred = torch.randn(2, 2, 4, 3, 3, generator=generator)
        # theirs draws its noise itself: the same seed gives the same
        noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(7))
        expected = theirs.step(
            noise_pred, theirs.timesteps[t], latents, generator=torch.Generator().manual_seed(7)
        ).prev_sample
        ours = GaussianStep(*sampler.step(schedule, torch.full((2,), t), latents, noise_pred)).draw(noise)
        torch.testing.assert_close(ours, expected, atol=5e-5, rtol=1e-4)


def test_with_the_small_variance_it_is_ddim_with_eta_one():
    denoiser = ToyDenoiser()
    ours, ddim = (sampler.schedule(denoiser, 50) for sampler in (DDPM(), DDIM(eta=1)))
    for table in ("timesteps", "latents_coef", "noise_coef", "std"):
        torch.testing.assert_close(getattr(ours, table), getattr(ddim, table), atol=1e-6, rtol=1e-5)


def test_the_large_variance_is_exact_for_standard_normal_latents():
    # arXiv 2006.11239 §3.2: β is optimal for x0 ~ N(0, 1), where x_t ~ N(0, 1) at every t; four steps suffice
    process = process_of(scheduler(), final_alpha_cumprod=0.9995)
    means, stds = marginals(DDPM(variance="fixed_large"), GaussianDenoiser(0.0, 1.0, process), 4)
    torch.testing.assert_close(means, torch.zeros_like(means))
    torch.testing.assert_close(stds, torch.ones_like(stds), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_last_step_that_ends_on_a_clean_picture_draws_no_noise(variance):
    schedule = DDPM(variance=variance).schedule(ToyDenoiser(process=process_of(scheduler())), 10)
    assert schedule.rated == list(range(9))


def test_another_variance_is_refused():
    with pytest.raises(UsageError, match="got 'learned'"):
        DDPM(variance="learned")
