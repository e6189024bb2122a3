from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpo_core.denoisers.stable_diffusion import load
from ddpo_core.denoising import Policy
from ddpo_core.errors import SelfCheckError
from ddpo_core.rollout import rollout
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.selfcheck import self_check
from ddpo_core.testing import judged_of
from ddpo_core.types import Prompt


@pytest.fixture(scope="module")
def sound(tiny_pipeline):
    """A policy and a round it sampled, with nothing wrong."""
    model = load(pretrained=str(tiny_pipeline))
    model.adapt(lora_rank=2)
    sampler = DDIM()
    policy = Policy(model, sampler, sampler.schedule(model, 4), 3.0)
    trajectory = rollout(policy, [Prompt("a cat"), Prompt("a dog")], [1, 2])
    return policy, judged_of(trajectory, torch.zeros(2), {"r": np.array([1.0, 2.0])}, [1, 2])


def check(policy, judged):
    return self_check(policy, judged, batch_size=2, half_precision=False, trained={"r"}, rated=True)


def with_trajectory(judged, **changes):
    return replace(judged, trajectory=replace(judged.trajectory, **changes))


def test_a_sound_run_passes_and_tells_its_largest_ratio_error(sound):
    assert 0 <= check(*sound) <= 1e-6


@pytest.mark.parametrize("t", range(4))
def test_a_ratio_off_one_is_found_at_every_timestep(sound, t):
    policy, judged = sound
    log_probs = judged.trajectory.log_probs.clone()
    log_probs[0, t] += 2e-5
    with pytest.raises(SelfCheckError, match=f"ratio is off by 2e-05 at step {t} of 4"):
        check(policy, with_trajectory(judged, log_probs=log_probs))


def test_guidance_that_differs_between_sampling_and_training_is_found(sound):
    policy, judged = sound
    with pytest.raises(SelfCheckError, match="ratio is off"):
        check(replace(policy, guidance_scale=1.0), judged)


def test_log_probs_that_are_not_finite_are_found(sound):
    policy, judged = sound
    log_probs = judged.trajectory.log_probs.clone()
    log_probs[1, 2] = float("nan")
    with pytest.raises(SelfCheckError, match="not finite at step 2"):
        check(policy, with_trajectory(judged, log_probs=log_probs))


def test_a_sampler_without_noise_is_found(sound):
    policy, judged = sound
    sampler = DDIM(eta=0)
    still = replace(policy, sampler=sampler, schedule=sampler.schedule(policy.denoiser, 4))
    with pytest.raises(SelfCheckError, match="σ = 0 at every step"):
        check(still, judged)


def test_a_model_with_nothing_to_train_is_found(sound, tiny_pipeline):
    policy, judged = sound
    with pytest.raises(SelfCheckError, match="no weights to train"):
        check(replace(policy, denoiser=load(pretrained=str(tiny_pipeline))), judged)


def test_black_pictures_are_found(sound):
    policy, judged = sound
    with pytest.raises(SelfCheckError, match="every sampled picture is black"):
        check(policy, with_trajectory(judged, images=torch.zeros(2, 3, 16, 16)))


def test_pictures_that_are_not_numbers_are_found(sound):
    policy, judged = sound
    with pytest.raises(SelfCheckError, match="NaN or infinity"):
        check(policy, with_trajectory(judged, images=torch.full((2, 3, 16, 16), float("nan"))))


def test_a_reward_that_says_the_same_of_everything_is_found(sound):
    policy, judged = sound
    with pytest.raises(SelfCheckError, match="reward 'r' gave 3 to all 2 pictures"):
        check(policy, replace(judged, rewards={"r": np.array([3.0, 3.0])}))


def test_a_watched_reward_may_say_the_same_of_everything(sound):
    policy, judged = sound
    check(policy, replace(judged, rewards={"r": np.array([1.0, 2.0]), "watched": np.array([0.0, 0.0])}))
