import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler

from ddpo_core.denoising import GaussianStep
from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.samplers.paths import spaced_timesteps


def scheduler(**options):
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **options,
    }
    return DDIMScheduler(**settings)


def model_of(scheduler):
    """As much of a denoiser as a sampler looks at."""
    return SimpleNamespace(
        process=Diffusion(
            scheduler.alphas_cumprod.double(),
            float(scheduler.final_alpha_cumprod),
            scheduler.config.steps_offset,
            scheduler.config.timestep_spacing,
        ),
        device=torch.device("cpu"),
    )


def step(sampler, schedule, t, latents, noise_pred):
    steps = torch.full((len(latents),), t)
    return GaussianStep(*sampler.step(schedule, steps, latents, noise_pred))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [1, 4, 50, 30, 7])
def test_timesteps_are_those_of_diffusers(spacing, num_steps):
    theirs = scheduler(timestep_spacing=spacing)
    theirs.set_timesteps(num_steps)
    offset = theirs.config.steps_offset if spacing == "leading" else 0
    assert spaced_timesteps(1000, num_steps, spacing, offset) == theirs.timesteps.tolist()


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("num_steps", [50, 20, 8])
def test_every_step_equals_diffusers_own_with_the_same_noise(spacing, eta, set_alpha_to_one, num_steps):
    theirs = scheduler(timestep_spacing=spacing, set_alpha_to_one=set_alpha_to_one)
    theirs.set_timesteps(num_steps)
    sampler = DDIM(eta=eta)
    schedule = sampler.schedule(model_of(theirs), num_steps)
    generator = torch.Generator().manual_seed(0)
    for t, timestep in enumerate(theirs.timesteps):
        latents, noise_pred, noise = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(3))
        ours = step(sampler, schedule, t, latents, noise_pred).draw(noise)
        expected = theirs.step(noise_pred, timestep, latents, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(ours, expected, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(("spacing", "num_steps"), [("trailing", 30), ("linspace", 50), ("leading", 30)])
def test_the_next_timestep_comes_from_the_schedule_where_steps_do_not_divide(spacing, num_steps):
    model = model_of(scheduler(timestep_spacing=spacing))
    schedule = DDIM().schedule(model, num_steps)
    alpha = model.process.alphas_cumprod[schedule.timesteps]
    for t in range(num_steps - 1):
        now, after = alpha[t].item(), alpha[t + 1].item()
        assert schedule.std[t].item() == pytest.approx(
            math.sqrt((1 - after) / (1 - now) * (1 - now / after)), rel=1e-5
        )
        assert schedule.latents_coef[t].item() == pytest.approx(math.sqrt(after / now), rel=1e-6)


def test_eta_one_is_the_ddpm_posterior():
    # Ho et al. (arXiv 2006.11239) Eq. 6–7, on all 1000 steps: mean from x_t and x̂0, variance β̃
    model = model_of(scheduler(steps_offset=0))
    sampler, alphas = DDIM(), model.process.alphas_cumprod
    schedule = sampler.schedule(model, 1000)
    latents, noise_pred = torch.randn(2, 1, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    for t in (0, 400, 990):
        now, after = alphas[999 - t], alphas[998 - t]
        beta = 1 - now / after
        clean = (latents - (1 - now).sqrt() * noise_pred) / now.sqrt()
        mean = (after.sqrt() * beta * clean + (now / after).sqrt() * (1 - after) * latents) / (1 - now)
        ours = step(sampler, schedule, t, latents, noise_pred)
        torch.testing.assert_close(ours.mean.double(), mean, atol=1e-5, rtol=1e-4)
        assert ours.std.item() == pytest.approx(((1 - after) / (1 - now) * beta).sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [50, 30, 8])
def test_every_rated_step_has_the_log_prob_of_torch_normal(spacing, num_steps):
    sampler = DDIM(spacing=spacing)
    schedule = sampler.schedule(model_of(scheduler()), num_steps)
    generator = torch.Generator().manual_seed(0)
    for t in schedule.rated:
        latents, noise_pred, noise = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(3))
        kernel = step(sampler, schedule, t, latents, noise_pred)
        drawn = kernel.draw(noise)
        expected = torch.distributions.Normal(kernel.mean, kernel.std.expand_as(kernel.mean)).log_prob(drawn)
        torch.testing.assert_close(kernel.log_prob(drawn), expected.flatten(1).mean(1), atol=1e-5, rtol=1e-5)
        assert torch.isfinite(kernel.log_prob(drawn)).all()


def test_stable_diffusions_last_step_is_rated_with_the_known_sigma():
    # ᾱ[1] → ᾱ[0] of SD's schedule: variance 4.263e-4
    schedule = DDIM().schedule(model_of(scheduler()), 50)
    assert schedule.rated == list(range(50))
    assert schedule.std[-1].item() ** 2 == pytest.approx(4.263e-4, rel=1e-3)


@pytest.mark.parametrize("options", [{"set_alpha_to_one": True}, {"timestep_spacing": "linspace"}])
def test_a_last_step_without_noise_is_taken_and_not_rated(options):
    schedule = DDIM().schedule(model_of(scheduler(**options)), 10)
    assert schedule.rated == list(range(9))
    assert schedule.std[-1] == 0 and torch.isfinite(schedule.latents_coef).all()


def test_without_eta_no_step_is_rated():
    sampler = DDIM(eta=0)
    assert not sampler.has_log_prob
    assert sampler.schedule(model_of(scheduler()), 10).rated == []


def test_zero_terminal_snr_is_refused_where_the_schedule_starts_there():
    model = model_of(scheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"))
    with pytest.raises(UsageError, match="zero signal"):
        DDIM().schedule(model, 10)
    assert torch.isfinite(DDIM(spacing="leading").schedule(model, 10).noise_coef).all()


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_a_number_of_steps_the_model_does_not_have_is_refused(num_steps):
    with pytest.raises(UsageError, match=f"got {num_steps}"):
        DDIM().schedule(model_of(scheduler()), num_steps)


def test_an_offset_beyond_the_last_timestep_is_refused():
    with pytest.raises(UsageError, match="begin at timestep 1000"):
        DDIM().schedule(model_of(scheduler()), 1000)
