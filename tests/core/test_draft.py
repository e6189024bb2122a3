import numpy as np
import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.estimators.draft import BackPropagation
from ddpo_core.estimators.forward import noise_and_uniform
from ddpo_core.info import RewardInfo
from ddpo_core.mixing import MIXERS
from ddpo_core.processes import noised
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.rollout import Noise, denoise, rollout, sample_seeds
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, judged_of
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Prompt

T = 4


def make_policy(eta):
    # trailing: the last step has noise to take away; at timestep 1 a weight would move next to nothing
    denoiser, sampler = ToyDenoiser(), DDIM(eta=eta, spacing="trailing")
    return Policy(denoiser, sampler, sampler.schedule(denoiser, T), 2.0)


@pytest.fixture
def policy():
    """A chain without noise: the reward is a function of the weights alone."""
    return make_policy(0.0)


def brightness(images, prompts):
    """Brightness squared, so that its slope depends on the picture, and more where the prompt is longer."""
    lengths = torch.tensor([float(len(prompt.text)) for prompt in prompts])
    return lengths * images.mean((1, 2, 3)).square()


def judge(policy, count=4, reward=brightness):
    seeds = sample_seeds(0, 1, range(count))
    prompts = [Prompt("a cat" + index * "!") for index in range(count)]
    trajectory = rollout(policy, prompts, seeds)
    values = reward(trajectory.images, prompts)
    return judged_of(trajectory, values, {"r": values.double().numpy()}, seeds, differentiable=reward)


def updates_of(estimator, policy, judged, num_updates=1, batch_size=4):
    return [
        list(update)
        for update in estimator.updates(policy, judged, num_updates=num_updates, batch_size=batch_size)
    ]


def gradient(policy, estimator, minibatches):
    policy.denoiser.network.zero_grad()
    for each in minibatches:
        (estimator.loss(policy, each).value * each.weight).backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.denoiser.trainable_parameters()])


def slope(policy, reward_of_the_weights, width=1e-2):
    """∂/∂gain and ∂/∂drift by central differences."""
    slopes = []
    for parameter in (policy.denoiser.network.gain, policy.denoiser.network.drift):
        ends = []
        for shift in (width, -width):
            with torch.no_grad():
                parameter.add_(shift)
                ends.append(float(reward_of_the_weights()))
                parameter.sub_(shift)
        slopes.append((ends[0] - ends[1]) / (2 * width))
    return slopes


# ---- gradients ---------------------------------------------------------------------------------------


def test_through_the_whole_chain_the_gradient_is_that_of_the_reward_of_sampling(policy):
    judged = judge(policy)
    prompts, seeds = judged.trajectory.prompts, judged.seeds
    (minibatches,) = updates_of(BackPropagation(steps=T), policy, judged)
    got = gradient(policy, BackPropagation(steps=T), minibatches)
    expected = slope(policy, lambda: brightness(rollout(policy, prompts, seeds).images, prompts).mean())
    assert got[:2].neg().tolist() == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("steps", [1, 2])
def test_through_the_last_steps_it_is_that_of_the_reward_with_the_steps_before_held(policy, steps):
    judged, estimator = judge(policy), BackPropagation(steps=steps)
    trajectory, denoiser = judged.trajectory, policy.denoiser
    (minibatches,) = updates_of(estimator, policy, judged)

    @torch.no_grad()
    def reward():
        noise = Noise(judged.seeds, denoiser.latent_shape, denoiser.device)
        held = trajectory.latents[:, T - steps]
        walk = denoise(policy, trajectory.conditioning, noise, latents=held, first=T - steps)
        return brightness(denoiser.decode(walk.latents[-1]), trajectory.prompts).mean()

    got = gradient(policy, estimator, minibatches)
    assert got[:2].neg().tolist() == pytest.approx(slope(policy, reward), rel=5e-3)


def test_the_last_step_by_hand(policy):
    """K = 1: x_T = a·x + b·ε with ∂ε/∂gain = x, so ∂r/∂gain = ∂r/∂x_T · b·x, guided or not."""
    judged, estimator = judge(policy), BackPropagation()
    trajectory, schedule = judged.trajectory, policy.schedule
    finished = trajectory.latents[:, -1].clone().requires_grad_()
    value = brightness(policy.denoiser.decode(finished), trajectory.prompts).mean()
    (pull,) = torch.autograd.grad(value, finished)
    expected = (pull * schedule.noise_coef[-1] * trajectory.latents[:, -2]).sum()
    (minibatches,) = updates_of(estimator, policy, judged)
    got = gradient(policy, estimator, minibatches)
    assert -got[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_low_variance_adds_looks_at_the_finished_picture_with_noise_of_its_own(policy):
    judged, estimator = judge(policy), BackPropagation(lv=2)
    trajectory, denoiser = judged.trajectory, policy.denoiser
    (minibatches,) = updates_of(estimator, policy, judged)
    finished = trajectory.latents[:, -1]

    @torch.no_grad()
    def reward():
        noise = Noise(judged.seeds, denoiser.latent_shape, denoiser.device)
        held = trajectory.latents[:, T - 1]
        looks = [
            denoise(policy, trajectory.conditioning, noise, latents=held, first=T - 1).latents[-1],
        ]
        timesteps = policy.schedule.timesteps[-1:].expand(4)
        for look in range(2):
            again, _ = noise_and_uniform(judged.seeds, denoiser.latent_shape, look, denoiser.device)
            latents = noised(denoiser.process, finished, again, timesteps)
            noise_pred = policy.noise_pred(latents, timesteps, trajectory.conditioning)
            looks.append(denoiser.process.clean(latents, noise_pred, timesteps))
        rewards = [brightness(denoiser.decode(latents), trajectory.prompts).mean() for latents in looks]
        return sum(rewards) / 3

    assert estimator.loss(policy, minibatches[0]).value.item() == pytest.approx(-float(reward()), rel=1e-5)
    got = gradient(policy, estimator, minibatches)
    assert got[:2].neg().tolist() == pytest.approx(slope(policy, reward, width=5e-2), rel=2e-2)


# ---- chains ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, T])
def test_under_the_weights_that_sampled_the_pictures_are_the_rounds_own(steps):
    policy = make_policy(1.0)
    judged, estimator = judge(policy), BackPropagation(steps=steps)
    for minibatches in updates_of(estimator, policy, judged, num_updates=2, batch_size=1):
        rows = [judged.seeds.index(seed) for each in minibatches for seed in each.seeds]
        walked = [estimator.loss(policy, each).diagnostics["weighted_reward"].item() for each in minibatches]
        assert walked == pytest.approx([judged.rewards["r"][row] for row in rows], rel=1e-5)


def test_the_gradient_does_not_depend_on_the_batch_size():
    policy = make_policy(1.0)
    judged, estimator = judge(policy), BackPropagation(steps=3)
    (whole,) = updates_of(estimator, policy, judged, batch_size=4)
    (parts,) = updates_of(estimator, policy, judged, batch_size=3)
    assert [each.weight for each in parts] == [0.75, 0.25]
    torch.testing.assert_close(
        gradient(policy, estimator, parts), gradient(policy, estimator, whole), rtol=1e-4, atol=1e-6
    )


def test_random_steps_are_drawn_for_each_update_and_reach_from_one_to_all(policy):
    judged, estimator = judge(policy, 64), BackPropagation(steps=T, random_steps=True)
    updates = updates_of(estimator, policy, judged, num_updates=32, batch_size=1)
    drawn = [{T - each.first for each in update} for update in updates]
    assert all(len(each) == 1 for each in drawn)
    assert set().union(*drawn) == {1, 2, 3, 4}
    again = updates_of(estimator, policy, judged, num_updates=32, batch_size=2)
    assert [{T - each.first for each in update} for update in again] == drawn


def test_what_cannot_be_walked_is_refused(policy):
    judged = judge(policy)
    with pytest.raises(UsageError, match="steps=9 is more than the 4 denoising steps there are"):
        updates_of(BackPropagation(steps=9), policy, judged)
    with pytest.raises(UsageError, match="lv=2 is for the last step alone"):
        BackPropagation(lv=2, steps=3)

    class Multistep(DDIM):
        multistep = True

    looking_back = Policy(policy.denoiser, Multistep(), policy.schedule, 1.0)
    with pytest.raises(UsageError, match="Multistep looks back"):
        updates_of(BackPropagation(), looking_back, judged)


# ---- training ----------------------------------------------------------------------------------------


class Red:
    """How red a picture is, or with `sign` −1 how little."""

    def __init__(self, sign=1.0):
        self.sign = sign

    def __call__(self, images, prompts):
        return self.score(images, prompts).detach()

    def score(self, images, prompts):
        return self.sign * images[:, 0].mean((1, 2))


def run(terms, mixer="gdpo", learning_rate=0.05, epochs=4):
    settings = Settings(
        epochs=epochs,
        samples_per_epoch=8,
        train_batch_size=4,
        updates_per_epoch=2,
        num_steps=T,
        guidance_scale=1.0,
        learning_rate=learning_rate,
    )
    stream = PromptStream([Prompt("a cat"), Prompt("a dog")], seed=0)
    task = Task(stream, Objective(terms, mixer=MIXERS[mixer]()))
    model, sampler, estimator = ToyDenoiser(), DDIM(), BackPropagation(steps=2)
    epochs = train(denoiser=model, sampler=sampler, estimator=estimator, tasks=[task], settings=settings)
    return [dict(epoch.metrics) for epoch in epochs]


def term(reward, weight=1.0, label="red", differentiable=True):
    info = RewardInfo(name=label, summary="", factory="", differentiable=differentiable)
    return Term(label, weight, reward, info)


def test_training_raises_a_reward_and_a_negative_weight_lowers_it():
    up, down = run([term(Red())]), run([term(Red(), weight=-1.0)])
    assert up[-1]["reward/red/mean"] > up[0]["reward/red/mean"] + 0.1
    assert down[-1]["reward/red/mean"] < down[0]["reward/red/mean"] - 0.1


def test_a_reward_without_a_gradient_is_refused_before_anything_is_sampled():
    asked = []
    with pytest.raises(UsageError, match="needs rewards that can be differentiated; 'red' cannot"):
        run([term(lambda images, prompts: asked.append(images), differentiable=False)])
    assert not asked


def test_a_reward_that_is_only_watched_needs_no_gradient():
    size = term(lambda images, prompts: images.amax((1, 2, 3)), 0.0, "size", differentiable=False)
    assert np.isfinite(run([term(Red()), size], epochs=1)[0]["loss"])


def test_pcgrad_takes_the_gradient_of_each_reward_by_itself():
    """Of two rewards that oppose each other exactly nothing is left; added up after each other, too."""
    opposed = [term(Red(), 1.0, "red"), term(Red(-1.0), 1.0, "grey")]
    assert run(opposed, "pcgrad", epochs=1)[0]["grad_norm"] < 1e-6
    both = [term(Red(), 1.0, "red"), term(Red(), 1.0, "too")]
    one = run(both[:1], epochs=1)[0]["grad_norm"]
    assert run(both, "pcgrad", learning_rate=1e-9, epochs=1)[0]["grad_norm"] == pytest.approx(
        2 * one, rel=0.05
    )
