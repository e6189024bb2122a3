"""DPM-Solver++(2M) is diffusers', with the same timesteps, on both paths."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion, Flow
from ddpo_core.rollout import Noise, denoise
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.samplers.dpm import DPMSolver
from ddpo_core.samplers.flow_ode import FlowODE
from ddpo_core.testing import ToyDenoiser

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def walk(sampler, denoiser, num_steps, **start):
    """All latents [T + 1, …] from a seed of its own."""
    policy = Policy(denoiser, sampler, sampler.schedule(denoiser, num_steps), guidance_scale=1.0)
    noise = Noise([1, 2], denoiser.latent_shape, denoiser.device)
    return torch.stack(denoise(policy, denoiser.encode(["a cat", "a dog"]), noise, **start).latents).detach()


def their_walk(theirs, denoiser, latents):
    conditioning = denoiser.encode(["a cat", "a dog"])
    latents = [latents]
    for timestep in theirs.timesteps:
        noise_pred = denoiser.noise_pred(latents[-1], timestep.expand(2), conditioning).detach()
        latents.append(theirs.step(noise_pred, timestep, latents[-1]).prev_sample)
    return torch.stack(latents)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 14, 15, 30])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_a_walk_on_a_diffusion_model_equals_diffusers_own(spacing, num_steps, final):
    theirs = DPMSolverMultistepScheduler(**BETAS, final_sigmas_type=final)
    alphas_cumprod = theirs.alphas_cumprod.double()
    final_alpha_cumprod = 1.0 if final == "zero" else float(alphas_cumprod[0])
    denoiser = ToyDenoiser(process=Diffusion(alphas_cumprod, final_alpha_cumprod, 1, spacing))
    schedule = DPMSolver().schedule(denoiser, num_steps)
    theirs.set_timesteps(timesteps=schedule.timesteps.tolist())
    ours = walk(DPMSolver(), denoiser, num_steps)
    torch.testing.assert_close(ours, their_walk(theirs, denoiser, ours[0]), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 30])
def test_a_walk_on_a_flow_model_equals_diffusers_own(shift, num_steps):
    theirs = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    denoiser = ToyDenoiser(process=Flow(shift=shift))
    timesteps = DPMSolver().schedule(denoiser, num_steps).timesteps
    theirs.set_timesteps(num_steps)  # from 0.999; ours go from 1 as the model's own do
    theirs.timesteps, theirs.sigmas = timesteps, torch.cat([timesteps / 1000, torch.zeros(1)])
    ours = walk(DPMSolver(), denoiser, num_steps)
    torch.testing.assert_close(ours, their_walk(theirs, denoiser, ours[0]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("process", "first_order"), [(None, DDIM(eta=0)), (Flow(shift=3.0), FlowODE())], ids=["diffusion", "flow"]
)
def test_its_first_step_wherever_it_begins_is_one_of_first_order(process, first_order):
    denoiser = ToyDenoiser(process=process)
    start = walk(first_order, denoiser, 20)[7]
    ours, plain = (
        walk(sampler, denoiser, 20, latents=start, first=7) for sampler in (DPMSolver(), first_order)
    )
    torch.testing.assert_close(ours[1], plain[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours[2], plain[2], atol=1e-5)  # from then on it looks back


def test_a_gradient_passes_through_the_whole_walk():
    denoiser = ToyDenoiser()
    policy = Policy(denoiser, DPMSolver(), DPMSolver().schedule(denoiser, 6), guidance_scale=1.0)
    noise = Noise([1], denoiser.latent_shape, denoiser.device)
    denoise(policy, denoiser.encode(["a cat"]), noise).latents[-1].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in denoiser.trainable_parameters())


def test_no_step_is_rated():
    schedule = DPMSolver().schedule(ToyDenoiser(), 10)
    assert schedule.rated == [] and not DPMSolver.has_log_prob


def test_a_flow_has_no_leading_steps():
    with pytest.raises(UsageError, match="got 'leading'"):
        DPMSolver(spacing="leading").schedule(ToyDenoiser(process=Flow()), 10)
