"""The shipped model, its words and its licences. Offline; no drawing and no npm is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ddpo_pocket import world

PLUGIN = Path(__file__).resolve().parent.parent
MODEL = PLUGIN / "src/ddpo_pocket/model"


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTokenizer.from_pretrained(MODEL / "tokenizer")


def test_the_paper_has_45_animals_and_3_activities():
    assert len(set(world.ANIMALS)) == 45
    assert len(world.ACTIVITIES) == 3
    assert len(world.animals_activities()) == 135


def test_the_paper_writes_its_prompts_like_this():
    assert world.animals()[:2] == ["cat", "dog"]
    assert world.animals_activities()[0] == "a cat washing the dishes"
    assert "an ant playing chess" in world.animals_activities()


def test_seen_and_held_out_make_up_all():
    for prompts in (world.animals_activities, world.pairs):
        seen, held_out = prompts("seen"), prompts("held_out")
        assert seen and held_out
        assert not set(seen) & set(held_out)
        assert sorted(seen + held_out) == sorted(prompts())


def test_every_activity_and_every_animal_stays_in_training():
    for activity in world.ACTIVITIES:
        assert any(prompt.endswith(activity) for prompt in world.animals_activities("seen"))
    for animal in world.ANIMALS:
        assert sum(world.is_held_out_activity(animal, activity) for activity in world.ACTIVITIES) < 3


def test_a_pair_is_held_out_in_both_orders():
    first, second = sorted(world.HELD_OUT.pairs)[0]
    assert world.is_held_out_pair(first, second)
    assert world.is_held_out_pair(second, first)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="'held-out'"):
        world.pairs("held-out")


def test_tone_shares_are_a_distribution_over_the_tones():
    assert len(world.TONE_SHARES) == len(world.TONES)
    assert sum(world.TONE_SHARES) == pytest.approx(1.0)


def test_every_world_word_is_one_token(tokenizer):
    start_and_end = 2
    for word in world.words():
        assert len(tokenizer(word).input_ids) == 1 + start_and_end, word


def test_every_prompt_survives_the_tokenizer(tokenizer):
    prompts = [
        *world.animals(),
        *world.animals_activities(),
        *world.people(),
        *world.pairs(),
        *world.counts(),
    ]
    for prompt in prompts:
        assert tokenizer.decode(tokenizer(prompt).input_ids, skip_special_tokens=True).strip() == prompt


def test_the_longest_caption_fits(tokenizer):
    caption = "a photo of a cat washing the dishes on a blue background"
    assert len(tokenizer(caption).input_ids) <= tokenizer.model_max_length


def test_an_unknown_word_is_spelt_not_dropped(tokenizer):
    assert tokenizer.decode(tokenizer("xylophone").input_ids, skip_special_tokens=True).strip() == "xylophone"


def test_the_model_is_a_stable_diffusion_folder_below_20_mb():
    names = {path.name for path in MODEL.iterdir()}
    assert {"model_index.json", "vae", "unet", "text_encoder", "tokenizer", "scheduler"} <= names
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 20e6


def test_no_path_of_a_machine_travels_with_the_model():
    for path in MODEL.rglob("*.json"):
        assert "/tmp/" not in path.read_text(), path
        assert "/work/" not in path.read_text(), path
        assert "/home/" not in path.read_text(), path


def test_the_notices_of_the_five_sets_travel_with_the_weights():
    notice = (PLUGIN / "NOTICE").read_text()
    for package in ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "fxemoji"):
        assert f"@iconify-json/{package} " in notice
    assert "Apache License" in (PLUGIN / "licences/Apache-2.0.txt").read_text()
    assert "Microsoft Corporation" in (PLUGIN / "licences/MIT-fluentui-emoji.txt").read_text()


@pytest.mark.slow
def test_diffusers_loads_the_folder_and_draws_64_by_64():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipeline("a cat", num_inference_steps=2, generator=generator).images[0]
    assert image.size == (64, 64)
    assert pipeline.vae.config.scaling_factor == 1.0
