import pytest
import torch

from ddpo_core.denoisers.stable_diffusion import load
from ddpo_core.denoising import Policy
from ddpo_core.rollout import Noise, concatenate, rollout, sample_seeds
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.types import Prompt

PROMPTS = [Prompt("a cat"), Prompt("a dog"), Prompt("two cats"), Prompt("an ant")]


@pytest.fixture
def policy(tiny_pipeline):
    model = load(pretrained=str(tiny_pipeline))
    sampler = DDIM()
    return Policy(model, sampler, sampler.schedule(model, 6), 3.0)


def test_seeds_differ_by_run_epoch_and_index_and_repeat_for_the_same():
    seeds = {seed for run in (0, 1) for epoch in (1, 2) for seed in sample_seeds(run, epoch, range(50))}
    assert len(seeds) == 200
    assert sample_seeds(0, 1, [7]) == [sample_seeds(0, 1, range(50))[7]]


def test_each_image_draws_from_a_stream_of_its_own():
    together = Noise([1, 2, 3], (2, 2), torch.device("cpu"))
    alone = Noise([2], (2, 2), torch.device("cpu"))
    for _ in range(3):
        torch.testing.assert_close(together.draw()[1], alone.draw()[0], atol=0, rtol=0)


def test_samples_do_not_depend_on_batch_size(policy):
    seeds = sample_seeds(0, 1, range(4))
    whole = rollout(policy, PROMPTS, seeds)
    parts = concatenate([rollout(policy, PROMPTS[rows], seeds[rows]) for rows in (slice(0, 1), slice(1, 4))])
    torch.testing.assert_close(parts.images, whole.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.latents, whole.latents, atol=1e-4, rtol=1e-4)
    assert parts.prompts == whole.prompts


def test_shapes_are_those_of_the_contract(policy):
    trajectory = rollout(policy, PROMPTS, [1, 2, 3, 4])
    assert trajectory.latents.shape == (4, 7, 4, 8, 8)
    assert trajectory.log_probs.shape == (4, 6)
    assert trajectory.images.shape == (4, 3, 16, 16)
    assert trajectory.images.min() >= 0 and trajectory.images.max() <= 1


@pytest.mark.parametrize("storage_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_trajectory_rates_itself_with_ratio_one_in_any_storage_dtype(policy, storage_dtype):
    trajectory = rollout(policy, PROMPTS, [1, 2, 3, 4], storage_dtype=storage_dtype)
    assert trajectory.latents.dtype == storage_dtype
    for t in range(6):
        step = policy.step(torch.full((4,), t), trajectory.latents[:, t], trajectory.conditioning)
        ratio = (step.log_prob(trajectory.latents[:, t + 1]) - trajectory.log_probs[:, t]).exp()
        assert (ratio - 1).abs().max() <= 1e-6


def test_the_global_random_state_is_left_alone(policy):
    before = torch.get_rng_state()
    rollout(policy, PROMPTS, [1, 2, 3, 4])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_without_noise_is_taken_without_rating(tiny_pipeline):
    model = load(pretrained=str(tiny_pipeline))
    sampler = DDIM(spacing="linspace")
    trajectory = rollout(Policy(model, sampler, sampler.schedule(model, 4), 1.0), PROMPTS, [1, 2, 3, 4])
    assert (trajectory.log_probs[:, :3] != 0).all()
    assert (trajectory.log_probs[:, 3] == 0).all()
    torch.testing.assert_close(trajectory.latents[:, 4], trajectory.latents[:, 3])
