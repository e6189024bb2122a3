"""What is SDXL's own; test_families.py has what it shares with the others."""

import json
import shutil

import pytest
import torch

from ddpo_core.denoisers.sdxl import load
from ddpo_core.errors import UsageError


@pytest.fixture
def model(tiny_sdxl):
    return load(pretrained=str(tiny_sdxl))


def edited(folder, tmp_path, file, **changes):
    """A copy of a pipeline with other values in one of its JSON files."""
    copy = shutil.copytree(folder, tmp_path / "edited")
    path = copy / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(copy)


def test_noise_pred_is_the_unets_answer_to_what_the_pipeline_tells_it(model):
    pipeline = model.pipeline
    prompt_embeds, _, pooled, _ = pipeline.encode_prompt("a cat", do_classifier_free_guidance=False)
    time_ids = pipeline._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 48)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pipeline.unet(
            latents,
            481,
            encoder_hidden_states=prompt_embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample
        ours = model.noise_pred(latents, torch.tensor([481]), model.encode(["a cat"]))
    torch.testing.assert_close(ours, expected)


def test_prompts_are_told_by_both_encoders_and_pooled_by_the_second(model):
    conditioning = model.encode(["a cat", "a dog"])
    assert conditioning["prompt_embeds"].shape == (2, 12, 32 + 48)
    assert conditioning["pooled_prompt_embeds"].shape == (2, 48)


def test_the_network_is_told_the_size_of_the_pictures(tiny_sdxl):
    model = load(pretrained=str(tiny_sdxl), size=12)
    assert model.time_ids.tolist() == [12, 12, 0, 0, 12, 12]


def test_the_empty_prompt_is_zeros_where_the_pipeline_says_so(model, tiny_sdxl, tmp_path):
    assert not any(tensor.any() for tensor in model.encode([""]).values())
    folder = edited(tiny_sdxl, tmp_path, "model_index.json", force_zeros_for_empty_prompt=False)
    other = load(pretrained=folder)
    _, expected, _, pooled = other.pipeline.encode_prompt("a cat")
    torch.testing.assert_close(other.encode([""])["prompt_embeds"], expected)
    torch.testing.assert_close(other.encode([""])["pooled_prompt_embeds"], pooled)
    assert expected.any()


def test_latents_with_a_mean_and_spread_of_each_channel_go_there_and_back(tiny_sdxl, tmp_path):
    mean, std = [-1.6, 1.2, -0.4, 0.3], [8.4, 9.2, 7.6, 5.3]
    folder = edited(tiny_sdxl, tmp_path, "vae/config.json", latents_mean=mean, latents_std=std)
    model = load(pretrained=folder)
    model.pipeline.vae.decode = lambda latents, return_dict: (latents[:, :3] / 10,)
    expected = 0.5 * std[1] / model.pipeline.vae.config.scaling_factor + mean[1]
    picture = model.decode(torch.full((1, 4, 8, 8), 0.5))[0, 1, 0, 0]
    assert picture.item() == pytest.approx(min(1, expected / 20 + 0.5))
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mode = model.pipeline.vae.encode(2 * images - 1).latent_dist.mode()
    expected = (mode[:, 2] + 0.4) * model.pipeline.vae.config.scaling_factor / 7.6
    torch.testing.assert_close(model.encode_images(images)[:, 2], expected)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "sample"},
            "epsilon or v_prediction, got 'sample'",
        ),
        ("unet/config.json", {"in_channels": 9}, "takes the autoencoder's 4 channels, got one of 9"),
        ("unet/config.json", {"time_cond_proj_dim": 8}, "distilled to take a guidance scale"),
    ],
)
def test_networks_that_are_asked_otherwise_are_refused(tiny_sdxl, tmp_path, file, changes, message):
    model = load(pretrained=str(tiny_sdxl))
    part = model.pipeline.unet if file.startswith("unet") else model.pipeline.scheduler
    part.register_to_config(**changes)
    with pytest.raises(UsageError, match=message):
        type(model)(model.pipeline)


def test_a_scheduler_without_betas_is_refused(model):
    from diffusers import EDMEulerScheduler

    model.pipeline.scheduler = EDMEulerScheduler()
    with pytest.raises(UsageError, match="schedule of β, got a EDMEulerScheduler"):
        type(model)(model.pipeline)
