"""What holds for every model family, on a tiny pipeline of its real classes with random weights."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import nn

from ddpo_core.builtin import ddpo_models
from ddpo_core.denoisers import flux, pipeline, sd3, sdxl, stable_diffusion
from ddpo_core.denoisers.detect import pipeline_class
from ddpo_core.denoising import Policy
from ddpo_core.errors import CheckpointError, EnvironmentFault, UsageError
from ddpo_core.estimators.ddpo import ImportanceSampling
from ddpo_core.info import RewardInfo
from ddpo_core.prompts import PromptStream
from ddpo_core.rewards import Objective, Term
from ddpo_core.rollout import rollout
from ddpo_core.samplers.ddim import DDIM
from ddpo_core.samplers.flow_ode import FlowODE
from ddpo_core.samplers.flow_sde import FlowSDE
from ddpo_core.training import Settings, Task, train
from ddpo_core.types import Prompt


@dataclass(frozen=True)
class Family:
    name: str  # of its ModelInfo
    folder: str  # the fixture with its pipeline
    load: Callable[..., pipeline.PipelineDenoiser]
    plain: type  # the class of diffusers
    deterministic: Callable[[], object]  # a sampler that diffusers has, too
    stochastic: Callable[[], object]
    guidance_scale: float = 3.0
    options: Mapping[str, object] = field(default_factory=dict)  # of the loader
    call: Mapping[str, object] = field(default_factory=dict)  # the same said to diffusers


FAMILIES = [
    Family(
        "stable-diffusion",
        "tiny_pipeline",
        stable_diffusion.load,
        StableDiffusionPipeline,
        lambda: DDIM(eta=0),
        DDIM,
    ),
    Family("sdxl", "tiny_sdxl", sdxl.load, StableDiffusionXLPipeline, lambda: DDIM(eta=0), DDIM),
    Family(
        "sd3",
        "tiny_sd3",
        sd3.load,
        StableDiffusion3Pipeline,
        FlowODE,
        FlowSDE,
        options={"max_sequence_length": 12},
        call={"max_sequence_length": 12},
    ),
    Family(
        "flux",
        "tiny_flux",
        flux.load,
        FluxPipeline,
        FlowODE,
        FlowSDE,
        guidance_scale=1.0,
        options={"max_sequence_length": 12, "size": 16, "embedded_guidance": 2.5},
        call={"max_sequence_length": 12, "height": 16, "width": 16},
    ),
]
PROMPTS = ["a cat", "two dogs"]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


@pytest.fixture
def folder(family, request):
    return request.getfixturevalue(family.folder)


LOADED = {}


@pytest.fixture
def fresh(family, folder):
    """The family's model as it is loaded, as often as it is called for."""
    if family.name not in LOADED:
        LOADED[family.name] = family.load(pretrained=str(folder), **family.options)
    return lambda: deepcopy(LOADED[family.name])


@pytest.fixture
def model(fresh):
    return fresh()


def policy_of(family, model, sampler=None, num_steps=3):
    sampler = sampler or family.deterministic()
    return Policy(model, sampler, sampler.schedule(model, num_steps), family.guidance_scale)


def moved(model):
    """The model with every trained weight off its start."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.trainable_parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def answer(model, latents=None):
    """What the network says of fixed latents, of "a cat", mid-way."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *model.latent_shape, generator=generator)
    timesteps = model.process.draw_timesteps(torch.tensor([0.5]))
    with torch.no_grad():
        return model.noise_pred(latents, timesteps, model.encode(["a cat"]))


def plain_pictures(family, folder, latents, *, adapter=None, num_steps=3):
    """What plain diffusers makes of the same noise [B, c, h, w]."""
    plain = family.plain.from_pretrained(folder)
    if family.deterministic is not FlowODE:
        plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config, clip_sample=False)
    plain.set_progress_bar_config(disable=True)
    if adapter is not None:
        plain.load_lora_weights(adapter)
    guidance_scale = family.options.get("embedded_guidance", family.guidance_scale)
    if family.plain is FluxPipeline:
        latents = FluxPipeline._pack_latents(latents, *latents.shape)
    return plain(
        PROMPTS,
        latents=latents,
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        output_type="pt",
        **family.call,
    ).images


def test_pictures_equal_those_of_plain_diffusers_for_the_same_noise(family, folder, model):
    trajectory = rollout(policy_of(family, model), [Prompt(text) for text in PROMPTS], [3, 4])
    expected = plain_pictures(family, folder, trajectory.latents[:, 0])
    torch.testing.assert_close(trajectory.images, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_an_exported_lora_gives_the_same_pictures_in_plain_diffusers(
    family, folder, model, tmp_path, targets
):
    model.adapt(lora_rank=4, lora_alpha=8, lora_targets=(targets,))
    before = answer(model)
    trajectory = rollout(policy_of(family, moved(model)), [Prompt(text) for text in PROMPTS], [3, 4])
    assert (answer(model) - before).abs().max() > 0.01
    model.export(tmp_path / "adapter")
    expected = plain_pictures(family, folder, trajectory.latents[:, 0], adapter=tmp_path / "adapter")
    torch.testing.assert_close(trajectory.images, expected, atol=1e-4, rtol=1e-3)


def test_an_exported_network_is_a_folder_of_diffusers(model, fresh, tmp_path):
    model.adapt(lora_rank=0)
    assert len(model.trainable_parameters()) == len(list(model.network.parameters()))
    moved(model).export(tmp_path / "network")
    network = type(model.network).from_pretrained(tmp_path / "network")
    other = fresh()
    other.network = network
    torch.testing.assert_close(answer(other), answer(model))


def test_two_epochs_of_training_pass_the_self_check_and_move_the_weights(family, model):
    model.adapt(lora_rank=2)
    before = model.trainable_state()
    objective = Objective(
        [
            Term(
                "bright",
                1.0,
                lambda images, prompts: images.mean((1, 2, 3)),
                RewardInfo(name="bright", summary="", factory=""),
            )
        ]
    )
    settings = Settings(
        epochs=2,
        samples_per_epoch=4,
        sample_batch_size=2,
        train_batch_size=2,
        updates_per_epoch=2,
        num_steps=3,
        guidance_scale=family.guidance_scale,
        learning_rate=1e-3,
    )
    epochs = list(
        train(
            denoiser=model,
            sampler=family.stochastic(),
            estimator=ImportanceSampling(),
            tasks=[Task(PromptStream([Prompt(text) for text in PROMPTS], seed=0), objective)],
            settings=settings,
        )
    )
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert epochs[0].metrics["self_check/ratio_error"] <= 1e-6
    assert any((weight != before[name]).any() for name, weight in model.trainable_state().items())


def test_a_lora_of_all_layers_has_every_layer_inside_the_blocks(model):
    model.adapt(lora_rank=2, lora_targets=("all",))
    layers = {
        name.removesuffix(".base_layer")
        for name, module in model.network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and "block" in name and "lora_" not in name
    }
    resizing = {name for name in layers if "samplers" in name}  # a UNet's, between its blocks
    adapted = {name.split(".lora_A")[0] for name, _ in model.network.named_parameters() if ".lora_A" in name}
    assert layers - resizing == adapted - {"proj_out"}  # FLUX's last layer has the name of one in its blocks


def test_a_lora_of_no_layer_at_all_is_refused(model):
    with pytest.raises(UsageError, match=r"no layer of this \w+ ends in to_nothing"):
        model.adapt(lora_rank=2, lora_targets=("to_nothing",))


def test_a_fresh_lora_changes_nothing_and_can_be_lifted_off_later(model):
    before = answer(model)
    model.adapt(lora_rank=4, lora_targets=("all",))
    torch.testing.assert_close(answer(model), before)
    moved(model)
    with model.untrained():
        torch.testing.assert_close(answer(model), before)
    assert (answer(model) - before).abs().max() > 0.01


def test_the_untrained_model_is_at_hand_when_the_network_is_wrapped(model, tmp_path):
    before = answer(model)
    model.adapt(lora_rank=4)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model.network = nn.parallel.DistributedDataParallel(model.network)
        moved(model)
        trained = answer(model)
        conditioning, timesteps = model.encode(["a cat"]), model.process.draw_timesteps(torch.tensor([0.5]))
        noise_pred = model.noise_pred(torch.ones(1, *model.latent_shape), timesteps, conditioning)
        with model.untrained():
            torch.testing.assert_close(answer(model), before)
        noise_pred.square().sum().backward()  # as a KL penalty does: forwards, without the LoRA, backwards
        torch.testing.assert_close(answer(model), trained)
        assert all(parameter.grad is not None for parameter in model.trainable_parameters())
        assert not any(name.startswith("module.") for name in model.trainable_state())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("rank", [0, 4])
def test_trained_weights_go_round_through_their_state(model, fresh, rank):
    model.adapt(lora_rank=rank)
    state = moved(model).trainable_state()
    other = fresh()
    other.adapt(lora_rank=rank, seed=99)
    other.load_trainable_state(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.trainable_state().items())
    torch.testing.assert_close(answer(other), answer(model))


def test_weights_of_another_rank_are_refused(model, fresh):
    model.adapt(lora_rank=4)
    other = fresh()
    other.adapt(lora_rank=8)
    with pytest.raises(CheckpointError, match="--lora-rank"):
        other.load_trainable_state(model.trainable_state())


def test_gradient_checkpointing_gives_the_same_gradient(family, fresh):
    gradients = []
    for checkpointing in (False, True):
        model = fresh()
        model.adapt(lora_rank=4, gradient_checkpointing=checkpointing)
        latents = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        policy = policy_of(family, moved(model))
        mean = policy.step(torch.tensor([2]), latents, model.encode(["a cat"])).mean
        model.decode(mean).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.trainable_parameters()])
    assert any(gradient.any() for gradient in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("rank", [0, 4])
def test_half_precision_leaves_the_autoencoder_and_the_trained_weights_in_float32(family, folder, rank):
    model = family.load(pretrained=str(folder), dtype=torch.bfloat16, **family.options)
    model.adapt(lora_rank=rank)
    assert model.dtype == (torch.bfloat16 if rank else torch.float32)
    assert model.pipeline.vae.dtype == torch.float32
    assert {parameter.dtype for parameter in model.trainable_parameters()} == {torch.float32}
    assert {encoder.dtype for encoder in model.text_encoders} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        assert answer(model).dtype == torch.float32


def test_attention_goes_through_sdpa(model, monkeypatch):
    calls, sdpa = [], nn.functional.scaled_dot_product_attention
    model.encode(["a cat"])
    monkeypatch.setattr(
        nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(1) or sdpa(*args, **kwargs),
    )
    answer(model)
    layers = {name.rsplit(".", 1)[0] for name, _ in model.network.named_modules() if name.endswith("to_q")}
    assert len(calls) == len(layers) > 0


def test_pictures_go_through_the_autoencoder_and_back(model):
    model.pipeline.vae.decode = lambda latents, return_dict: (latents[:, :3] / 10,)  # a linear one
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    config = model.pipeline.vae.config
    expected = (latents / config.scaling_factor + (config.shift_factor or 0))[:, :3] / 10
    torch.testing.assert_close(model.decode(latents), (expected / 2 + 0.5).clamp(0, 1))

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mode = model.pipeline.vae.encode(2 * images - 1).latent_dist.mode()
    again = model.encode_images(images) / config.scaling_factor + (config.shift_factor or 0)
    torch.testing.assert_close(again, mode)


def test_size_is_of_the_pictures_in_pixels(family, folder):
    model = family.load(pretrained=str(folder), **{**family.options, "size": 12})
    assert model.latent_shape == (4, 6, 6)
    images = rollout(policy_of(family, model, num_steps=1), [Prompt("a cat")], [0]).images
    assert images.shape == (1, 3, 12, 12)


def test_a_size_that_the_autoencoder_cannot_make_is_refused_with_those_it_can(family, folder):
    step = 4 if family.name in ("sd3", "flux") else 2
    with pytest.raises(UsageError, match=rf"multiple of {step} pixels, got 13; take 12 or {12 + step}"):
        family.load(pretrained=str(folder), **{**family.options, "size": 13})


def test_a_compiled_network_is_called_through_and_its_weights_keep_their_names(
    family, folder, model, monkeypatch
):
    calls = []
    monkeypatch.setattr(  # compiling itself takes half a minute here
        torch,
        "compile",
        lambda function: lambda *args, **kwargs: calls.append(1) or function(*args, **kwargs),
    )
    compiled = family.load(pretrained=str(folder), compile=True, **family.options)
    for each in (model, compiled):
        each.adapt(lora_rank=2)
        moved(each)
    torch.testing.assert_close(answer(compiled), answer(model))
    assert calls == [1]
    assert compiled.trainable_state().keys() == model.trainable_state().keys()


def test_slices_and_tiles_are_asked_of_the_autoencoder(family, folder):
    model = family.load(pretrained=str(folder), vae_slicing=True, vae_tiling=True, **family.options)
    assert model.pipeline.vae.use_slicing
    assert model.pipeline.vae.use_tiling


def test_text_encoders_come_to_the_device_for_new_prompts_alone(model, monkeypatch):
    moves = []
    for encoder in model.text_encoders:
        monkeypatch.setattr(encoder, "to", lambda device: moves.append(str(device)))
    monkeypatch.setattr(type(model), "device", torch.device("meta"))
    monkeypatch.setattr(model, "_embed", lambda text: {"prompt_embeds": torch.ones(1, 2)})
    model.encode(["a cat", "a dog"])
    count = len(model.text_encoders)
    assert moves == ["meta"] * count + ["cpu"] * count
    model.encode(["a dog", "a cat"])
    model.offload_text_encoders = False
    model.encode(["a bird"])
    assert len(moves) == 2 * count


def test_embeddings_are_the_same_whatever_was_cached_before(model, monkeypatch):
    alone = model.encode(["a cat"])
    monkeypatch.setattr(pipeline, "CACHE_BYTES", 1)  # nothing is kept
    model.encode(["a dog", "a cat", "a bird"])
    together = model.encode(["a bird", "a cat"])
    assert not model._embeddings
    for name, tensor in alone.items():
        assert torch.equal(tensor[0], together[name][1])


def test_a_model_of_another_family_is_refused_by_name(family, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(UsageError, match=f"is a KandinskyPipeline; expected a {family.plain.__name__}"):
        family.load(pretrained=str(tmp_path))


def test_the_models_entry_names_the_pipeline_it_adapts_and_every_option_of_its_loader(family, folder):
    info = next(info for info in ddpo_models() if info.name == family.name)
    assert info.pipelines == (pipeline_class(str(folder)),) == (family.plain.__name__,)
    given = {option.name: option.default for option in info.options if option.name != "pretrained"}
    model = family.load(pretrained=str(folder), **{**given, **family.options})
    assert model.process.path == info.path


def test_weights_that_cannot_be_had_are_an_environment_fault(family):
    with pytest.raises(EnvironmentFault, match="cannot load 'no-such/model'"):
        family.load(pretrained="no-such/model")
