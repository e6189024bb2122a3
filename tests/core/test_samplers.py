"""Every sampler in one test: it rates its own steps, and where pictures are Gaussian it makes those pictures.

On a Gaussian toy the best network is known, each step is affine, and the marginals follow exactly. Orders of
convergence are those of the methods: 1 for DDIM, DDPM and Euler, 2 for DPM-Solver++(2M).
"""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddpo_core.discovery import Registry
from ddpo_core.errors import UsageError
from ddpo_core.processes import Diffusion, Flow
from ddpo_core.samplers.affine import tabulated
from ddpo_core.samplers.paths import SAMPLERS, flow_steps
from ddpo_core.testing import GaussianDenoiser, ToyDenoiser, check_sampler, marginals

SHIPPED = Registry.of()
INFOS = {info.name: info for info in SHIPPED.infos("sampler")}
SPREADS = torch.tensor([0.3, 0.7, 1.0, 1.5, 2.0]).view(1, 1, 5)

N = 2**14
# √ᾱ and √(1 − ᾱ) are cosine and sine of an angle, which falls to 0 in equal steps: nothing is singular
COSINE = Diffusion(
    torch.cos(torch.pi / 2 * 0.95 * torch.arange(1, N + 1, dtype=torch.float64) / N) ** 2,
    final_alpha_cumprod=1.0,
    timestep_spacing="trailing",
)


def process_of(path):
    return COSINE if path == "diffusion" else Flow()


def sampler_of(spec):
    return SHIPPED.build("sampler", spec)


def spread_error(sampler, process, num_steps):
    """How far the pictures' standard deviations are from the true ones, at most."""
    denoiser = GaussianDenoiser(0.5, SPREADS, process, latent_shape=(1, 1, 5))
    return (marginals(sampler, denoiser, num_steps)[1][-1] - denoiser.std).abs().max().item()


def order(errors):
    """The p of an error ~ T^−p, by least squares, for errors at T, 2T, 4T, …"""
    logs = [-math.log2(error) for error in errors]
    middle = (len(logs) - 1) / 2
    return sum((i - middle) * log for i, log in enumerate(logs)) / sum(
        (i - middle) ** 2 for i in range(len(logs))
    )


# ---- the contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        *INFOS,
        "ddim,eta=0.3",
        "ddim,eta=0",
        "ddim,spacing=trailing",
        "ddim-tilted,eta=0.5,tilt=-0.9",
        "ddpm,variance=fixed_large",
        "flow-sde,noise_level=0",
        "flow-sde,spacing=linspace",
        "cps,noise_level=1",
        "cps,noise_level=0",
    ],
)
def test_every_shipped_sampler_keeps_the_contract(spec):
    name = spec.partition(",")[0]
    check_sampler(sampler_of(spec), INFOS[name])


@pytest.mark.parametrize("name", INFOS)
def test_what_a_sampler_declares_of_its_log_prob_is_so(name):
    assert sampler_of(name).has_log_prob == INFOS[name].has_log_prob


@pytest.mark.parametrize("path", SAMPLERS)
def test_the_samplers_that_an_error_names_are_those_of_that_path(path):
    assert set(SAMPLERS[path]) == {name for name, info in INFOS.items() if path in info.paths}


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name in INFOS for path in SAMPLERS if path not in INFOS[name].paths]
)
def test_a_model_of_the_other_path_is_refused_with_the_samplers_it_can_have(name, path):
    with pytest.raises(UsageError) as caught:
        sampler_of(name).schedule(ToyDenoiser(process=process_of(path)), 8)
    assert f"{name}: expected" in str(caught.value) and f"got a {path} model" in str(caught.value)
    assert all(fitting in str(caught.value.hint) for fitting in SAMPLERS[path])


def test_the_page_on_samplers_says_what_samplers_and_estimators_declare():
    folder = Path(__file__).parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("samplers_page", folder / "samplers.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (folder / "samplers.md").read_text()
    assert page == script.written(page, SHIPPED), "write its tables anew: python docs/samplers.py"


class Good:
    """Half of what is there stays, and half of the answer is taken off, with noise."""

    has_log_prob = True
    tables = (0.5, -0.5, 0.1)

    def schedule(self, denoiser, num_steps):
        if denoiser.process.path == "flow":
            raise UsageError("diffusion only")
        timesteps = torch.arange(num_steps).flip(0)
        tables = (torch.full((num_steps,), value, dtype=torch.float64) for value in self.tables)
        return tabulated(timesteps, *tables, denoiser.device)

    def step(self, schedule, steps, latents, noise_pred):
        latents_coef, noise_coef, std = (value for value in self.tables)
        return latents_coef * latents + noise_coef * noise_pred, torch.full((len(steps), 1, 1, 1), std)


def bad(**members):
    return type("Bad", (Good,), members)()


def rising(self, denoiser, num_steps):
    schedule = Good().schedule(denoiser, num_steps)
    return tabulated(
        schedule.timesteps.flip(0), schedule.latents_coef, schedule.noise_coef, schedule.std, denoiser.device
    )


def drawing_its_own_noise(self, schedule, steps, latents, noise_pred):
    mean, std = Good().step(schedule, steps, latents, noise_pred)
    return mean + torch.randn_like(mean), std


def mixing_the_batch(self, schedule, steps, latents, noise_pred):
    mean, std = Good().step(schedule, steps, latents, noise_pred)
    return mean - noise_pred.mean(0), std


def test_a_good_sampler_passes():
    check_sampler(Good())


@pytest.mark.parametrize(
    ("sampler", "complaint"),
    [
        (bad(has_log_prob=False), "has_log_prob=False"),
        (bad(tables=(0.5, -0.5, 0.0)), "has_log_prob=True, and 0 of its"),
        (bad(tables=(0.5, math.inf, 0.1)), "finite noise_coef"),
        (bad(tables=(0.5, -0.5, -0.1)), "std of at least 0"),
        (bad(schedule=rising), "timesteps that fall"),
        (bad(schedule=lambda self, denoiser, steps: Good().schedule(denoiser, steps + 1)), "schedule of 1"),
        (
            bad(step=lambda self, s, t, x, e: (Good().step(s, t, x, e)[0], torch.zeros(len(t), 1, 1, 1))),
            "rated",
        ),
        (bad(step=lambda self, s, t, x, e: Good().step(s, t, x, e.detach())), "gradient"),
        (bad(step=lambda self, s, t, x, e: (x.flatten(1), x)), "a mean of shape"),
        (bad(step=drawing_its_own_noise), "alone differs|global random state"),
        (bad(step=mixing_the_batch), "alone differs"),
    ],
)
def test_each_kind_of_bad_sampler_is_caught(sampler, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_sampler(sampler)


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [(("flow",), "declares only flow models"), (("diffusion", "flow"), "to take flow models, and refuses")],
)
def test_a_sampler_that_takes_other_models_than_it_declares_is_caught(paths, complaint):
    info = SimpleNamespace(name="good", paths=paths)
    with pytest.raises(AssertionError, match=complaint):
        check_sampler(Good(), info)


# ---- marginals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "path", "expected", "tolerance"),
    [
        ("ddim,eta=0", "diffusion", 1, 0.05),
        ("ddim,eta=1", "diffusion", 1, 0.1),
        ("ddim-tilted", "diffusion", 1, 0.1),
        ("ddpm", "diffusion", 1, 0.1),
        ("ddpm,variance=fixed_large", "diffusion", 1, 0.05),
        ("flow-ode", "flow", 1, 0.05),
        ("dpm++", "diffusion", 2, 0.25),
        ("dpm++", "flow", 2, 0.35),  # a logarithm of T from where λ = log(α/σ) is infinite
    ],
)
def test_marginals_come_near_the_true_ones_at_the_methods_order(spec, path, expected, tolerance):
    errors = [spread_error(sampler_of(spec), process_of(path), num_steps) for num_steps in (16, 32, 64, 128)]
    assert order(errors) == pytest.approx(expected, abs=tolerance), errors
    assert errors[-1] < (0.04 if expected == 1 else 0.002)


@pytest.mark.parametrize("name", INFOS)
def test_the_mean_of_the_pictures_is_exact_with_any_number_of_steps(name):
    # every kernel carries signal·mean to signal'·mean, as x̂0 and ε are exact there
    for path in INFOS[name].paths:
        for num_steps in (1, 5, 20):
            denoiser = GaussianDenoiser(-0.8, 0.5, process_of(path))
            means, _ = marginals(sampler_of(name), denoiser, num_steps)
            torch.testing.assert_close(means[-1], denoiser.mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "spec",
    [
        "ddim,eta=0",
        "ddim,eta=0.5",
        "ddim,eta=1",
        "ddim-tilted",
        "ddim-tilted,eta=0.5,tilt=-0.9",
        "ddpm",
        "cps,noise_level=0.3",
        "cps,noise_level=1",
        "flow-ode",
        "dpm++",
    ],
)
def test_with_one_picture_in_the_world_no_step_leaves_more_or_less_noise_than_the_model_expects(spec):
    # then x̂0 is that picture and ε̂ the noise: mean and spread must be those of the process at every step
    for path in INFOS[spec.partition(",")[0]].paths:
        process = process_of(path)
        denoiser = GaussianDenoiser(0.7, 1e-4, process, latent_shape=(1, 3, 2))
        sampler = sampler_of(spec)
        _, stds = marginals(sampler, denoiser, 10)
        _, noise = process.scales(sampler.schedule(denoiser, 10).timesteps)
        expected = noise.view(-1, 1, 1, 1).expand_as(stds[:-1])
        torch.testing.assert_close(stds[:-1], expected, atol=2e-4, rtol=1e-3)
        assert stds[-1].max() <= 2e-4


# ---- the steps of a flow -----------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 28])
def test_flow_steps_spaced_linspace_are_those_of_diffusers(shift, num_steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(num_steps)
    ours = flow_steps("flow-ode", ToyDenoiser(process=Flow(shift=shift)), num_steps, "linspace")
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, atol=1e-4, rtol=1e-6)
    sigmas = torch.cat([ours.sigma, ours.sigma_next[-1:]]).float()
    torch.testing.assert_close(sigmas, theirs.sigmas, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 28])
def test_flow_steps_spaced_trailing_are_those_of_diffusers_given_equal_parts(shift, num_steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=[1 - k / num_steps for k in range(num_steps)])  # as FLUX.1's pipeline does
    ours = flow_steps("flow-ode", ToyDenoiser(process=Flow(shift=shift)), num_steps, "trailing")
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, atol=1e-4, rtol=1e-6)
    sigmas = torch.cat([ours.sigma, ours.sigma_next[-1:]]).float()
    torch.testing.assert_close(sigmas, theirs.sigmas, atol=1e-7, rtol=1e-6)


def test_flow_steps_are_spaced_as_the_model_is_used_to():
    sigmas = {
        spacing: flow_steps("flow-ode", ToyDenoiser(process=Flow(timestep_spacing=spacing)), 4).sigma.tolist()
        for spacing in ("trailing", "linspace")
    }
    assert sigmas["trailing"] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert sigmas["linspace"] == pytest.approx([1, 0.667, 0.334, 0.001])


@pytest.mark.parametrize(
    ("num_steps", "spacing", "complaint"), [(0, "trailing", "got 0"), (4, "leading", "got 'leading'")]
)
def test_steps_that_a_flow_does_not_have_are_refused(num_steps, spacing, complaint):
    with pytest.raises(UsageError, match=complaint):
        flow_steps("flow-ode", ToyDenoiser(process=Flow()), num_steps, spacing)


def test_euler_steps_equal_diffusers_own():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(6)
    sampler = sampler_of("flow-ode,spacing=linspace")
    schedule = sampler.schedule(ToyDenoiser(process=Flow(shift=3.0)), 6)
    generator = torch.Generator().manual_seed(0)
    for t, timestep in enumerate(theirs.timesteps):
        latents, noise_pred = torch.randn(2, 2, 4, 3, 3, generator=generator)
        mean, std = sampler.step(schedule, torch.full((2,), t), latents, noise_pred)
        expected = theirs.step(noise_pred, timestep, latents).prev_sample
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
        assert (std == 0).all()
