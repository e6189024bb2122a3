"""The code that made the model, on synthetic sprites: no drawing, no npm, no resvg."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from ddpo_pocket import world

pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.append(str(Path(__file__).resolve().parent.parent / "train"))

import torch
from pocket_train import autoencoder, denoiser, evaluate, render, tokenizer, tone
from pocket_train.sprites import SPRITE_SIZE, Sprite, SpriteBook


@pytest.fixture(scope="module")
def book() -> SpriteBook:
    """One square in its own colour for everything the world names."""
    rng = random.Random(0)
    things = [("animal", word, -1) for word in world.ANIMALS]
    things += [("person", word, number) for word in world.PEOPLE for number in range(len(world.TONES))]
    things += [("prop", word, -1) for word in ("bike", "chess piece", "plate", "sponge")]
    return SpriteBook([Sprite(*thing, pixels=_square(rng)) for thing in things])


def _square(rng: random.Random) -> np.ndarray:
    pixels = np.zeros((SPRITE_SIZE, SPRITE_SIZE, 4), np.uint8)
    pixels[20:-20, 20:-20] = [*(rng.randrange(256) for _ in range(3)), 255]
    return pixels


@pytest.mark.parametrize("scene", render.SCENE_SHARES)
def test_a_seed_is_a_picture(book, scene):
    first, again, other = (render.render(book, seed, scene) for seed in (7, 7, 8))
    assert first.pixels.shape == (64, 64, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.caption == again.caption
    assert not np.array_equal(first.pixels, other.pixels)


def test_scene_shares_are_a_distribution():
    assert sum(render.SCENE_SHARES.values()) == pytest.approx(1.0)


def test_captions_use_known_words_only(book):
    known = set(world.words())
    for seed in range(400):
        assert set(render.render(book, seed).caption.split()) <= known


def test_captions_never_name_a_tone(book):
    for seed in range(100):
        caption = render.render(book, seed, "person").caption
        assert not any(word in caption for word in ("light", "medium", "dark", "skin"))


def test_held_out_activities_are_never_drawn(book):
    held_out = {f"{animal} {activity}" for animal, activity in world.HELD_OUT.activities}
    for seed in range(400):
        caption = render.render(book, seed, "activity").caption.replace(
            "washing dishes", "washing the dishes"
        )
        assert caption.removeprefix("a ").removeprefix("an ") not in held_out


def test_held_out_pairs_are_never_drawn(book):
    for seed in range(400):
        nouns = [word for word in render.render(book, seed, "pair").caption.split() if word in world.ANIMALS]
        assert len(nouns) == 2
        assert not world.is_held_out_pair(*nouns)


def test_left_of_is_true_of_the_picture(book):
    for left_word, relation, right_word in (_related(seed) for seed in range(50)):
        assert {left_word, right_word} == {"cat", "dog"}
        if relation == "left of":
            assert left_word == "cat"
        if relation == "right of":
            assert left_word == "dog"


def _related(seed: int) -> tuple[str, str, str]:
    return render._relation_caption(random.Random(seed), left="cat", right="dog")


def test_the_tokenizer_learns_every_word_whole():
    built = tokenizer.build_tokenizer(["cat", "cats", "at"])
    assert [len(built(word).input_ids) for word in ("cat", "cats", "at", "sat")] == [3, 3, 3, 4]


def test_normalising_latents_leaves_reconstructions_alone():
    torch.manual_seed(0)
    model = autoencoder.new_autoencoder()
    pixels = torch.rand(8, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.eval().decode(model.encode(pixels).latent_dist.mode()).sample
        deviation_before = (
            model.encode(pixels).latent_dist.std / _latents(model, pixels).std((0, 2, 3))[:, None, None]
        )
        autoencoder.normalise_latents(model, pixels)
        after = model.decode(model.encode(pixels).latent_dist.mode()).sample
        deviation_after = model.encode(pixels).latent_dist.std
    latents = _latents(model, pixels)
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(deviation_before, deviation_after, rtol=1e-3)


@torch.no_grad()
def _latents(model, pixels):
    return model.encode(pixels).latent_dist.mode()


def test_psnr_of_a_tenth_of_the_range_is_20_db():
    black = torch.full((1, 3, 4, 4), -1.0)
    assert autoencoder.psnr(black + 0.2, black).item() == pytest.approx(20.0, abs=1e-4)


def test_min_snr_weights_follow_equation_8():
    # SNR 1 stays as it is, SNR 9 is weighted 5/9
    assert denoiser.min_snr_weights(torch.tensor([0.5, 0.9])).tolist() == pytest.approx([1.0, 5 / 9])


def test_the_learning_rate_warms_up_stays_and_falls_to_a_hundredth():
    assert denoiser.learning_rate(0.0, 0) == pytest.approx(denoiser.PEAK_LR / 200)
    assert denoiser.learning_rate(denoiser.FLAT_SHARE, 1000) == pytest.approx(denoiser.PEAK_LR)
    assert denoiser.learning_rate(1.0, 9999) == pytest.approx(denoiser.PEAK_LR / 100)


def test_lab_of_white_black_and_red():
    # textbook values for sRGB under D65
    lab = tone.to_lab(np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8))[0]
    assert lab[0] == pytest.approx([100, 0, 0], abs=0.1)
    assert lab[1] == pytest.approx([0, 0, 0], abs=0.1)
    assert lab[2] == pytest.approx([53.24, 80.09, 67.20], abs=0.1)


def test_a_paler_face_has_a_larger_angle():
    angles = [
        tone.skin_angle(np.full((64, 64, 3), rgb, np.uint8)) for rgb in ((250, 220, 180), (120, 80, 50))
    ]
    assert angles[0] is not None and angles[1] is not None
    assert angles[0] > 40 > 0 > angles[1]
    assert all(math.isfinite(angle) for angle in angles)


def test_a_blue_picture_has_no_skin():
    assert tone.skin_angle(np.full((64, 64, 3), (30, 60, 220), np.uint8)) is None


@pytest.mark.slow
def test_two_workers_train_go_on_and_export_a_pipeline(book, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    data, state, model = tmp_path / "data", tmp_path / "denoiser.state", tmp_path / "model"
    _write_dataset(book, data, count=64)
    autoencoder.train_autoencoder(data, tmp_path / "autoencoder", minutes=0.1, workers=2)
    denoiser.encode_dataset(data, tmp_path / "autoencoder", tmp_path / "latents.npy", workers=2)
    denoiser.train_denoiser(data, tmp_path / "latents.npy", state, minutes=0.2, workers=2)
    first = torch.load(state)
    assert first["used"] > 0.8  # it ends with the last whole round of averaging
    # the same call once more finds its budget used up and changes next to nothing
    denoiser.train_denoiser(data, tmp_path / "latents.npy", state, minutes=0.2, workers=2)
    assert torch.load(state)["step"] <= first["step"] + 2
    denoiser.export_pipeline(state, tmp_path / "autoencoder", model)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    assert pipeline("cat", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)


def _write_dataset(book: SpriteBook, folder: Path, count: int) -> None:
    pictures = [render.render(book, seed) for seed in range(count)]
    folder.mkdir()
    np.save(folder / "pixels.npy", np.stack([picture.pixels for picture in pictures]))
    lines = [render._describe(picture) for picture in pictures]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


def test_a_background_counts_where_its_rim_has_the_named_colour():
    colours = list(world.COLOURS.values())
    right = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in colours] * 4)
    assert evaluate.score_backgrounds(right) == 1.0
    # every colour moved by one place: none is right
    assert evaluate.score_backgrounds(np.roll(right, 1, axis=0)) == 0.0
