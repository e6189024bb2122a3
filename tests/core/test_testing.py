"""`check_reward` raises the first breach of the contract (all: test_contract); the toy is its closed form."""

from __future__ import annotations

import pytest
import torch

from ddpo_core.errors import CheckpointError
from ddpo_core.info import RewardInfo
from ddpo_core.testing import ToyDenoiser, check_reward, example_images, example_prompts
from ddpo_core.types import Prompt, Scores


def brightness(images, prompts):
    return images.mean(dim=(1, 2, 3))


def declare(**claims) -> RewardInfo:
    return RewardInfo(name="bright", summary="mean brightness", factory="tests:brightness", **claims)


def batch_mean(images, prompts):
    return images.mean().expand(len(images))


@pytest.mark.parametrize(
    "good", [brightness, lambda images, prompts: Scores(brightness(images, prompts).numpy())]
)
def test_good_rewards_pass(good):
    check_reward(good)
    check_reward(good, declare(range=(0.0, 100.0)), size=16)


def test_a_batch_reward_passes_where_it_says_so():
    check_reward(batch_mean, declare(scope="batch"))
    with pytest.raises(
        AssertionError, match=r"^reward 'bright': expected each image's score not to depend on"
    ):
        check_reward(batch_mean, declare(scope="sample"))


def test_a_reward_without_a_record_is_named_by_its_type():
    with pytest.raises(
        AssertionError, match=r"^the reward function: expected one score per image, shape \(5,\)"
    ):
        check_reward(lambda images, prompts: images.mean())


def test_a_reward_that_was_given_is_not_closed():
    class Closable:
        closed = False

        def __call__(self, images, prompts):
            return brightness(images, prompts)

        def close(self):
            self.closed = True

    reward = Closable()
    check_reward(reward, declare())
    assert not reward.closed


def test_a_reward_may_bring_the_prompts_it_needs():
    prompts = [Prompt("two cats", {"count": 2}), Prompt("six ants", {"count": 6})]
    check_reward(lambda images, prompts: [prompt.metadata["count"] for prompt in prompts], prompts=prompts)


def test_example_images_are_pictures_and_no_two_are_alike():
    images = example_images(5, 32)
    assert images.shape == (5, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert len({image.sum().item() for image in images}) == len(example_prompts()) == 5
    assert example_images(2, (4, 6)).shape == (2, 3, 4, 6)


# ---- the toy -----------------------------------------------------------------------------------------


def test_the_toys_noise_is_its_closed_form():
    toy = ToyDenoiser((2, 3, 3))
    latents, timesteps = torch.randn(4, 2, 3, 3), torch.tensor([1, 21, 501, 981])
    conditioning = toy.encode(["a cat", "a dog", "", "a cat"])
    weight = toy.trainable_state()["prompt_weight"]
    for i in range(4):
        bias = (weight @ conditioning["prompt_embeds"][i, 0]).view(2, 3, 3)
        expected = 0.5 * latents[i] + 0.1 * timesteps[i] / 1000 + bias
        torch.testing.assert_close(toy.noise_pred(latents, timesteps, conditioning)[i], expected)


def test_the_toys_texts_are_encoded_by_what_they_say():
    embeds = ToyDenoiser().encode(["a cat", "a dog", "a cat"])["prompt_embeds"]
    assert embeds.shape == (3, 1, 8)
    assert torch.equal(embeds[0], embeds[2])
    assert not torch.equal(embeds[0], embeds[1])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_toy_decodes_to_pictures(channels):
    images = ToyDenoiser((channels, 4, 4), pixels=8).decode(10 * torch.randn(2, channels, 4, 4))
    assert images.shape == (2, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_toys_schedule_is_that_of_stable_diffusion():
    toy = ToyDenoiser()
    assert toy.process.alphas_cumprod.shape == (1000,)
    assert toy.process.alphas_cumprod.dtype == torch.float64
    assert toy.process.final_alpha_cumprod == pytest.approx(1 - 0.00085)
    assert toy.process.alphas_cumprod[-1].item() == pytest.approx(
        0.00466, abs=1e-5
    )  # Stable Diffusion's ᾱ at t = 999


def test_the_toys_weights_go_round_and_others_are_refused(tmp_path):
    from safetensors.torch import load_file

    toy, other = ToyDenoiser(seed=1), ToyDenoiser(seed=2)
    toy.export(tmp_path / "adapter")
    other.load_trainable_state(load_file(tmp_path / "adapter" / "diffusion_pytorch_model.safetensors"))
    for name, value in toy.trainable_state().items():
        assert torch.equal(other.trainable_state()[name], value)
    with pytest.raises(CheckpointError, match="expects the weights"):
        ToyDenoiser((1, 8, 8)).load_trainable_state(toy.trainable_state())


def test_the_toy_keeps_its_names_when_its_network_is_wrapped():
    toy = ToyDenoiser()
    toy.network = torch.nn.DataParallel(toy.network)
    assert list(toy.trainable_state()) == ["gain", "drift", "prompt_weight"]
    toy.noise_pred(torch.zeros(1, 1, 4, 4), torch.tensor([1]), toy.encode([""])).sum().backward()
    assert all(parameter.grad is not None for parameter in toy.trainable_parameters())
