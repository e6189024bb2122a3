import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpo_core.denoising import Policy
from ddpo_core.estimators.rwr import RewardWeighted, Sparse
from ddpo_core.info import RewardInfo
from ddpo_core.losses import softmax_weights, top_weights
from ddpo_core.processes import Flow
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.rollout import rollout, sample_seeds
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.testing import ToyDenoiser, judged_of
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Population, Prompt

GUIDANCE = 2.0
ADVANTAGES = [-1.5, 0.2, 0.9, -0.4, 1.3, -0.8, 0.1, 0.6]


def policy_of(process=None, eta=1.0):
    model, sampler = ToyDenoiser(process=process), DDIM(eta=eta)
    # a flow model is never sampled from here: finished latents are all that is asked of a round
    schedule = sampler.schedule(ToyDenoiser(), 4)
    return Policy(model, sampler, schedule, GUIDANCE)


@pytest.fixture
def policy():
    return policy_of()


def judge(advantages=ADVANTAGES, rewards=None):
    """A round of eight samples of three prompts."""
    count = len(advantages)
    seeds = sample_seeds(0, 1, range(count))
    prompts = [Prompt(f"prompt {i % 3}") for i in range(count)]
    trajectory = rollout(policy_of(), prompts, seeds, keep_steps=False)
    scored = {"r": np.array(advantages if rewards is None else rewards, dtype=float)}
    return judged_of(trajectory, torch.tensor(advantages), scored, seeds)


def share(judged, rows):
    """What a process is given that holds these samples of the round."""
    trajectory = judged.trajectory
    return replace(
        judged,
        trajectory=replace(
            trajectory,
            prompts=[trajectory.prompts[row] for row in rows],
            conditioning={name: tensor[rows] for name, tensor in trajectory.conditioning.items()},
            latents=trajectory.latents[rows],
        ),
        advantages=judged.advantages[rows],
        seeds=[judged.seeds[row] for row in rows],
        population=replace(judged.population, places=rows),
    )


def gradients_of(policy, estimator, judged, *, num_updates=2, batch_size=3):
    """The gradient [P] of every update."""
    found = []
    for update in estimator.updates(policy, judged, num_updates=num_updates, batch_size=batch_size):
        for part in update:
            (estimator.loss(policy, part).value * part.weight).backward()
        parameters = policy.denoiser.trainable_parameters()
        found.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
        policy.denoiser.network.zero_grad(set_to_none=True)
    return found


# ---- weights -----------------------------------------------------------------------------------------


def test_rwr_weights_are_exponentials_of_the_reward_with_a_mean_of_one():
    rewards = torch.tensor([0.0, math.log(2), math.log(5)])  # exp: 1, 2, 5, which are 3/8 of their mean each
    assert softmax_weights(rewards, 1.0).tolist() == pytest.approx([3 / 8, 6 / 8, 15 / 8])
    assert softmax_weights(2 * rewards, 0.5).tolist() == pytest.approx([3 / 8, 6 / 8, 15 / 8])
    assert softmax_weights(rewards, 0.0).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("rewards", "percentile", "expected"),
    [
        (range(10), 0.9, [0] * 9 + [10]),  # the best tenth
        ([3, 1, 2, 4], 0.5, [2, 0, 0, 2]),
        ([1, 5, 5, 5], 0.9, [0, 4 / 3, 4 / 3, 4 / 3]),  # equals are kept together
        ([3, 1, 2], 0.0, [1, 1, 1]),
        ([3, 1, 2], 1.0, [3, 0, 0]),
    ],
)
def test_sparse_weights_keep_the_best_part_with_a_mean_of_one(rewards, percentile, expected):
    weights = top_weights(torch.tensor(list(rewards), dtype=torch.float64), percentile)
    assert weights.tolist() == pytest.approx(expected)


def test_huge_rewards_do_not_overflow():
    assert softmax_weights(torch.tensor([1e6, 0.0]), 5.0).tolist() == [2, 0]


def population(rewards, prompts="aabb", advantages=None):
    advantages = np.zeros(len(rewards)) if advantages is None else np.array(advantages)
    return Population(advantages, {"r": np.array(rewards)}, list(prompts), {"r": 1.0}, range(len(rewards)))


def test_weights_are_of_advantages_or_of_raw_rewards_with_their_weights():
    both = Population(
        np.array([0.0, math.log(3)]),
        {"cost": np.array([10.0, 10.0 - math.log(3)]), "watched": np.array([1e9, 0.0])},
        ["a", "b"],
        {"cost": -2.0},
        range(2),
    )
    assert RewardWeighted(inverse_temperature=1.0).weights(both).tolist() == pytest.approx([0.5, 1.5])
    # −2 × cost: exp gives 1 and 9
    raw = RewardWeighted(inverse_temperature=1.0, on="raw")
    assert raw.weights(both).tolist() == pytest.approx([0.2, 1.8])


def test_a_sample_without_a_reward_weighs_nothing_and_the_others_one_on_average():
    for estimator in (RewardWeighted(on="raw"), Sparse(percentile=0.5, on="raw")):
        weights = estimator.weights(population([1.0, math.nan, 2.0, 4.0]))
        assert weights[1] == 0
        assert weights.sum().item() == pytest.approx(3)


def test_weights_of_each_prompt_by_itself_leave_every_prompt_as_likely_as_it_was():
    rewards = [0.0, math.log(3), 100.0, 100.0 + math.log(3)]
    estimator = RewardWeighted(inverse_temperature=1.0, on="raw", over="prompt")
    assert estimator.weights(population(rewards)).tolist() == pytest.approx([0.5, 1.5, 0.5, 1.5])
    sparse = Sparse(percentile=0.9, on="raw", over="prompt")
    assert sparse.weights(population(rewards)).tolist() == pytest.approx([0, 2, 0, 2])


# ---- the loss ----------------------------------------------------------------------------------------


def by_hand(policy, part, *, guidance):
    """The mean of w · ‖answer − target‖² in numpy, from the toy network's closed form."""
    model = policy.denoiser
    network = model.network
    gain, drift = network.gain.item(), network.drift.item()
    matrix = network.prompt_weight.detach().double().numpy()
    total = 0.0
    unconditional = model.encode([""])["prompt_embeds"][0, 0].double().numpy()
    for i in range(len(part.clean)):
        timestep = float(part.timesteps[i])
        if isinstance(model.process, Flow):
            signal, scale = 1 - timestep / 1000, timestep / 1000
        else:
            alpha = float(model.process.alphas_cumprod[int(timestep)])
            signal, scale = alpha**0.5, (1 - alpha) ** 0.5
        clean, noise = (tensor[i].double().numpy().ravel() for tensor in (part.clean, part.noise))
        embedding = part.conditioning["prompt_embeds"][i, 0].double().numpy()
        prompt = guidance * embedding + (1 - guidance) * unconditional
        answer = gain * (signal * clean + scale * noise) + drift * timestep / 1000 + matrix @ prompt
        target = noise - clean if isinstance(model.process, Flow) else noise
        total += float(part.weights[i]) * np.mean((answer - target) ** 2)
    return total / len(part.clean)


@pytest.mark.parametrize("process", [None, Flow()])
@pytest.mark.parametrize(("guided", "guidance"), [(True, GUIDANCE), (False, 1.0)])
def test_the_loss_is_the_weighted_error_of_the_prediction_in_closed_form(process, guided, guidance):
    policy = policy_of(process)
    estimator = RewardWeighted(guided=guided)
    (update,) = estimator.updates(policy, judge(), num_updates=1, batch_size=8)
    (part,) = update
    expected = by_hand(policy, part, guidance=guidance)
    assert estimator.loss(policy, part).value.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("process", [None, Flow()])
def test_the_gradient_equals_finite_differences(process):
    policy = policy_of(process)
    estimator, gain = RewardWeighted(), policy.denoiser.network.gain
    parts = [
        part for update in estimator.updates(policy, judge(), num_updates=1, batch_size=3) for part in update
    ]

    def objective():
        return sum(by_hand(policy, part, guidance=GUIDANCE) * part.weight for part in parts)

    for part in parts:
        (estimator.loss(policy, part).value * part.weight).backward()
    with torch.no_grad():
        gain += 1e-3
        above = objective()
        gain -= 2e-3
        below = objective()
    assert gain.grad.item() == pytest.approx((above - below) / 2e-3, rel=1e-3)


@pytest.mark.parametrize("estimator", [RewardWeighted(inverse_temperature=0.0), Sparse(percentile=0.0)])
def test_without_selection_it_is_plain_denoising(policy, estimator):
    """Every weight is one: the gradient is that of the pretraining loss on the round's own pictures."""
    (update,) = estimator.updates(policy, judge(), num_updates=1, batch_size=8)
    (part,) = update
    assert part.weights.tolist() == pytest.approx([1] * 8)
    loss = estimator.loss(policy, part)
    latents = torch.stack(
        [
            alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            for clean, noise, alpha in zip(
                part.clean, part.noise, policy.denoiser.process.alphas_cumprod[part.timesteps], strict=True
            )
        ]
    ).float()
    plain = torch.nn.functional.mse_loss(
        policy.noise_pred(latents, part.timesteps, part.conditioning), part.noise
    )
    parameters = policy.denoiser.trainable_parameters()
    for ours, theirs in zip(
        torch.autograd.grad(loss.value, parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# ---- updates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_updates", "batch_size", "looks"), [(1, 8, 1), (2, 3, 2), (4, 1, 3), (8, 2, 1)])
def test_weights_of_an_update_sum_to_one_and_every_sample_has_its_own_in_every_pass(
    policy, num_updates, batch_size, looks
):
    judged, estimator = judge(), RewardWeighted(inner_epochs=2, timestep_count=looks)
    updates = [
        list(update)
        for update in estimator.updates(policy, judged, num_updates=num_updates, batch_size=batch_size)
    ]
    assert len(updates) == 2 * num_updates
    for update in updates:
        assert sum(part.weight for part in update) == pytest.approx(1)
    for of_pass in (updates[:num_updates], updates[num_updates:]):
        seen = [weight for update in of_pass for part in update for weight in part.weights.tolist()]
        assert sorted(seen) == pytest.approx(sorted(estimator.weights(judged.population).tolist() * looks))


def test_noise_and_timesteps_are_new_in_every_pass_and_for_every_look(policy):
    estimator = RewardWeighted(inner_epochs=2, timestep_count=2)
    parts = [
        part for update in estimator.updates(policy, judge(), num_updates=1, batch_size=8) for part in update
    ]
    assert len(parts) == 4
    firsts = {tuple(part.noise.flatten().tolist()) for part in parts}
    assert len(firsts) == 4
    assert len({timestep for part in parts for timestep in part.timesteps.tolist()}) > 20


def test_a_samples_looks_in_one_pass_are_spread_over_all_timesteps(policy):
    (update,) = RewardWeighted(timestep_count=4).updates(policy, judge(), num_updates=1, batch_size=8)
    for look, part in enumerate(update):
        assert all(250 * look <= timestep < 250 * (look + 1) for timestep in part.timesteps.tolist())


@pytest.mark.parametrize(
    "estimator", [RewardWeighted(inner_epochs=2), Sparse(percentile=0.6, inner_epochs=2)]
)
@pytest.mark.parametrize("holdings", [[range(0, 8, 2), range(1, 8, 2)], [range(4), range(4, 8)]])
def test_two_processes_mean_gradient_is_that_of_one(policy, estimator, holdings):
    judged = judge()
    whole = gradients_of(policy, estimator, judged)
    parts = [gradients_of(policy, estimator, share(judged, list(rows)), batch_size=1) for rows in holdings]
    assert len(whole) == 4
    for update, of_all in enumerate(whole):
        mean = torch.stack([of_one[update] for of_one in parts]).mean(0)
        torch.testing.assert_close(mean, of_all, rtol=1e-4, atol=1e-6)


def test_every_process_takes_part_in_every_update(policy):
    """Where all that weighs something is held by another process, the gradient is zero, and it is given."""
    judged = judge([0, 0, 0, 9, 0, 0, 0, 0])
    estimator = Sparse(percentile=0.9)
    for update in estimator.updates(policy, share(judged, [0, 1, 2]), num_updates=4, batch_size=8):
        (part,) = update
        assert part.weight == 1
        assert estimator.loss(policy, part).value.item() == 0


def test_leaving_out_what_weighs_nothing_changes_no_gradient(policy):
    """The same updates with a network pass for every sample, weight 0 or not."""
    judged, estimator = judge(), Sparse(percentile=0.6)
    weights = estimator.weights(judged.population)
    (update,) = estimator.updates(policy, judged, num_updates=1, batch_size=8)
    (kept,) = update
    assert len(kept.clean) == int((weights > 0).sum()) == 3
    (ours,) = gradients_of(policy, estimator, judged, num_updates=1)

    everyone = RewardWeighted(inverse_temperature=0.0)
    (update,) = everyone.updates(policy, judged, num_updates=1, batch_size=8)
    (part,) = update
    rows = [
        next(i for i in range(8) if torch.equal(judged.trajectory.latents[i, -1], clean))
        for clean in part.clean
    ]
    everyone.loss(policy, replace(part, weights=weights[rows].float())).value.backward()
    parameters = policy.denoiser.trainable_parameters()
    theirs = torch.cat([parameter.grad.flatten() for parameter in parameters])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_what_weighs_something_is_dealt_out_evenly(policy):
    judged = judge([5, 0, 0, 4, 0, 3, 0, 6])
    updates = Sparse(percentile=0.5, inner_epochs=3).updates(policy, judged, num_updates=4, batch_size=8)
    assert [len(part.clean) for update in updates for part in update] == [1] * 12


def test_global_random_state_is_left_alone(policy):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    gradients_of(policy, RewardWeighted(), judge())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_diagnostics_tell_of_the_whole_rounds_weights(policy):
    weights = [0.5, 1.5]  # (Σw)² / (n Σw²) = 4 / (2 × 2.5)
    judged = judge([0.0, math.log(3)])
    estimator = RewardWeighted(inverse_temperature=1.0)
    assert estimator.weights(judged.population).tolist() == pytest.approx(weights, rel=1e-6)
    for rows in ([0], [1]):
        (update,) = estimator.updates(policy, share(judged, rows), num_updates=1, batch_size=1)
        diagnostics = estimator.loss(policy, next(update)).diagnostics
        assert diagnostics["effective_sample_size"] == pytest.approx(0.8, rel=1e-5)
        assert diagnostics["kept"] == 1
    (update,) = Sparse(percentile=0.9).updates(policy, judged, num_updates=1, batch_size=2)
    diagnostics = Sparse().loss(policy, next(update)).diagnostics
    assert (diagnostics["effective_sample_size"], diagnostics["kept"]) == (0.5, 0.5)


# ---- training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator", [RewardWeighted(inner_epochs=4), Sparse(percentile=0.75, inner_epochs=8)]
)
def test_it_raises_a_reward_with_a_sampler_that_has_no_log_prob(estimator):
    def brightness(images, prompts):
        return images.mean((1, 2, 3))

    model = ToyDenoiser()
    epochs = train(
        denoiser=model,
        sampler=DDIM(eta=0.0),
        estimator=estimator,
        tasks=[
            Task(
                PromptStream([Prompt("a cat"), Prompt("a dog")], seed=0),
                Objective([Term("bright", 1.0, brightness, RewardInfo(name="b", summary="", factory=""))]),
            )
        ],
        settings=Settings(
            epochs=8,
            samples_per_epoch=64,
            sample_batch_size=64,
            train_batch_size=64,
            updates_per_epoch=4,
            num_steps=4,
            guidance_scale=1.0,
            learning_rate=1e-2,
        ),
    )
    rounds = list(epochs)
    assert rounds[0].rounds[0].judged.trajectory.latents.shape[1] == 1  # no way there is kept
    first, last = (rounds[i].metrics["reward/bright/mean"] for i in (0, -1))
    assert last > first + 5 * rounds[0].metrics["reward/bright/stderr"]
