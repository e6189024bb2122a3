"""Measures a pipeline folder and draws its contact sheets; writes `evaluation.json` beside them.

Measured: PSNR of the autoencoder on new renderings, how often generated animals are recognised, by a
classifier fitted on renderings, how often a named background colour is there, and which skin tones generated
people have. Activities and pairs are left to the eye.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ddpo_pocket import world
from diffusers import AutoencoderKL, StableDiffusionPipeline

from .autoencoder import psnr, reconstruct, to_model_range
from .classifier import AnimalClassifier, classify, held_out_accuracy
from .render import HELD_OUT_SEED, SpriteBook, held_out_pictures
from .sheets import save_grid
from .sprites import load_or_draw
from .tone import calibrate

BATCH = 45


@dataclass(frozen=True)
class Sampling:
    """How pictures are generated for the evaluation."""

    steps: int = 20
    guidance_scale: float = 4.0
    eta: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class AnimalScore:
    """How often generated animals are recognised."""

    accuracy: float
    pictures: int
    by_animal: dict[str, float]  # prompt to share recognised
    taken_for: dict[str, str]  # prompt to the most frequent wrong answer, where less than half are right


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in float32 on the CPU, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], sampling: Sampling) -> np.ndarray:
    """[N, 64, 64, 3] uint8, one picture for each prompt."""
    generator = torch.Generator().manual_seed(sampling.seed)
    blocks = []
    for start in range(0, len(prompts), BATCH):
        pictures = pipeline(
            prompts[start : start + BATCH],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            eta=sampling.eta,
            generator=generator,
            output_type="np",
        ).images
        blocks.append((pictures * 255).round().astype(np.uint8))
    return np.concatenate(blocks)


def evaluate(model: Path, classifier: AnimalClassifier, sprites: Path, docs: Path, repeats: int = 4) -> dict:
    """Everything measured, also written to `docs/evaluation.json`; sheets go to `docs` as JPEG."""
    book, sampling = load_or_draw(Path(), sprites), Sampling()
    pipeline = load_pipeline(model)
    animals = generate(pipeline, world.animals() * repeats, sampling)
    people = generate(pipeline, world.people() * repeats, sampling)
    backgrounds = generate(pipeline, background_prompts(), sampling)
    unguided = replace(sampling, guidance_scale=1.0)
    animals_unguided = generate(pipeline, world.animals() * repeats, unguided)
    people_unguided = generate(pipeline, world.people() * 2 * repeats, unguided)
    result = {
        "autoencoder_psnr_db": _held_out_psnr(pipeline.vae, book, docs / "autoencoder.jpg"),
        "classifier_accuracy_on_renderings": held_out_accuracy(classifier, sprites, 2000),
        "sampling": asdict(sampling),
        "animals": asdict(score_animals(classifier, animals, repeats)),
        "animals_without_guidance": score_animals(classifier, animals_unguided, repeats).accuracy,
        "background_colour_right": score_backgrounds(backgrounds),
        "tones": tone_report(book, {"guided": people, "without_guidance": people_unguided}),
    }
    save_grid(animals[: 2 * len(world.ANIMALS)], 15, docs / "animals.jpg")
    save_grid(people[: 2 * len(world.PEOPLE)], 15, docs / "people.jpg")
    save_grid(people_unguided[: 2 * len(world.PEOPLE)], 15, docs / "people-unguided.jpg")
    save_grid(backgrounds, len(world.COLOURS), docs / "backgrounds.jpg")
    save_grid(np.stack([p.pixels for p in held_out_pictures(book, 90)]), 15, docs / "data.jpg")
    for name, prompts in sheet_prompts().items():
        save_grid(generate(pipeline, prompts, sampling), 9, docs / f"{name}.jpg")
    (docs / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def score_animals(classifier: AnimalClassifier, pictures: np.ndarray, repeats: int) -> AnimalScore:
    """Scores `repeats` rounds of world.animals(), [repeats × 45, 64, 64, 3] uint8."""
    predicted = classify(classifier, pictures).reshape(repeats, len(world.ANIMALS))
    right = predicted == np.arange(len(world.ANIMALS))
    shares = {animal: float(right[:, place].mean()) for place, animal in enumerate(world.ANIMALS)}
    taken_for = {
        animal: world.ANIMALS[_most_frequent(predicted[~right[:, place], place])]
        for place, animal in enumerate(world.ANIMALS)
        if shares[animal] < 0.5
    }
    return AnimalScore(float(right.mean()), right.size, shares, taken_for)


def background_prompts() -> list[str]:
    """Four animals on each of the eleven colours, row by row."""
    return [
        f"{world.with_article(animal)} on {world.with_article(colour)} background"
        for animal in ("lion", "cow", "frog", "bee")
        for colour in world.COLOURS
    ]


def score_backgrounds(pictures: np.ndarray) -> float:
    """Share of the pictures of background_prompts() whose rim is nearest to the colour that was named."""
    top, left = pictures[:, :3], pictures[:, :, :3]
    rim = np.concatenate([side.reshape(len(pictures), -1, 3) for side in (top, left)], axis=1)
    colours = np.array(list(world.COLOURS.values()))
    distances = np.linalg.norm(np.median(rim, axis=1)[:, None] - colours, axis=-1)
    return float((distances.argmin(1) == np.arange(len(pictures)) % len(colours)).mean())


def tone_report(book: SpriteBook, people: dict[str, np.ndarray]) -> dict:
    """Tones of generated people beside the shares of training, and how far the reader can be trusted."""
    known = [p for p in held_out_pictures(book, 3000, "person", HELD_OUT_SEED + 2_000_000) if p.tone >= 0]
    scale = calibrate(known[:2000])
    read = [(scale.read(picture.pixels), picture.tone) for picture in known[2000:]]
    return {
        "reader_accuracy_on_renderings": float(np.mean([seen == true for seen, true in read])),
        "median_ita_degrees": dict(zip(world.TONES, scale.medians, strict=True)),
        "training_shares": dict(zip(world.TONES, world.TONE_SHARES, strict=True)),
        "renderings_as_read": _tone_counts(seen for seen, _ in read),
        "generated_as_read": {
            name: _tone_counts(scale.read(picture) for picture in pictures)
            for name, pictures in people.items()
        },
    }


def sheet_prompts() -> dict[str, list[str]]:
    """The prompts of the sheets that nobody counts."""
    seen, held_out = world.animals_activities("seen"), world.animals_activities("held_out")
    return {
        "activities": [*seen[::6][:18], *held_out[:18]],
        "pairs": [
            *world.pairs("seen")[::100][:9],
            *world.pairs("held_out")[::10][:9],
            *world.counts()[::5][:18],
        ],
    }


def _held_out_psnr(autoencoder: AutoencoderKL, book: SpriteBook, sheet: Path) -> dict[str, float]:
    """Mean PSNR in dB, over 400 new renderings and by kind of scene; rows of before and after as a sheet."""
    pictures = held_out_pictures(book, 400)
    pixels = np.stack([picture.pixels for picture in pictures])
    decoded = reconstruct(autoencoder, pixels)
    values = psnr(decoded, to_model_range(pixels)).numpy()
    after = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [block for at in range(0, 45, 15) for block in (pixels[at : at + 15], after[at : at + 15])]
    save_grid(np.concatenate(rows), 15, sheet)
    scenes = np.array([picture.scene for picture in pictures])
    by_scene = {str(scene): round(float(values[scenes == scene].mean()), 2) for scene in np.unique(scenes)}
    return {"all": round(float(values.mean()), 2), **by_scene}


def _tone_counts(tones: Iterable[int | None]) -> dict[str, int]:
    names = [*world.TONES, "unreadable"]
    read = [names[-1 if tone is None else tone] for tone in tones]
    return {name: read.count(name) for name in names}


def _most_frequent(places: np.ndarray) -> int:
    return int(np.bincount(places).argmax())
