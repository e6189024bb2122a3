"""What is Stable Diffusion's own; test_families.py has what it shares with the others."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from ddpo_core.denoisers.stable_diffusion import load
from ddpo_core.denoising import Policy
from ddpo_core.errors import UsageError
from ddpo_core.rollout import rollout
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.types import Prompt


@pytest.fixture
def model(tiny_pipeline):
    return load(pretrained=str(tiny_pipeline))


def policy_of(model, *, eta=1.0, num_steps=5, guidance_scale=3.0):
    sampler = DDIM(eta=eta)
    return Policy(model, sampler, sampler.schedule(model, num_steps), guidance_scale)


def moved(model):
    """The model with every trained weight off its start."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.trainable_parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def diffusers_pictures(folder, latents, prompts, *, num_steps=5, guidance_scale=3.0, adapter=None):
    """What plain diffusers makes of the same noise with deterministic DDIM."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipeline.load_lora_weights(adapter)
    images = pipeline(
        prompts,
        latents=latents,
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        eta=0.0,
        output_type="pt",
    ).images
    return images


def test_everything_is_frozen_until_adapted_and_there_is_no_safety_checker(model):
    assert model.trainable_parameters() == []
    assert model.pipeline.safety_checker is None
    assert not any(
        p.requires_grad for p in [*model.pipeline.vae.parameters(), *model.pipeline.text_encoder.parameters()]
    )


def test_embeddings_are_those_of_the_pipeline_whatever_was_cached_before(model):
    model.encode(["a dog"])
    ours = model.encode(["a cat", "a dog", "a cat"])["prompt_embeds"]
    for row, text in enumerate(["a cat", "a dog", "a cat"]):
        theirs, _ = model.pipeline.encode_prompt(text, "cpu", 1, False)
        torch.testing.assert_close(ours[row], theirs[0])


def test_a_prompt_is_encoded_once(model, monkeypatch):
    embed, encoded = model._embed, []
    monkeypatch.setattr(model, "_embed", lambda text: encoded.append(text) or embed(text))
    model.encode(["a cat", ""])
    model.encode(["", "a cat", "a cat", "a dog"])
    assert encoded == ["a cat", "", "a dog"]


def test_v_prediction_is_turned_into_epsilon(tiny_v_pipeline):
    model = load(pretrained=str(tiny_v_pipeline))
    conditioning = model.encode(["a cat"])
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([481])
    alpha = model.process.alphas_cumprod[481].float()
    latents = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    model.network = lambda *args, **kwargs: (velocity,)  # a network that is right about v
    torch.testing.assert_close(model.noise_pred(latents, timestep, conditioning), noise, atol=1e-5, rtol=1e-4)


def test_a_network_that_predicts_something_else_is_refused(tiny_pipeline, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_pipeline, tmp_path / "sample")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(UsageError, match="epsilon or v_prediction, got 'sample'"):
        load(pretrained=str(folder))


def test_a_loras_start_follows_from_the_seed_alone(tiny_pipeline):
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = load(pretrained=str(tiny_pipeline))
        model.adapt(lora_rank=4, seed=7)
        states.append(model.trainable_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_exported_lora_of_layers_by_name_gives_the_same_pictures_in_plain_diffusers(
    model, tiny_pipeline, tmp_path
):
    model.adapt(lora_rank=4, lora_alpha=8, lora_targets=("to_q", "conv1"))
    before = rollout(policy_of(model, eta=0.0), [Prompt("a cat")], [3]).images
    trajectory = rollout(policy_of(moved(model), eta=0.0), [Prompt("a cat")], [3])
    assert (trajectory.images - before).abs().max() > 0.01
    model.export(tmp_path / "adapter")
    expected = diffusers_pictures(
        tiny_pipeline, trajectory.latents[:, 0], ["a cat"], adapter=tmp_path / "adapter"
    )
    torch.testing.assert_close(trajectory.images, expected, atol=5e-5, rtol=1e-4)


def test_rank_zero_trains_all_of_the_unet_and_nothing_else(model):
    model.adapt(lora_rank=0)
    assert len(model.trainable_parameters()) == len(list(model.pipeline.unet.parameters()))
    assert not any(p.requires_grad for p in model.pipeline.vae.parameters())


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradient(tiny_pipeline):
    gradients, forwards = [], []
    for checkpointing in (False, True):
        model = load(pretrained=str(tiny_pipeline))
        model.adapt(lora_rank=4, gradient_checkpointing=checkpointing)
        policy, conditioning, calls = policy_of(moved(model)), model.encode(["a cat"]), []
        model.network.up_blocks[-1].resnets[0].conv1.register_forward_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        policy.step(torch.tensor([2]), latents, conditioning).mean.square().sum().backward()
        gradients.append([p.grad for p in model.trainable_parameters()])
        forwards.append(len(calls))
    assert forwards == [1, 2]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_folder_is_found_from_home(tiny_pipeline, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_pipeline.parent))
    assert load(pretrained=f"~/{tiny_pipeline.name}").latent_shape == (4, 8, 8)
