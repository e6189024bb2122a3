from collections import Counter

import numpy as np
import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.estimators.ddpo import ImportanceSampling, ScoreFunction
from ddpo_core.rollout import rollout, sample_seeds
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, judged_of
from ddpo_core.types import Prompt

T = 5


@pytest.fixture
def policy():
    model, sampler = ToyDenoiser(), DDIM()
    return Policy(model, sampler, sampler.schedule(model, T), 2.0)


def judge(policy, indices):
    """A round of the samples with these indices in the epoch, with advantages to tell them apart."""
    seeds = sample_seeds(0, 1, indices)
    trajectory = rollout(policy, [Prompt(f"prompt {index}") for index in indices], seeds)
    advantages = torch.tensor([float(index) for index in indices])
    return judged_of(trajectory, advantages, {"r": np.array(indices, dtype=float)}, seeds)


def pairs_of(update):
    """(sample, step) of every pair in an update's minibatches; the sample is told by its advantage."""
    return [
        (int(advantage), int(step))
        for minibatch in update
        for advantage, step in zip(minibatch.advantage, minibatch.steps, strict=True)
    ]


@pytest.mark.parametrize(("num_updates", "batch_size"), [(1, 8), (2, 2), (4, 2), (2, 3)])
def test_every_step_of_every_sample_is_trained_on_once_per_inner_epoch(policy, num_updates, batch_size):
    estimator = ImportanceSampling(inner_epochs=3)
    updates = list(
        map(
            pairs_of,
            estimator.updates(
                policy, judge(policy, range(8)), num_updates=num_updates, batch_size=batch_size
            ),
        )
    )
    assert len(updates) == 3 * num_updates
    assert Counter(pair for pairs in updates for pair in pairs) == {
        (i, t): 3 for i in range(8) for t in range(T)
    }


def test_all_steps_of_a_sample_go_into_one_update(policy):
    updates = ImportanceSampling().updates(policy, judge(policy, range(8)), num_updates=4, batch_size=1)
    for number, update in enumerate(updates):
        assert {sample for sample, _ in pairs_of(update)} == {2 * number, 2 * number + 1}


def test_the_weights_of_an_updates_minibatches_sum_to_one(policy):
    for size in (1, 2, 3, 4, 8):
        updates = ImportanceSampling(timestep_fraction=0.6).updates(
            policy, judge(policy, range(8)), num_updates=2, batch_size=size
        )
        for update in updates:
            assert sum(minibatch.weight for minibatch in update) == pytest.approx(1)


def test_a_fraction_of_the_timesteps_is_drawn_for_each_sample_and_anew_in_each_inner_epoch(policy):
    estimator = ImportanceSampling(timestep_fraction=0.4, inner_epochs=2)
    updates = estimator.updates(policy, judge(policy, range(30)), num_updates=1, batch_size=30)
    first, second = (frozenset(pairs_of(update)) for update in updates)
    assert len(first) == len(second) == 30 * 2
    assert first != second
    assert len({frozenset(step for i, step in first if i == sample) for sample in range(30)}) > 3


@pytest.mark.parametrize(
    "estimator", [ImportanceSampling(early_fraction=0.4), ScoreFunction(early_fraction=0.4)]
)
def test_only_the_early_part_of_the_steps_is_trained_on_where_asked(policy, estimator):
    (update,) = estimator.updates(policy, judge(policy, range(4)), num_updates=1, batch_size=4)
    trained = {step for _, step in pairs_of(update)}
    assert trained == set(policy.schedule.rated[: round(0.4 * len(policy.schedule.rated))])


def test_which_steps_a_sample_trains_on_does_not_depend_on_who_holds_it(policy):
    def chosen(indices):
        estimator = ImportanceSampling(timestep_fraction=0.4)
        judged = judge(policy, indices)
        return [set(pairs_of(u)) for u in estimator.updates(policy, judged, num_updates=2, batch_size=2)]

    whole, even, odd = chosen(range(8)), chosen(range(0, 8, 2)), chosen(range(1, 8, 2))
    assert [one | other for one, other in zip(even, odd, strict=True)] == whole


def test_a_minibatch_holds_the_steps_as_they_were_taken(policy):
    judged = judge(policy, range(4))
    trajectory = judged.trajectory
    (update,) = ImportanceSampling().updates(policy, judged, num_updates=1, batch_size=4)
    for minibatch in update:
        for row, t in enumerate(minibatch.steps.tolist()):
            assert torch.equal(minibatch.latents[row], trajectory.latents[row, t])
            assert torch.equal(minibatch.next_latents[row], trajectory.latents[row, t + 1])
            assert minibatch.old_log_prob[row] == trajectory.log_probs[row, t]


@pytest.mark.parametrize(
    "estimator", [ScoreFunction(advantage_clip=100), ImportanceSampling(advantage_clip=100)]
)
def test_on_policy_gradient_equals_finite_differences_of_the_score_function(policy, estimator):
    judged, gain = judge(policy, range(4)), policy.denoiser.network.gain

    def objective():
        """−mean over samples and steps of A log p, straight from the definition."""
        total = 0.0
        for t in range(T):
            step = policy.step(
                torch.full((4,), t), judged.trajectory.latents[:, t], judged.trajectory.conditioning
            )
            total += (
                (-judged.advantages * step.log_prob(judged.trajectory.latents[:, t + 1]))
                .double()
                .mean()
                .item()
            )
        return total / T

    (update,) = estimator.updates(policy, judged, num_updates=1, batch_size=2)
    for minibatch in update:
        (estimator.loss(policy, minibatch).value * minibatch.weight).backward()
    with torch.no_grad():
        gain += 1e-2
        above = objective()
        gain -= 2e-2
        below = objective()
    assert gain.grad.item() == pytest.approx((above - below) / 2e-2, rel=2e-3)


def test_advantages_are_clamped(policy):
    judged = judge(policy, range(8))
    estimator = ImportanceSampling(advantage_clip=2.0)
    (update,) = estimator.updates(policy, judged, num_updates=1, batch_size=8)
    minibatch = next(update)
    # at ratio 1 the loss is −mean(A): 0, 1, then six times the clip
    assert estimator.loss(policy, minibatch).value.item() == pytest.approx(-(0 + 1 + 6 * 2) / 8, abs=1e-4)


def test_a_clip_range_in_nats_is_turned_into_the_papers_units():
    assert ImportanceSampling(clip_nats=1.64).clip_range_for(16_384) == pytest.approx(1.001e-4, rel=1e-3)
    assert ImportanceSampling(clip_range=0.5).clip_range_for(16_384) == 0.5


def test_a_run_tells_its_clip_range_in_both_units(policy):
    estimator = ImportanceSampling(clip_range=0.01)
    (update,) = estimator.updates(policy, judge(policy, range(2)), num_updates=1, batch_size=2)
    diagnostics = estimator.loss(policy, next(update)).diagnostics
    assert diagnostics["clip_range"] == 0.01
    assert diagnostics["clip_nats"] == pytest.approx(0.16)  # sixteen latent elements
