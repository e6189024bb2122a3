import pytest
import torch

from ddpo_core.losses import (
    approx_kl,
    clip_fraction,
    clip_range_from_nats,
    importance_sampling_loss,
    score_function_loss,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),  # on policy: −A
        (1.5, 2.0, -2.4),  # good step, already 50 % likelier: clipped at 1.2 × 2
        (0.5, 2.0, -1.0),  # good step that became rarer: not clipped, pulled back
        (0.5, -2.0, 1.6),  # bad step, already rarer: clipped at 0.8 × −2
        (1.5, -2.0, 3.0),  # bad step that became likelier: not clipped, pushed down
    ],
)
def test_importance_sampling_loss_of_hand_worked_numbers(ratio, advantage, expected):
    loss = importance_sampling_loss(
        torch.tensor([ratio]).log(), torch.zeros(1), torch.tensor([advantage]), 0.2
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_clipped_step_has_no_gradient():
    log_prob = torch.tensor([0.5, 0.01], requires_grad=True)
    importance_sampling_loss(log_prob, torch.zeros(2), torch.ones(2), 0.2).sum().backward()
    assert log_prob.grad[0] == 0 and log_prob.grad[1] != 0


def test_both_estimators_have_one_gradient_at_ratio_one():
    advantage = torch.tensor([1.5, -0.3, 0.0])
    gradients = []
    for loss in (
        lambda p: score_function_loss(p, advantage),
        lambda p: importance_sampling_loss(p, p.detach(), advantage, 1e-4),
    ):
        log_prob = torch.tensor([0.1, -0.2, 0.3], requires_grad=True)
        loss(log_prob).sum().backward()
        gradients.append(log_prob.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], -advantage)


def test_score_function_gradient_equals_the_closed_form_of_a_gaussian_policy():
    # one draw x from N(θ, σ²): d/dθ (−A log p) = −A (x − θ) / σ²
    theta, std, drawn, advantage = torch.tensor(0.3, requires_grad=True), 0.7, 1.1, 2.0
    log_prob = torch.distributions.Normal(theta, std).log_prob(torch.tensor(drawn))
    score_function_loss(log_prob, torch.tensor(advantage)).backward()
    assert theta.grad.item() == pytest.approx(-advantage * (drawn - 0.3) / std**2, rel=1e-6)


def test_policy_gradient_of_many_draws_points_where_the_expected_reward_grows():
    # r(x) = x under N(θ, 1): dE[r]/dθ = 1, estimated by the mean of r · (x − θ)
    theta = torch.tensor(0.0, requires_grad=True)
    drawn = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    score_function_loss(torch.distributions.Normal(theta, 1.0).log_prob(drawn), drawn).mean().backward()
    assert theta.grad.item() == pytest.approx(-1.0, abs=0.02)


def test_approx_kl_is_half_the_squared_difference():
    assert approx_kl(torch.tensor([0.3]), torch.tensor([0.1])).item() == pytest.approx(0.02, abs=1e-7)


def test_clip_fraction_counts_ratios_outside_the_range():
    log_ratio = torch.tensor([0.0, 0.05, -0.05, 0.3, -0.3])
    assert clip_fraction(log_ratio, torch.zeros(5), 0.1).tolist() == [0, 0, 0, 1, 1]


def test_the_papers_clip_range_is_1_64_nats_at_stable_diffusions_latents():
    assert clip_range_from_nats(1.6384, 4 * 64 * 64) == pytest.approx(1e-4)
