"""What is Stable Diffusion 3's own; test_families.py has what it shares with the others."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from ddpo_core.denoisers.sd3 import SD3, load
from ddpo_core.errors import UsageError
from ddpo_core.samplers.flow_ode import FlowODE


@pytest.fixture
def model(tiny_sd3):
    return load(pretrained=str(tiny_sd3), max_sequence_length=12)


def test_noise_pred_is_the_transformers_answer_to_what_the_pipeline_tells_it(model):
    prompt_embeds, _, pooled, _ = model.pipeline.encode_prompt(
        "a cat", None, None, do_classifier_free_guidance=False, max_sequence_length=12
    )
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.pipeline.transformer(
            latents, prompt_embeds, pooled_projections=pooled, timestep=torch.tensor([731.5])
        ).sample
        ours = model.noise_pred(latents, torch.tensor([731.5]), model.encode(["a cat"]))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("text", ["a cat", ""])
def test_embeddings_are_those_of_the_pipeline(model, text):
    expected, _, pooled, _ = model.pipeline.encode_prompt(
        text, None, None, do_classifier_free_guidance=False, max_sequence_length=12
    )
    torch.testing.assert_close(model.encode([text])["prompt_embeds"], expected)
    torch.testing.assert_close(model.encode([text])["pooled_prompt_embeds"], pooled)


def test_without_t5_its_part_of_the_prompt_is_zeros(model, tiny_sd3):
    slim = load(pretrained=str(tiny_sd3), t5=False, max_sequence_length=12)
    assert slim.pipeline.text_encoder_3 is None
    whole, part = model.encode(["a cat"]), slim.encode(["a cat"])
    torch.testing.assert_close(part["prompt_embeds"][:, :12], whole["prompt_embeds"][:, :12])
    assert part["prompt_embeds"].shape == whole["prompt_embeds"].shape
    assert not part["prompt_embeds"][:, 12:].any()
    plain = StableDiffusion3Pipeline.from_pretrained(tiny_sd3, text_encoder_3=None, tokenizer_3=None)
    expected, *_ = plain.encode_prompt("a cat", None, None, max_sequence_length=12)
    torch.testing.assert_close(part["prompt_embeds"], expected)


# CLIP's two embeddings are 16 and 48 wide, side by side
@pytest.mark.parametrize(
    ("missing", "zeros"),
    [
        (("text_encoder",), slice(0, 16)),
        (("text_encoder_2",), slice(16, 64)),
        (("text_encoder", "text_encoder_2"), slice(0, 64)),
    ],
)
def test_a_clip_that_is_missing_counts_as_zeros(model, tiny_sd3_without, missing, zeros):
    slim = load(pretrained=str(tiny_sd3_without(*missing)), max_sequence_length=12)
    whole, part = model.encode(["a cat"]), slim.encode(["a cat"])
    expected = {name: tensor.clone() for name, tensor in whole.items()}
    expected["prompt_embeds"][:, :12, zeros] = 0
    expected["pooled_prompt_embeds"][:, zeros] = 0
    # with no tokenizer left to ask there are CLIP's 77 tokens, all of them zeros
    clip, t5 = part["prompt_embeds"][:, :-12], part["prompt_embeds"][:, -12:]
    assert clip.shape[1] == (12 if len(missing) == 1 else 77)
    torch.testing.assert_close(clip[:, :12], expected["prompt_embeds"][:, :12])
    torch.testing.assert_close(t5, expected["prompt_embeds"][:, 12:])
    torch.testing.assert_close(part["pooled_prompt_embeds"], expected["pooled_prompt_embeds"])


def test_the_shift_is_the_schedulers_and_so_are_the_timesteps(model):
    assert model.process.shift == 3.0
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    torch.testing.assert_close(FlowODE().schedule(model, 7).timesteps, scheduler.timesteps)


def test_a_shift_that_follows_the_size_is_the_exponential_of_mu(model):
    model.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    # 4 × 4 tokens on the line from 0.5 at 256 to 1.15 at 4096
    mu = 0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256)
    assert SD3(model.pipeline).process.shift == pytest.approx(math.exp(mu))


def test_a_size_beyond_the_networks_positions_is_refused_with_the_largest(tiny_sd3):
    with pytest.raises(UsageError, match="pictures of up to 32 pixels, got 36"):
        load(pretrained=str(tiny_sd3), size=36)


def test_a_scheduler_that_is_not_of_a_flow_is_refused(model):
    model.pipeline.scheduler = DDIMScheduler()
    with pytest.raises(UsageError, match="flow-matching scheduler, got a DDIMScheduler"):
        SD3(model.pipeline)


def test_a_scheduler_that_walks_the_other_way_is_refused(model):
    model.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    with pytest.raises(UsageError, match="invert_sigmas are not supported"):
        SD3(model.pipeline)
