"""What is FLUX.1's own; test_families.py has what it shares with the others."""

import math

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from ddpo_core.denoisers.flux import image_ids, load, pack, unpack
from ddpo_core.errors import UsageError
from ddpo_core.samplers.flow_ode import FlowODE

OPTIONS = {"size": 16, "max_sequence_length": 12}


@pytest.fixture
def model(tiny_flux):
    return load(pretrained=str(tiny_flux), **OPTIONS)


def test_latents_are_packed_as_the_pipeline_packs_them():
    latents = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(latents), 3), latents)
    assert torch.equal(image_ids(3, 4), FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32))


@pytest.mark.parametrize("guidance", [None, 1.5])
def test_noise_pred_is_the_transformers_answer_to_what_the_pipeline_tells_it(tiny_flux, guidance):
    model = load(pretrained=str(tiny_flux), embedded_guidance=guidance, **OPTIONS)
    prompt_embeds, pooled, text_ids = model.pipeline.encode_prompt("a cat", max_sequence_length=12)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.pipeline.transformer(
            FluxPipeline._pack_latents(latents, *latents.shape),
            prompt_embeds,
            pooled,
            timestep=torch.tensor([0.7315]),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
            txt_ids=text_ids,
            guidance=torch.tensor([3.5 if guidance is None else guidance]),
        ).sample
        ours = model.noise_pred(latents, torch.tensor([731.5]), model.encode(["a cat"]))
    torch.testing.assert_close(ours, FluxPipeline._unpack_latents(expected, 16, 16, 2))


def test_a_network_that_takes_no_guidance_is_told_none(tiny_schnell):
    model = load(pretrained=str(tiny_schnell), **OPTIONS)
    noise_pred = model.noise_pred(torch.zeros(1, 4, 8, 8), torch.tensor([500.0]), model.encode(["a cat"]))
    assert noise_pred.shape == (1, 4, 8, 8)
    with pytest.raises(UsageError, match=r"takes no guidance scale, got 3\.5"):
        load(pretrained=str(tiny_schnell), embedded_guidance=3.5, **OPTIONS)


@pytest.mark.parametrize("size", [16, 64])
def test_the_shift_follows_the_size_and_the_timesteps_are_those_of_the_pipeline(tiny_flux, size):
    model = load(pretrained=str(tiny_flux), size=size, max_sequence_length=12)
    mu = calculate_shift((size // 4) ** 2)
    assert model.process.shift == pytest.approx(math.exp(mu))
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    torch.testing.assert_close(FlowODE().schedule(model, 4).timesteps, scheduler.timesteps)


def test_the_linear_kind_of_dynamic_shift_is_mu_itself(model):
    model.pipeline.scheduler.register_to_config(time_shift_type="linear")
    assert type(model)(model.pipeline, size=16).process.shift == pytest.approx(calculate_shift(16))


def test_schnells_shift_is_constant(tiny_schnell):
    assert load(pretrained=str(tiny_schnell), **OPTIONS).process.shift == 1.0


def test_its_own_size_is_the_pipelines(tiny_flux):
    assert load(pretrained=str(tiny_flux)).latent_shape == (4, 128, 128)


def test_a_network_that_also_takes_a_picture_is_refused(model):
    model.pipeline.transformer.register_to_config(in_channels=96)
    with pytest.raises(UsageError, match="autoencoder's 4 channels, got one of 24"):
        type(model)(model.pipeline)
