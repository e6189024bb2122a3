import numpy as np
import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.estimators.awm import AdvantageWeightedMatching
from ddpo_core.estimators.forward import noise_and_uniform
from ddpo_core.estimators.nft import NegativeAware
from ddpo_core.info import RewardInfo
from ddpo_core.losses import negative_aware_loss, optimality, self_normalised_error
from ddpo_core.processes import Flow, noised
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.rollout import rollout, sample_seeds
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, judged_of
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Prompt, Schedule

T = 4


class Euler:
    """Straight steps of a flow, without noise."""

    has_log_prob = False

    def schedule(self, denoiser, num_steps):
        sigmas = torch.linspace(1, 0, num_steps + 1)
        return Schedule(1000 * sigmas[:-1], torch.ones(num_steps), sigmas.diff(), torch.zeros(num_steps))

    def step(self, schedule, steps, latents, noise_pred):
        coef = schedule.noise_coef[steps].view(-1, 1, 1, 1)
        return latents + coef * noise_pred, torch.zeros(len(latents), 1, 1, 1)


def make_policy(kind, guidance_scale=1.0):
    """A toy diffusion model with DDIM's ODE, or a toy flow."""
    denoiser = ToyDenoiser(process=Flow() if kind == "flow" else None)
    sampler = Euler() if kind == "flow" else DDIM(eta=0)
    return Policy(denoiser, sampler, sampler.schedule(denoiser, T), guidance_scale)


@pytest.fixture(params=["diffusion", "flow"])
def policy(request):
    return make_policy(request.param)


def judge(policy, count=6):
    seeds = sample_seeds(0, 1, range(count))
    prompts = [Prompt(f"prompt {index}") for index in range(count)]
    trajectory = rollout(policy, prompts, seeds, keep_steps=False)
    advantages = torch.linspace(-7, 6, count)
    return judged_of(trajectory, advantages, {"r": advantages.double().numpy()}, seeds)


def gradient(policy, estimator, updates):
    """The gradient of all weights, added up over the minibatches of all updates."""
    policy.denoiser.network.zero_grad()
    for update in updates:
        for minibatch in update:
            (estimator.loss(policy, minibatch).value * minibatch.weight).backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.denoiser.trainable_parameters()])


def updates_of(estimator, policy, judged, num_updates=1, batch_size=6):
    return estimator.updates(policy, judged, num_updates=num_updates, batch_size=batch_size)


# ---- formulas ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "good"), [(0.0, 0.5), (1.0, 0.6), (5.0, 1.0), (9.0, 1.0), (-2.5, 0.25), (-8.0, 0.0)]
)
def test_a_sample_is_good_with_a_probability_that_rises_with_its_advantage(advantage, good):
    assert optimality(torch.tensor([advantage]), 5.0).item() == pytest.approx(good)


def test_the_self_normalised_error_is_the_mean_square_over_the_mean_size():
    prediction = torch.tensor([[[[3.0, -1.0]]]], requires_grad=True)
    error = self_normalised_error(prediction, torch.zeros(1, 1, 1, 2))
    assert error.item() == pytest.approx(5 / 2)
    error.sum().backward()  # no gradient through the size: d/dx of mean(x²) over 2 is x / 2
    assert prediction.grad.flatten().tolist() == pytest.approx([1.5, -0.5])


def test_the_optimum_is_the_old_velocity_plus_two_over_beta_times_the_direction():
    """Eq. 6 by hand: v is 0 or 1, r is 1/4 or 1, v_old = β = 1/2: Δ = E[r (v − v_old)] = 3/16 gives 5/4."""
    target, good, old, beta = torch.tensor([0.0, 1.0]), torch.tensor([0.25, 1.0]), 0.5, 0.5
    velocity = torch.tensor(1.25, requires_grad=True)
    positive = ((1 - beta) * old + beta * velocity - target).square()
    negative = ((1 + beta) * old - beta * velocity - target).square()
    negative_aware_loss(positive, negative, good, beta).mean().backward()
    assert velocity.grad.item() == pytest.approx(0, abs=1e-6)


# ---- the estimator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_first_gradient_is_the_clipped_advantage_times_that_of_the_denoising_error(policy, beta):
    estimator, judged = NegativeAware(beta=beta), judge(policy)
    got = gradient(policy, estimator, updates_of(estimator, policy, judged))

    process, clean = policy.denoiser.process, judged.trajectory.latents[:, -1]
    policy.denoiser.network.zero_grad()
    steps = estimator.forward.choice.pick(range(T), judged.seeds, epoch=1, inner_epoch=0)
    for look in range(T):
        noise, _ = noise_and_uniform(judged.seeds, clean.shape[1:], look, policy.denoiser.device)
        timesteps = policy.schedule.timesteps[steps[:, look]]
        latents = noised(process, clean, noise, timesteps)
        noise_pred = policy.denoiser.noise_pred(latents, timesteps, judged.trajectory.conditioning)
        errors = self_normalised_error(process.clean(latents, noise_pred, timesteps), clean)
        ((judged.advantages / 5).clamp(-1, 1) * errors).mean().div(T).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in policy.denoiser.trainable_parameters()])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_after_an_update_is_the_closed_form(policy):
    """The toy's ∂v/∂gain is x_t, and ∂x̂0/∂v is −noise/signal or, of a flow, −σ."""
    beta = 0.5
    estimator, judged = NegativeAware(beta=beta), judge(policy)
    ((minibatch, *_),) = updates_of(estimator, policy, judged)
    network, process = policy.denoiser.network, policy.denoiser.process
    with torch.no_grad():
        network.gain += 0.1
        v = policy.noise_pred(minibatch.latents, minibatch.timesteps, minibatch.conditioning)
    estimator.loss(policy, minibatch).value.backward()

    signal, noise = process.scales(minibatch.timesteps)
    slope = -noise / signal if process.path == "diffusion" else -noise
    good, expected = optimality(minibatch.advantage, 5.0), 0.0
    for sign, probability in ((1, good), (-1, 1 - good)):
        implied = (1 - sign * beta) * minibatch.old + sign * beta * v
        error = (process.clean(minibatch.latents, implied, minibatch.timesteps) - minibatch.clean).flatten(1)
        pull = 2 * error / error.abs().mean(1, keepdim=True) * minibatch.latents.flatten(1)
        expected += (sign * probability * slope * pull.mean(1)).mean()
    assert network.gain.grad.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_old_prediction_is_that_of_the_weights_that_sampled_in_every_update(policy):
    estimator, judged = NegativeAware(inner_epochs=2), judge(policy)
    updates = updates_of(estimator, policy, judged, num_updates=2, batch_size=3)
    next(next(updates))
    sampled_with = policy.denoiser.trainable_state()
    with torch.no_grad():
        policy.denoiser.network.gain += 1.0
    rest = [minibatch for update in updates for minibatch in update]
    assert len(rest) == 3 * T
    policy.denoiser.load_trainable_state(sampled_with)
    for minibatch in rest:
        expected = policy.noise_pred(minibatch.latents, minibatch.timesteps, minibatch.conditioning)
        torch.testing.assert_close(minibatch.old, expected)


@pytest.mark.parametrize("timesteps", ["schedule", "uniform"])
def test_the_gradient_does_not_depend_on_the_batch_size(policy, timesteps):
    estimator, judged = NegativeAware(timesteps=timesteps, timestep_count=3), judge(policy)
    whole = gradient(policy, estimator, updates_of(estimator, policy, judged, batch_size=6))
    for size in (1, 4):
        parts = gradient(policy, estimator, updates_of(estimator, policy, judged, batch_size=size))
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_guidance_is_that_of_sampling_unless_the_prompts_own_prediction_is_asked_for():
    policy = make_policy("diffusion", guidance_scale=3.0)
    judged = judge(policy)
    ((guided, *_),) = updates_of(NegativeAware(), policy, judged)
    ((alone, *_),) = updates_of(NegativeAware(guided=False), policy, judged)
    asked = (guided.latents, guided.timesteps, guided.conditioning)
    torch.testing.assert_close(guided.old, policy.noise_pred(*asked))
    torch.testing.assert_close(alone.old, policy.denoiser.noise_pred(*asked))
    assert not torch.allclose(guided.old, alone.old)


def test_uniform_timesteps_come_one_from_each_part_of_the_process(policy):
    estimator, judged = NegativeAware(timesteps="uniform", timestep_count=4), judge(policy, 50)
    looks = estimator.forward.looks(policy, judged, 0)
    assert looks.timesteps.shape == (50, 4) and looks.steps is None
    number = looks.timesteps / 1000
    parts = (4 * (1 - number if policy.denoiser.process.path == "flow" else number) + 1e-6).floor()
    assert (parts == torch.arange(4)).all()
    assert len(looks.timesteps.unique()) > 100
    again = estimator.forward.looks(policy, judged, 1)
    assert again.first_draw == 4 and not torch.equal(again.timesteps, looks.timesteps)


def test_the_penalty_is_zero_at_the_start_and_pulls_back_later(policy):
    estimator, judged = NegativeAware(kl_weight=2.0), judge(policy)
    assert estimator.needs == {"untrained"} and NegativeAware().needs == frozenset()
    ((minibatch, *_),) = updates_of(estimator, policy, judged)
    assert estimator.loss(policy, minibatch).diagnostics["kl"] == 0
    with torch.no_grad():
        policy.denoiser.network.drift += 0.5  # the prediction moves by 0.5 · t / 1000
    kl = estimator.loss(policy, minibatch).diagnostics["kl"].item()
    moved = 0.5 * minibatch.timesteps.float() / 1000
    assert kl == pytest.approx(moved.square().mean().item(), rel=1e-4)
    plain = NegativeAware().loss(policy, minibatch).value
    assert estimator.loss(policy, minibatch).value.item() == pytest.approx(plain.item() + 2 * kl, rel=1e-5)


def test_wrong_options_are_refused():
    with pytest.raises(UsageError, match="expected schedule or uniform, got 'all'"):
        NegativeAware(timesteps="all")
    with pytest.raises(UsageError, match="choose among the steps of the schedule"):
        NegativeAware(timesteps="uniform", window=2)


def test_samples_that_no_reward_tells_apart_leave_the_weights_alone(policy):
    judged = judge(policy)
    judged = judged_of(judged.trajectory, torch.zeros(6), {"r": np.zeros(6)}, judged.seeds)
    estimator = NegativeAware()
    assert gradient(policy, estimator, updates_of(estimator, policy, judged)).abs().max() < 1e-6


def brighten(estimator, epochs=8):
    """The mean brightness of the toy's pictures, epoch by epoch, sampled by an ODE."""
    info = RewardInfo(name="bright", summary="", factory="")
    objective = Objective([Term("bright", 1.0, lambda images, prompts: images.mean((1, 2, 3)), info)])
    settings = Settings(
        epochs=epochs,
        samples_per_epoch=32,
        sample_batch_size=32,
        train_batch_size=32,
        updates_per_epoch=2,
        num_steps=T,
        guidance_scale=1.0,
        learning_rate=0.02,
    )
    rounds = train(
        denoiser=ToyDenoiser(),
        sampler=DDIM(eta=0),
        estimator=estimator,
        tasks=[Task(PromptStream([Prompt("a cat"), Prompt("a dog")], seed=0), objective)],
        settings=settings,
    )
    shapes, means = set(), []
    for epoch in rounds:
        shapes.add(tuple(epoch.rounds[0].judged.trajectory.latents.shape))
        means.append(epoch.metrics["reward/bright/mean"])
    assert shapes == {(32, 1, 1, 4, 4)}  # no trajectory was kept
    return means


@pytest.mark.parametrize("estimator", [NegativeAware(beta=0.1), AdvantageWeightedMatching()])
def test_training_with_an_ode_raises_a_reward(estimator):
    means = brighten(estimator)
    assert means[-1] > means[0] + 0.1  # standard errors are 0.014


def test_a_penalty_without_a_model_to_compare_with_is_refused_before_anything_is_sampled():
    class Whole(ToyDenoiser):
        def untrained(self):
            raise UsageError("the model before training is only at hand with a LoRA")

        def noise_pred(self, *_):
            raise AssertionError("sampled")

    info = RewardInfo(name="bright", summary="", factory="")
    objective = Objective([Term("bright", 1.0, lambda images, prompts: images.mean((1, 2, 3)), info)])
    task = Task(PromptStream([Prompt("a cat")], seed=0), objective)
    parts = {"denoiser": Whole(), "sampler": DDIM(), "tasks": [task], "settings": Settings(num_steps=T)}
    with pytest.raises(UsageError, match="only at hand with a LoRA"):
        next(train(estimator=NegativeAware(kl_weight=0.1), **parts))
    with pytest.raises(AssertionError, match="sampled"):
        next(train(estimator=NegativeAware(), **parts))
