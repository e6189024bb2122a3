"""The contract check lets a good reward pass and catches each kind of bad one; the toy is its closed form."""

from __future__ import annotations

import random

import numpy as np
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
    "good",
    [
        brightness,
        lambda images, prompts: brightness(images, prompts).tolist(),
        lambda images, prompts: [len(prompt.text) for prompt in prompts],  # integers are numbers
        lambda images, prompts: brightness(images, prompts).bfloat16(),
        lambda images, prompts: Scores(brightness(images, prompts).numpy(), details=[{}] * len(prompts)),
        lambda images, prompts: torch.zeros(len(images)),
    ],
)
def test_good_rewards_pass(good):
    check_reward(good)
    check_reward(good, declare(range=(0.0, 100.0)), size=16)


def test_a_batch_reward_passes_where_it_says_so():
    check_reward(batch_mean, declare(scope="batch"))
    with pytest.raises(AssertionError, match=r"reward 'bright' depends on the rest of the batch"):
        check_reward(batch_mean, declare(scope="sample"))


class Scored:
    """Brightness, with what a differentiable reward has beside its call."""

    def __init__(self, score):
        self.score = score

    def __call__(self, images, prompts):
        return brightness(images, prompts)


def test_a_reward_that_says_it_is_differentiable_passes_a_gradient_to_every_image():
    check_reward(Scored(brightness), declare(differentiable=True))
    check_reward(Scored(lambda images, prompts: None), declare())
    for broken, complaint in (
        (brightness, r"expects a method score\(images, prompts\) -> \[B\]"),
        (
            Scored(lambda images, prompts: brightness(images.detach(), prompts)),
            "passes no gradient to the images",
        ),
        (Scored(lambda images, prompts: images.mean()), r"one number per image, shape \(5,\), got \(\)"),
        (Scored(lambda images, prompts: images[:1].mean().expand(5)), "passes no gradient to image 1"),
        (Scored(lambda images, prompts: brightness(images - images, prompts).sqrt()), "is not finite"),
    ):
        with pytest.raises(AssertionError, match=complaint):
            check_reward(broken, declare(differentiable=True))


def modify_images(images, prompts):
    images.clamp_(0.2, 0.8)
    return brightness(images, prompts)


def modify_prompts(images, prompts):
    prompts[0].metadata["seen"] = True
    return brightness(images, prompts)


def draw_from(source):
    def reward(images, prompts):
        source()
        return brightness(images, prompts)

    return reward


def nan_for_the_second(images, prompts):
    scores = brightness(images, prompts).clone()
    scores[1:2] = torch.nan
    return scores


class Counter:
    """Scores that rise from call to call."""

    calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        return [self.calls] * len(images)


def squeezed(images, prompts):
    return brightness(images, prompts).squeeze()  # a batch of one loses its only dimension


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (lambda images, prompts: images.mean(), r"shape \(5,\), got \(\)"),
        (lambda images, prompts: brightness(images, prompts)[:, None], "squeeze its last dimension"),
        (lambda images, prompts: torch.ones(len(images), len(images)), "judged against every prompt"),
        (squeezed, r"shape \(1,\), got \(\)"),
        (nan_for_the_second, "finite scores, got nan for image 1"),
        (lambda images, prompts: Scores(np.ones(len(images)), details=[{}]), "5 records of details, got 1"),
        (Counter(), "not deterministic"),
        (modify_images, "modified the images"),
        (modify_prompts, "modified the prompts"),
        (draw_from(random.random), "global random state of python's random"),
        (draw_from(np.random.rand), "global random state of numpy.random"),
        (draw_from(lambda: torch.rand(1)), "global random state of torch"),
        (draw_from(lambda: torch.manual_seed(0)), "global random state of torch"),
        (lambda images, prompts: torch.arange(len(images)), "depends on the order of the batch"),
        (
            lambda images, prompts: brightness(images, prompts) / len(images),
            "depends on the rest of the batch",
        ),
    ],
)
def test_each_breach_of_the_contract_is_named(bad, complaint):
    torch.manual_seed(1)
    with pytest.raises(AssertionError, match=complaint):
        check_reward(bad)


def test_a_score_outside_the_declared_range_is_named():
    with pytest.raises(
        AssertionError, match=r"reward 'bright' expects scores in its declared range 0.0 … 0.1"
    ):
        check_reward(brightness, declare(range=(0.0, 0.1)))


def test_a_reward_may_bring_the_prompts_it_needs():
    prompts = [Prompt("two cats", {"count": 2}), Prompt("six ants", {"count": 6})]
    check_reward(lambda images, prompts: [prompt.metadata["count"] for prompt in prompts], prompts=prompts)


def test_example_images_are_pictures_and_no_two_are_alike():
    images = example_images(5, 32)
    assert images.shape == (5, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert len({image.sum().item() for image in images}) == len(example_prompts()) == 5


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
