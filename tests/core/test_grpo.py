"""Importance sampling with the exact KL divergence from the model before training."""

import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.estimators.ddpo import ImportanceSampling
from ddpo_core.estimators.grpo import KLRegularised
from ddpo_core.losses import effective_sample_size, gaussian_kl
from ddpo_core.rollout import rollout
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, judged_of
from ddpo_core.types import Prompt


@pytest.fixture
def policy():
    model, sampler = ToyDenoiser(), DDIM()
    return Policy(model, sampler, sampler.schedule(model, 5), 1.0)


def first_minibatch(policy, estimator, advantage=0.0):
    trajectory = rollout(policy, [Prompt("a cat"), Prompt("a dog")], [1, 2])
    judged = judged_of(trajectory, torch.full((2,), advantage), {}, [1, 2])
    (update,) = estimator.updates(policy, judged, num_updates=1, batch_size=2)
    return next(update)


def test_the_kl_of_two_gaussians_by_hand():
    # means 1 apart at σ = 0.5: 1 / (2 · 0.25) = 2; half of the elements are equal, so the mean is 1
    mean = torch.zeros(1, 1, 2, 2)
    other = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    assert gaussian_kl(mean, other, torch.tensor(0.5)).tolist() == [1.0]


def test_the_kl_is_that_of_torchs_distributions_for_a_full_tensor_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    mean, other, std = (torch.randn(3, 2, 4, 4, generator=generator).exp() for _ in range(3))
    p, q = torch.distributions.Normal(mean, std), torch.distributions.Normal(other, std)
    expected = torch.distributions.kl_divergence(p, q).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_kl(mean, other, std), expected)


def test_the_kl_is_zero_before_training_and_so_is_its_gradient(policy):
    estimator = KLRegularised(kl_weight=1.0)
    minibatch = first_minibatch(policy, estimator)
    loss = estimator.loss(policy, minibatch)
    loss.value.backward()
    assert loss.diagnostics["kl"] == 0
    assert policy.denoiser.network.gain.grad == 0


def test_away_from_the_start_the_kl_has_the_gradient_of_finite_differences(policy):
    estimator, gain = KLRegularised(kl_weight=1.0), policy.denoiser.network.gain
    minibatch = first_minibatch(policy, estimator)
    values = []
    with torch.no_grad():
        gain += 0.1
    loss = estimator.loss(policy, minibatch)
    loss.value.backward()
    assert loss.diagnostics["kl"] > 0
    for move in (1e-2, -2e-2):
        with torch.no_grad():
            gain += move
        values.append(estimator.loss(policy, minibatch).value.item())
    assert gain.grad.item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=1e-3)


def test_what_looks_at_the_model_before_training_leaves_the_weights_alone(policy):
    estimator = KLRegularised(kl_weight=1.0)
    minibatch = first_minibatch(policy, estimator)
    with torch.no_grad():
        policy.denoiser.network.gain += 0.1
    before = policy.denoiser.trainable_state()
    estimator.loss(policy, minibatch)
    after = policy.denoiser.trainable_state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_a_weight_it_is_importance_sampling_and_needs_no_second_model(policy):
    plain, regularised = ImportanceSampling(), KLRegularised(kl_weight=0.0)
    minibatch = first_minibatch(policy, plain, advantage=1.5)
    assert regularised.loss(policy, minibatch).value == plain.loss(policy, minibatch).value
    assert regularised.needs == plain.needs
    assert "untrained" in KLRegularised().needs


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1, 1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([2, 2, 0, 0], 0.5), ([3, 1], 0.8)],
)
def test_the_effective_sample_size_by_hand(weights, expected):
    log_weights = torch.tensor(weights, dtype=torch.float32).log()
    assert effective_sample_size(log_weights).item() == pytest.approx(expected)
