import math

import numpy as np
import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.estimators.awm import AdvantageWeightedMatching
from ddpo_core.losses import (
    denoising_loss,
    huber_matching_log_prob,
    importance_sampling_loss,
    matching_log_prob,
)
from ddpo_core.rollout import rollout, sample_seeds
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, judged_of
from ddpo_core.types import Prompt

T = 4


@pytest.fixture
def policy():
    denoiser, sampler = ToyDenoiser(), DDIM(eta=0)
    return Policy(denoiser, sampler, sampler.schedule(denoiser, T), 1.0)


def judge(policy, count=6):
    seeds = sample_seeds(0, 1, range(count))
    trajectory = rollout(policy, [Prompt(f"p{index}") for index in range(count)], seeds, keep_steps=False)
    advantages = torch.linspace(-3, 2, count)
    return judged_of(trajectory, advantages, {"r": advantages.double().numpy()}, seeds)


def minibatches_of(estimator, policy, judged, batch_size=6):
    (update,) = estimator.updates(policy, judged, num_updates=1, batch_size=batch_size)
    return list(update)


def gradient(policy, values):
    """The gradient of all weights of a sum."""
    policy.denoiser.network.zero_grad()
    for value in values:
        value.backward()
    return torch.cat([parameter.grad.flatten() for parameter in policy.denoiser.trainable_parameters()])


@pytest.mark.parametrize(
    ("error", "advantage", "clip_range", "loss"),
    [
        (0.3, 2.0, 0.1, -2.0),  # nothing has moved
        (0.1, 2.0, 1.0, -2 * math.exp(0.2)),  # nearer by 0.2 nats an element
        (0.1, 2.0, 0.1, -2 * 1.1),  # … and clipped
        (0.5, -1.0, 0.1, 0.9),  # bad, and already farther by more than the clip: no further
        (0.1, -1.0, 0.1, math.exp(0.2)),  # bad, and nearer: held back in full
    ],
)
def test_the_loss_by_hand(error, advantage, clip_range, loss):
    now, old = matching_log_prob(torch.tensor([error])), matching_log_prob(torch.tensor([0.3]))
    got = importance_sampling_loss(now, old, torch.tensor([advantage]), clip_range)
    assert got.item() == pytest.approx(loss)


def test_the_published_weighting_flattens_large_errors_and_counts_noise():
    error = torch.tensor([0.2, 0.9], requires_grad=True)
    log_prob = huber_matching_log_prob(error, torch.tensor([0.5, 1.0]))
    by_hand = [-4 * t * (e**0.25 - 1e-10**0.25) for e, t in ((0.2, 0.5), (0.9, 1.0))]
    assert log_prob.tolist() == pytest.approx(by_hand, rel=1e-4)
    log_prob.sum().backward()
    assert error.grad.tolist() == pytest.approx([-0.5 * 0.2**-0.75, -(0.9**-0.75)], rel=1e-4)


def test_the_first_gradient_is_the_advantage_times_that_of_the_denoising_loss(policy):
    estimator, judged = AdvantageWeightedMatching(), judge(policy)
    minibatches = minibatches_of(estimator, policy, judged)
    got = gradient(policy, (estimator.loss(policy, each).value for each in minibatches))
    expected = gradient(
        policy,
        (
            (
                each.advantage
                * denoising_loss(
                    policy.noise_pred(each.latents, each.timesteps, each.conditioning), each.target
                )
            ).mean()
            for each in minibatches
        ),
    )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighting", ["uniform", "ghuber"])
def test_the_gradient_is_the_slope_of_the_loss(policy, weighting):
    estimator = AdvantageWeightedMatching(weighting=weighting, kl_weight=0.3)
    minibatches = minibatches_of(estimator, policy, judge(policy))
    gain = policy.denoiser.network.gain
    with torch.no_grad():
        gain += 0.1  # as after some updates

    def loss(shift):
        with torch.no_grad():
            gain.add_(shift)
            total = sum(float(estimator.loss(policy, each).value) * each.weight for each in minibatches)
            gain.sub_(shift)
        return total

    gradient(policy, (estimator.loss(policy, each).value * each.weight for each in minibatches))
    assert gain.grad.item() == pytest.approx((loss(5e-3) - loss(-5e-3)) / 1e-2, rel=1e-2)


def test_the_ratio_is_one_under_the_weights_that_sampled_and_tells_of_them_later(policy):
    estimator = AdvantageWeightedMatching(clip_range=1e-3)
    minibatches = minibatches_of(estimator, policy, judge(policy))
    for each in minibatches:
        diagnostics = estimator.loss(policy, each).diagnostics
        assert diagnostics["approx_kl"] < 1e-12 and diagnostics["clip_fraction"] == 0
    with torch.no_grad():
        policy.denoiser.network.gain += 0.5
    loss = estimator.loss(policy, minibatches[0])
    noise_pred = policy.noise_pred(
        minibatches[0].latents, minibatches[0].timesteps, minibatches[0].conditioning
    )
    moved = -denoising_loss(noise_pred, minibatches[0].target) - minibatches[0].old
    assert loss.diagnostics["approx_kl"].item() == pytest.approx(0.5 * moved.square().mean().item(), rel=1e-4)
    assert loss.diagnostics["clip_fraction"] == 1
    steps, clipped = loss.by_step["clip_fraction"]
    assert torch.equal(steps, minibatches[0].steps) and clipped.tolist() == [1] * 6


def test_an_advantage_is_cut_off(policy):
    judged = judge(policy)
    large = judged_of(judged.trajectory, 100 * judged.advantages, {"r": np.arange(6.0)}, judged.seeds)
    cut = judged_of(
        judged.trajectory, (100 * judged.advantages).clamp(-5, 5), {"r": np.arange(6.0)}, judged.seeds
    )
    estimator = AdvantageWeightedMatching()
    ours, theirs = (
        [estimator.loss(policy, each).value.item() for each in minibatches_of(estimator, policy, each_judged)]
        for each_judged in (large, cut)
    )
    assert ours == theirs


def test_every_look_at_every_sample_is_trained_on_once_for_each_pass(policy):
    estimator, judged = AdvantageWeightedMatching(inner_epochs=3), judge(policy)
    updates = [list(update) for update in estimator.updates(policy, judged, num_updates=2, batch_size=2)]
    assert len(updates) == 6
    seen = [
        (round(advantage.item(), 3), int(step))
        for update in updates
        for each in update
        for advantage, step in zip(each.advantage, each.steps, strict=True)
    ]
    assert len(seen) == 3 * 6 * T and len(set(seen)) == 6 * T
    for update in updates:
        assert sum(each.weight for each in update) == pytest.approx(1)
    noises = {each.latents.sum().item() for update in updates for each in update}
    assert len(noises) == sum(map(len, updates))  # no noise is drawn twice


def test_wrong_options_are_refused():
    with pytest.raises(UsageError, match="expected uniform or ghuber, got 'huber'"):
        AdvantageWeightedMatching(weighting="huber")
