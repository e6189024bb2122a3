"""The contract of a sampler, as a check for its author's tests; and what it makes of Gaussian pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpo_core.denoising import GaussianStep, Policy
from ddpo_core.errors import UsageError
from ddpo_core.info import SamplerInfo
from ddpo_core.processes import Diffusion, Flow, Process
from ddpo_core.protocols import Sampler
from ddpo_core.rollout import Noise, denoise
from ddpo_core.testing.care import TOLERANCE, random_state_kept
from ddpo_core.testing.denoisers import GaussianDenoiser, ToyDenoiser, stable_diffusions_process
from ddpo_core.testing.examples import example_prompts
from ddpo_core.types import Schedule


def check_sampler(sampler: Sampler, info: SamplerInfo | None = None, *, num_steps: int = 8) -> None:
    """Hold a sampler to its contract on a model of each path that it declares (without `info`: takes).

    A schedule of finite numbers that goes from noise to picture; steps that can be drawn and rated by the
    same arithmetic, one by one as in a batch, exactly where the schedule says so; a gradient to the network's
    answer; no randomness of its own. A model of a path that it does not declare is refused with a
    `UsageError`. Raises `AssertionError` that says what is broken.
    """
    name = f"sampler {info.name!r}" if info else f"the sampler {type(sampler).__name__}"
    taken = 0
    for process in (stable_diffusions_process(), Flow(shift=3.0)):
        denoiser = ToyDenoiser((2, 4, 3), process=process)  # no two sides alike
        try:
            schedules = [sampler.schedule(denoiser, steps) for steps in (1, num_steps)]
        except UsageError:
            assert info is None or process.path not in info.paths, (
                f"{name} declares to take {process.path} models, and refuses one"
            )
            continue
        assert info is None or process.path in info.paths, (
            f"{name} declares only {' and '.join(info.paths)} models; it expects to refuse a {process.path}"
            " model with a UsageError"
        )
        taken += 1
        for schedule, steps in zip(schedules, (1, num_steps), strict=True):
            _check_schedule(name, schedule, steps, process)
        policy = Policy(denoiser, sampler, schedules[1], guidance_scale=1.0)
        assert sampler.has_log_prob == bool(schedules[1].rated), (
            f"{name} says has_log_prob={sampler.has_log_prob}, and {len(schedules[1].rated)} of its"
            f" {num_steps} steps have a standard deviation above 0"
        )
        with random_state_kept(name):
            if not policy.looks_back:
                _check_steps(name, policy)
            _check_walk(name, policy)
    assert taken, f"{name} takes neither diffusion nor flow models"


def _check_schedule(name: str, schedule: Schedule, num_steps: int, process: Process) -> None:
    """Of so many steps, with finite numbers, on timesteps of the model that fall from noise to picture."""
    timesteps = schedule.timesteps
    assert timesteps.shape == (num_steps,), (
        f"{name} expects a schedule of {num_steps} timesteps, got the shape {tuple(timesteps.shape)}"
    )
    if isinstance(process, Diffusion):
        kind, lowest, highest = torch.int64, 0, len(process.alphas_cumprod) - 1
    else:
        kind, lowest, highest = torch.float32, 0, process.num_train_timesteps
    assert timesteps.dtype == kind, (
        f"{name} expects timesteps of {kind} for a {process.path} model, got {timesteps.dtype}"
    )
    assert bool((timesteps[1:] < timesteps[:-1]).all()), (
        f"{name} expects timesteps that fall, got {timesteps}"
    )
    assert lowest <= timesteps.min() and timesteps.max() <= highest, (
        f"{name} expects timesteps from {lowest} to {highest}, got {timesteps}"
    )
    for table in ("latents_coef", "noise_coef", "std"):
        values: Tensor = getattr(schedule, table)
        assert values.dtype == torch.float32 and len(values) == num_steps, (
            f"{name} expects {table} of float32 for {num_steps} steps, got {values.dtype} of shape"
            f" {tuple(values.shape)}"
        )
        assert bool(values.isfinite().all()), f"{name} expects finite {table}, got {values}"
    assert bool((schedule.std >= 0).all()), f"{name} expects std of at least 0, got {schedule.std}"


def _check_steps(name: str, policy: Policy) -> None:
    """Each step by itself: its shape, what is rated, its gradient; and in a batch of different steps."""
    denoiser, schedule = policy.denoiser, policy.schedule
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(schedule.num_steps)
    latents, noise_pred, noise = torch.randn(3, len(steps), *denoiser.latent_shape, generator=generator)
    together = GaussianStep(*policy.sampler.step(schedule, steps, latents, noise_pred))
    for t in range(schedule.num_steps):
        row = slice(t, t + 1)
        answer = noise_pred[row].clone().requires_grad_()
        step = GaussianStep(*policy.sampler.step(schedule, steps[row], latents[row], answer))
        assert step.mean.shape == latents[row].shape, (
            f"{name} expects a mean of shape {tuple(latents[row].shape)}, got {tuple(step.mean.shape)}"
        )
        assert step.std.shape in ((1, 1, 1, 1), latents[row].shape), (
            f"{name} expects a standard deviation of shape (1, 1, 1, 1) or {tuple(latents[row].shape)},"
            f" got {tuple(step.std.shape)}"
        )
        assert step.mean.requires_grad, f"{name} expects to pass a gradient to noise_pred; step {t} has none"
        rated = t in schedule.rated
        assert bool((step.std > 0).all() if rated else (step.std == 0).all()), (
            f"{name}: step {t} is {'' if rated else 'not '}rated by its schedule, and its standard deviation"
            f" is {sorted(set(step.std.flatten().tolist()))}"
        )
        for part, batched in ((step.mean, together.mean), (step.std, together.std)):
            worst = (part - batched[row]).abs().max().item()
            assert worst <= TOLERANCE, f"{name}: step {t} alone differs by {worst:g} from step {t} in a batch"
        if rated:
            drawn = step.draw(noise[row])
            _check_rating(name, t, step.log_prob(drawn), together.log_prob(together.draw(noise))[row])


def _check_rating(name: str, t: int, log_prob: Tensor, again: Tensor) -> None:
    """A step that was drawn has a finite log-prob, and has it again: the ratio is 1."""
    assert bool(log_prob.isfinite().all()), f"{name}: step {t} rates itself with {log_prob.tolist()}"
    ratio_error = (log_prob - again).expm1().abs().max().item()
    assert ratio_error <= 1e-5, f"{name}: rated again, step {t} has a ratio of 1 ± {ratio_error:.2g}"


@torch.no_grad()
def _check_walk(name: str, policy: Policy) -> None:
    """From noise to picture, twice the same; every rated step of the walk is rated again with ratio 1."""
    denoiser = policy.denoiser
    conditioning = denoiser.encode([prompt.text for prompt in example_prompts()[:2]])
    first, second = (
        denoise(policy, conditioning, Noise([1, 2], denoiser.latent_shape, denoiser.device)) for _ in range(2)
    )
    assert torch.equal(first.latents[-1], second.latents[-1]), (
        f"{name} is not deterministic: from the same noise it makes two different pictures"
    )
    assert bool(torch.stack(first.latents).isfinite().all()), f"{name} makes latents that are not finite"
    for t in policy.schedule.rated:
        step = policy.step(torch.full((2,), t), first.latents[t], conditioning)
        _check_rating(name, t, first.log_probs[t], step.log_prob(first.latents[t + 1]))


@torch.no_grad()
def marginals(sampler: Sampler, denoiser: GaussianDenoiser, num_steps: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [T + 1, c, h, w] of the latents at every step: exact, nothing is drawn.

    The network's answer is affine in x_t, and so is every step: a Gaussian stays one. It starts as what x_t
    is at the first timestep, N(signal·mean, (signal·std)² + noise²). Slopes are read off two walks that begin
    1 apart.
    """
    policy = Policy(denoiser, sampler, sampler.schedule(denoiser, num_steps), guidance_scale=1.0)
    conditioning = {name: tensor.expand(2, -1, -1) for name, tensor in denoiser.encode([""]).items()}
    signal, noise = denoiser.process.scales(policy.schedule.timesteps[:1])
    mean, std = signal * denoiser.mean, ((signal * denoiser.std).square() + noise.square()).sqrt()
    if policy.looks_back:
        start = torch.stack([mean, mean + 1])
        walk = torch.stack(
            denoise(policy, conditioning, Noise([], (), denoiser.device), latents=start).latents
        )
        return walk[:, 0], std * (walk[:, 1] - walk[:, 0]).abs()
    means, stds = [mean], [std]
    for t in range(num_steps):
        step = policy.step(torch.full((2,), t), torch.stack([means[-1], means[-1] + 1]), conditioning)
        slope = step.mean[1] - step.mean[0]
        means.append(step.mean[0])
        stds.append(((slope * stds[-1]).square() + step.std[0].square()).sqrt())
    return torch.stack(means), torch.stack(stds)
