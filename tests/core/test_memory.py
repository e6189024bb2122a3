"""Memory is counted without weights, and comes out as what a real pass keeps."""

from dataclasses import astuple

import pytest
import torch

from ddpo_core.denoisers.memory import _kept, latent_side, passes
from ddpo_core.denoisers.stable_diffusion import load

SETTINGS = {
    "sample_batch_size": 2,
    "train_batch_size": 2,
    "guided": False,
    "dtype": torch.float32,
    "lora_targets": ("attention",),
    "gradient_checkpointing": False,
}


def counted(folder, **changes):
    return passes(folder, **{**SETTINGS, **changes})


@pytest.fixture
def network(tiny_pipeline):
    unet = load(pretrained=str(tiny_pipeline)).pipeline.unet.train()
    for name, weight in unet.named_parameters():
        weight.requires_grad_(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")))
    return unet


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_what_is_kept_for_the_way_back_is_what_a_real_pass_keeps(
    tiny_pipeline, network, gradient_checkpointing
):
    size, width = network.config.sample_size, network.config.cross_attention_dim
    inputs = {
        "sample": torch.randn(2, network.config.in_channels, size, size),
        "timestep": torch.ones(2),
        "encoder_hidden_states": torch.randn(2, 77, width),
    }
    real = _kept(network, inputs, gradient_checkpointing)
    traced = counted(tiny_pipeline, gradient_checkpointing=gradient_checkpointing).training
    assert traced == pytest.approx(real, rel=0.05)  # a CPU's attention keeps its own bookkeeping


def test_a_larger_batch_and_guidance_cost_in_proportion(tiny_pipeline):
    once, twice = counted(tiny_pipeline), counted(tiny_pipeline, sample_batch_size=4, train_batch_size=4)
    guided = counted(tiny_pipeline, guided=True)
    assert twice.training == pytest.approx(2 * once.training, rel=0.02)
    assert (guided.sampling, guided.training) == (twice.sampling, twice.training)
    assert guided.decoding == once.decoding  # pictures are decoded once


def test_half_precision_checkpointing_and_slicing_each_save(tiny_pipeline):
    plain = counted(tiny_pipeline)
    assert counted(tiny_pipeline, dtype=torch.bfloat16).training < 0.6 * plain.training
    assert counted(tiny_pipeline, gradient_checkpointing=True).training < plain.training
    assert counted(tiny_pipeline, vae_slicing=True).decoding == pytest.approx(plain.decoding / 2, rel=0.02)


def test_nothing_is_left_changed(tiny_pipeline):
    before = torch.get_default_dtype()
    first = counted(tiny_pipeline, dtype=torch.bfloat16)
    assert torch.get_default_dtype() == before
    assert astuple(counted(tiny_pipeline, dtype=torch.bfloat16)) == astuple(first)
    assert torch.zeros(1).device.type == "cpu"


def test_pictures_of_twice_the_size_need_four_times_the_memory_to_decode(tiny_pipeline):
    own = counted(tiny_pipeline)
    vae_scale = 2  # two blocks
    size = 2 * vae_scale * latent_side(tiny_pipeline, None)
    assert counted(tiny_pipeline, size=size).decoding == pytest.approx(4 * own.decoding, rel=0.02)


@pytest.mark.parametrize("fixture", ["tiny_sdxl", "tiny_sd3", "tiny_flux"])
@pytest.mark.parametrize("lora_targets", [("attention",), ("all",), ()])
def test_every_family_is_counted(request, fixture, lora_targets):
    folder = request.getfixturevalue(fixture)
    plain = counted(folder, lora_targets=lora_targets)
    less = counted(folder, lora_targets=lora_targets, gradient_checkpointing=True)
    assert 0 < less.training < plain.training
    assert plain.sampling > 0 and plain.decoding > 0
