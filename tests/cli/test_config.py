"""Flags over file over preset over what suits the model over default."""

import tomllib
from dataclasses import asdict

import pytest

from ddpo_cli import config_file
from ddpo_core.config import presets
from ddpo_core.config.resolve import Layer, from_file, resolve
from ddpo_core.denoisers import detect
from ddpo_core.errors import BatchError, EnvironmentFault, SpecError, UnknownName, UsageError

TOY = Layer("preset toy", {"model": "toy", "reward": ["brightness"]})


def of(toys, *layers, **flags):
    return resolve([TOY, *layers, Layer("flag", flags)], toys)


def test_a_flag_wins_over_a_file_over_a_preset_over_the_model_over_the_default(toys):
    low = Layer("preset p", {"seed": 1, "epochs": 2})
    file = Layer("file f.toml", {"seed": 2, "epochs": 3})
    resolved = of(toys, low, file, seed=3)
    assert (resolved.config.seed, resolved.config.epochs) == (3, 3)
    assert resolved.config.num_steps == 4  # the toy's own, not the default of 50
    origins = {name: resolved.origins[name] for name in ("seed", "epochs", "num_steps", "sampler")}
    assert origins == {
        "seed": "flag",
        "epochs": "file f.toml",
        "num_steps": "model toy",
        "sampler": "default",
    }


def test_a_file_that_a_run_wrote_gives_the_same_config_again(toys, tmp_path):
    first = of(toys, reward=["brightness:-0.5,gamma=2,as=dark", "brightness"], learning_rate=3e-7)
    path = tmp_path / "config.toml"
    path.write_text(config_file.dumps(first))
    again = resolve([from_file(path)], toys)
    assert again.config == first.config
    assert config_file.stored(path)[1] == first.origins


def test_every_setting_and_every_origin_is_in_the_file(toys):
    resolved = of(toys)
    stored = tomllib.loads(config_file.dumps(resolved))
    assert set(stored) == {*asdict(resolved.config), "origins"}
    assert set(stored["origins"]) == set(asdict(resolved.config))


def test_where_the_default_model_is_not_installed_the_command_that_installs_it_is_told(toys):
    with pytest.raises(EnvironmentFault, match="no model was named") as caught:
        resolve([Layer("flag", {"reward": ["brightness"]})], toys)
    assert caught.value.hint.startswith("pip install ddpo-pocket")
    with pytest.raises(UnknownName, match="no model named 'pocket'"):
        of(toys, model="pocket")


@pytest.mark.parametrize(
    ("key", "near"), [("num_step", "num_steps"), ("guidance-scale", "guidance_scale"), ("lr_rate", "")]
)
def test_an_unknown_key_names_its_file_and_the_nearest_key(toys, key, near):
    with pytest.raises(UnknownName, match=f"file x.toml: no setting is named '{key}'") as caught:
        of(toys, Layer("file x.toml", {key: 3}))
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_steps": "ten"}, "num_steps must be a whole number; got 'ten'"),
        ({"num_steps": 10.0}, "num_steps must be a whole number; got 10.0"),
        ({"epochs": True}, "epochs must be a whole number; got True"),
        ({"epochs": 0}, "epochs must be 1 or more; got 0"),
        ({"learning_rate": 0}, "learning_rate must be more than 0; got 0"),
        ({"self_check": 1}, "self_check must be true or false; got 1"),
        ({"tracker": "tensorbord"}, "did you mean 'tensorboard'?"),
        ({"reward": 3}, "reward must be a list of texts; got 3"),
    ],
)
def test_a_value_of_the_wrong_type_says_who_expected_what(toys, values, message):
    with pytest.raises(UsageError) as caught:
        of(toys, Layer("file x.toml", values))
    assert "file x.toml" in str(caught.value) and message in str(caught.value)


def test_reward_tables_are_specs(toys):
    table = {"name": "brightness", "weight": -2, "options": {"gamma": 2.0}, "as": "dark", "on_error": "drop"}
    table |= {"tries": 3, "time_limit": 60}
    resolved = of(toys, Layer("file x.toml", {"reward": [table, "brightness"]}))
    assert resolved.config.reward == (
        "brightness:-2,gamma=2.0,on_error=drop,tries=3,time_limit=60,as=dark",
        "brightness",
    )


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ({"samples_per_epoch": 50}, "samples_per_epoch 48 or 56, or sample_batch_size 5 or 10"),
        (
            {"samples_per_epoch": 48, "updates_per_epoch": 5},
            "samples_per_epoch 45 or 50, or updates_per_epoch 4 or 6",
        ),
        (
            {"samples_per_epoch": 64, "updates_per_epoch": 2, "train_batch_size": 5},
            "train_batch_size 4 or 8",
        ),
        (
            {"samples_per_epoch": 64, "updates_per_epoch": 2, "advantages": "group,size=6"},
            "samples_per_epoch 60 or 66, or the group size 4 or 8",
        ),
    ],
)
def test_batches_that_do_not_divide_are_refused_with_the_nearest_that_do(toys, flags, hint):
    with pytest.raises(BatchError) as caught:
        of(toys, **flags)
    assert hint in caught.value.hint


@pytest.mark.parametrize(("samples", "updates", "batch"), [(64, 2, 8), (48, 4, 6), (8, 8, 1)])
def test_a_minibatch_nobody_chose_divides_an_updates_samples(toys, samples, updates, batch):
    config = of(toys, samples_per_epoch=samples, updates_per_epoch=updates, sample_batch_size=8).config
    assert config.train_batch_size == batch


def test_a_learning_rate_that_was_for_a_lora_does_not_reach_all_weights(toys):
    assert of(toys).config.learning_rate == 0.01  # the toy's own
    all_weights = of(toys, lora_rank=0)
    assert all_weights.config.learning_rate == 1e-5
    assert all_weights.origins["learning_rate"] == "default for all weights"
    assert of(toys, lora_rank=0, learning_rate=0.5).config.learning_rate == 0.5


def test_prompts_that_are_typed_replace_the_models_own(toys):
    config = of(toys, prompt=["a cat", "a dog"]).config
    assert (config.prompts, config.prompt) == ("", ("a cat", "a dog"))
    assert of(toys).config.prompts == "animals"


def test_clip_range_is_an_option_of_the_estimator(toys):
    resolved = of(toys, clip_range=2e-4)
    assert resolved.config.estimator == "ddpo-is,clip_range=0.0002"
    assert resolved.origins["estimator"] == "flag"
    with pytest.raises(UnknownName, match="ddpo-sf has no option 'clip_range'"):
        of(toys, estimator="ddpo-sf", clip_range=2e-4)


def test_an_estimator_that_is_right_for_one_update_refuses_four(toys):
    with pytest.raises(UsageError, match="'ddpo-sf' is right for 1 update an epoch; got 4") as caught:
        of(toys, estimator="ddpo-sf", updates_per_epoch=4)
    assert "--updates-per-epoch 1" in caught.value.hint
    assert of(toys, estimator="ddpo-sf").config.updates_per_epoch == 1


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"reward": ["brightnes"]}, UnknownName, "did you mean 'brightness'"),
        ({"reward": ["brightness,gama=2"]}, UnknownName, "did you mean 'gamma'"),
        ({"reward": ["brightness", "brightness:2"]}, UsageError, "as=brightness-2"),
        ({"watch": ["brightness:2,as=b"]}, SpecError, "takes no weight"),
        ({"advantages": "batches"}, UnknownName, "did you mean 'batch'"),
        ({"reward": []}, UsageError, "no reward to train towards"),
        ({"prompts": "animals", "prompt": ["a cat"]}, UsageError, "one of them has to go"),
    ],
)
def test_what_cannot_be_done_says_what_to_type(toys, flags, error, message):
    with pytest.raises(error) as caught:
        of(toys, **flags)
    assert message in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusionPipeline", "stable-diffusion"),
        ("StableDiffusionXLPipeline", "sdxl"),
        ("StableDiffusion3Pipeline", "sd3"),
        ("FluxPipeline", "flux"),
    ],
)
def test_a_folder_is_short_for_the_model_that_adapts_its_pipeline(
    toys, tmp_path, monkeypatch, pipeline, family
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model_index.json").write_text(f'{{"_class_name": "{pipeline}"}}')
    # absolute, so that the run can be resumed from elsewhere
    assert of(toys, model="./mine").config.model == f"{family},pretrained={tmp_path / 'mine'}"


def test_a_hub_id_is_short_for_the_model_that_adapts_its_pipeline(toys, monkeypatch):
    monkeypatch.setattr(detect, "pipeline_class", lambda pretrained: "StableDiffusionXLPipeline")
    assert of(toys, model="someone/their-model").config.model == "sdxl,pretrained=someone/their-model"


def test_a_pipeline_that_nothing_adapts_names_those_that_are_and_the_hook(toys, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(
        UsageError, match="is a KandinskyPipeline; there are adapters for FluxPipeline"
    ) as caught:
        of(toys, model=str(tmp_path))
    assert "ddpo_models" in caught.value.hint


@pytest.mark.parametrize(
    ("estimator", "sampler"), [("ddpo-is", "flow-sde"), ("grpo", "flow-sde"), ("nft", "flow-ode")]
)
def test_a_flow_model_is_sampled_with_noise_where_the_estimator_rates_steps(toys, estimator, sampler):
    assert of(toys, model="flow-toy", estimator=estimator).config.sampler == sampler


def test_a_sampler_for_another_kind_of_model_is_refused_with_those_that_fit(toys):
    with pytest.raises(
        UsageError, match="--sampler flow-sde is for flow models; toy is a diffusion"
    ) as caught:
        of(toys, sampler="flow-sde")
    assert "ddpm" in caught.value.hint and "cps" not in caught.value.hint


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_that_ships_has_known_keys_and_batches_that_divide(toys, name):
    from ddpo_core.config.resolve import from_preset

    # its reward and model may not be installed where this test runs
    resolved = resolve([from_preset(name), Layer("flag", {"model": "toy", "reward": ["brightness"]})], toys)
    assert resolved.origins["epochs"] == f"preset {name}"


@pytest.mark.parametrize("task", ["compressibility", "incompressibility", "aesthetic", "alignment"])
def test_the_papers_presets_hold_the_papers_numbers(task):
    preset = presets.read(f"paper/{task}")
    # arXiv 2305.13301, Table D.5, column DDPO-IS, and Appendix C for the LoRA's learning rate
    expected = {
        "num_steps": 50,
        "guidance_scale": 5.0,
        "samples_per_epoch": 256,
        "updates_per_epoch": 4,
        "estimator": "ddpo-is,clip_range=1e-4",
        "learning_rate": 3e-4,
        "weight_decay": 1e-4,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
    }
    assert {key: preset[key] for key in expected} == expected


def test_an_unknown_preset_answers_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'paper/aesthetic'"):
        presets.read("paper/asthetic")
