"""Measures the judges on held-out renderings and on what the model draws; writes `judges.json`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ddpo_pocket import world
from ddpo_reward_aesthetic.head import AestheticHead
from PIL import Image
from transformers import AutoProcessor, CLIPModel, CLIPTokenizer, LlavaForConditionalGeneration

from .aesthetic import grade, load_head, measure_head
from .captioner import ANIMAL_QUESTIONS, CAPTION_QUESTIONS, COUNT_QUESTIONS, UNCLEAR, answer
from .clip import embed_pictures, embed_texts, name_animals
from .evaluate import Sampling, generate, load_pipeline
from .judge_data import DRAWING, Record, decode_again, record_of
from .render import HELD_OUT_SEED, held_out_pictures
from .sprites import SpriteBook, load_or_draw

REPORT_SEED = HELD_OUT_SEED + 5_000_000
# What the training pictures of the diffusion model showed and what they did not; judges have seen both kinds.
SCENES: dict[str, tuple[str, world.Split]] = {
    "animal": ("animal", "all"),
    "person": ("person", "all"),
    "count": ("count", "all"),
    "activity": ("activity", "seen"),
    "activity held out": ("activity", "held_out"),
    "pair": ("pair", "seen"),
    "pair held out": ("pair", "held_out"),
}
GUIDED = Sampling(steps=25, guidance_scale=4.0, eta=0.0, seed=DRAWING.seed)

Pictures = tuple[np.ndarray, list[Record]]  # [B, 64, 64, 3] uint8 and what they show


def report(sprites: Path, model: Path, judges: Path, docs: Path, count: int = 150) -> dict:
    """Everything measured, also put into `docs/judges.json`, where other judges' entries stay.

    `count`: renderings of each kind of scene.
    """
    book, file = load_or_draw(Path(), sprites), docs / "judges.json"
    scenes = {
        name: _held_out(book, count, scene, split, REPORT_SEED + 100_000 * place)
        for place, (name, (scene, split)) in enumerate(SCENES.items())
    }
    clip, words = CLIPModel.from_pretrained(judges / "clip").float().eval(), _tokenizer(judges / "clip")
    head = load_head(judges / "aesthetic/head.safetensors")
    numbers = {
        "clip": clip_report(clip, words, scenes, model),
        "aesthetic": aesthetic_report(clip, head, scenes, model),
        "captioner": captioner_report(judges / "captioner", scenes, model),
    }
    everything = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(everything | numbers, indent=2) + "\n")
    return numbers


def clip_report(clip: CLIPModel, words: CLIPTokenizer, scenes: dict[str, Pictures], model: Path) -> dict:
    """Shares of pictures whose nearest text is the true one, of all texts of that kind; pictures a second."""
    pixels, records = scenes["animal"]
    names = [record.names[0] for record in records]
    choices = {
        "person": world.people(),
        "count": world.counts(),
        "activity": world.animals_activities(),
        "activity held out": world.animals_activities(),
        "pair": world.pairs(),
        "pair held out": world.pairs(),
    }
    return {
        "renderings_per_scene": len(pixels),
        "animals_right": _share(name_animals(clip, words, pixels), names),
        "animals_right_after_autoencoder": _share(
            name_animals(clip, words, decode_again(model, pixels)), names
        ),
        "texts_right": {
            name: _texts_right(clip, words, scenes[name], texts) for name, texts in choices.items()
        },
        "pictures_per_second": _speed(lambda batch: embed_pictures(clip, batch), pixels),
    }


def aesthetic_report(clip: CLIPModel, head: AestheticHead, scenes: dict[str, Pictures], model: Path) -> dict:
    """How well damages are ordered, and mean grades of renderings and of what the model draws."""
    whole = np.concatenate([pixels[:30] for pixels, _ in scenes.values()])
    pipeline = load_pipeline(model)
    prompts = [*world.animals(), *world.people()[::2], *world.animals_activities()[::9]]
    shown = {
        "renderings": whole,
        "renderings_after_autoencoder": decode_again(model, whole),
        "drawn_12_steps_unguided": generate(pipeline, prompts, replace(DRAWING, seed=100)),
        "drawn_12_steps_guidance_4": generate(
            pipeline, prompts, replace(DRAWING, seed=100, guidance_scale=4.0)
        ),
        "drawn_25_steps_guidance_4": generate(pipeline, prompts, replace(GUIDED, seed=100)),
    }
    grades = {name: grade(clip, head, pixels) for name, pixels in shown.items()}
    return {
        "grades": {
            name: {"mean": round(float(values.mean()), 2), "std": round(float(values.std()), 2)}
            for name, values in grades.items()
        },
        "damages": measure_head(clip, head, whole),
        "pictures_per_second": _speed(lambda batch: grade(clip, head, batch), whole),
    }


def captioner_report(folder: Path, scenes: dict[str, Pictures], model: Path) -> dict:
    """Shares of answers that are right to the letter; answers a second."""
    captioner = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)

    def say(pixels: np.ndarray, questions: list[str]) -> list[str]:
        return answer(captioner, processor, pixels, questions)

    def right(pictures: Pictures, question: Callable[[Record], str], truth: Callable[[Record], str]) -> float:
        pixels, records = pictures
        return _share(say(pixels, [question(record) for record in records]), list(map(truth, records)))

    def caption_question(record: Record) -> str:
        return CAPTION_QUESTIONS[0]

    captions = {name: right(pictures, caption_question, _caption) for name, pictures in scenes.items()}
    decoded = {
        name: right((decode_again(model, pixels), records), caption_question, _caption)
        for name, (pixels, records) in scenes.items()
    }
    with_animals = [name for name in SCENES if name != "person"]
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 64, 3)).astype(np.uint8)
    plain = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in world.COLOURS.values()])
    return {
        "renderings_per_scene": len(scenes["animal"][0]),
        "captions_right": captions,
        "captions_right_overall": round(float(np.mean(list(captions.values()))), 3),
        "captions_right_after_autoencoder": decoded,
        "captions_right_after_autoencoder_overall": round(float(np.mean(list(decoded.values()))), 3),
        "counts_right": {name: right(scenes[name], _how_many, _number) for name in with_animals},
        "absent_animals_counted_zero": {
            name: right(scenes[name], _how_many_others, lambda record: "zero") for name in with_animals
        },
        "animal_right": {
            name: right(scenes[name], lambda record: ANIMAL_QUESTIONS[0], _animals) for name in SCENES
        },
        "noise_called_unclear": _share(
            say(noise, [CAPTION_QUESTIONS[0]] * len(noise)), [UNCLEAR] * len(noise)
        ),
        "plain_colours_called_unclear": _share(
            say(plain, [CAPTION_QUESTIONS[0]] * len(plain)), [UNCLEAR] * len(plain)
        ),
        "pictures_per_second": _speed(
            lambda batch: say(batch, [CAPTION_QUESTIONS[0]] * len(batch)), scenes["animal"][0]
        ),
    }


def save_examples(sprites: Path, picture: Path, captions: Path) -> None:
    """A sheet of held-out renderings for the tests, eight in a row, and what they show as JSON."""
    book = load_or_draw(Path(), sprites)
    animals = {}
    seed = REPORT_SEED + 2_000_000
    while len(animals) < len(world.ANIMALS):
        pixels, records = _held_out(book, 1, "animal", "all", seed)
        animals.setdefault(records[0].names[0], (pixels[0], records[0]))
        seed += 1
    chosen = [animals[animal] for animal in world.ANIMALS]
    for scene, number in (("person", 3), ("activity", 4), ("pair", 2), ("count", 2)):
        pixels, records = _held_out(book, number, scene, "all", seed)
        chosen += list(zip(pixels, records, strict=True))
    rows = [
        np.concatenate([pixels for pixels, _ in chosen[at : at + 8]], 1) for at in range(0, len(chosen), 8)
    ]
    Image.fromarray(np.concatenate(rows)).save(picture, lossless=True)
    captions.write_text(json.dumps([record.shown for _, record in chosen], indent=1) + "\n")


def _held_out(book: SpriteBook, count: int, scene: str, split: world.Split, seed: int) -> Pictures:
    pictures = held_out_pictures(book, count, scene, seed, split)
    return np.stack([picture.pixels for picture in pictures]), list(map(record_of, pictures))


def _tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def _texts_right(clip: CLIPModel, words: CLIPTokenizer, pictures: Pictures, texts: list[str]) -> float:
    pixels, records = pictures
    nearest = (embed_pictures(clip, pixels) @ embed_texts(clip, words, texts).T).argmax(1)
    return _share([_unordered(texts[place]) for place in nearest], [_unordered(one.shown) for one in records])


def _unordered(text: str) -> frozenset[str]:
    """The prompts name a pair in the order of world.ANIMALS, the records from left to right."""
    return frozenset(text.split(" and "))


def _caption(record: Record) -> str:
    return record.shown


def _how_many(record: Record) -> str:
    return COUNT_QUESTIONS[0].format(world.PLURALS[record.names[-1]])


def _how_many_others(record: Record) -> str:
    place = world.ANIMALS.index(record.names[0]) + 7
    others = [animal for animal in (*world.ANIMALS, *world.ANIMALS)[place:] if animal not in record.names]
    return COUNT_QUESTIONS[0].format(world.PLURALS[others[0]])


def _number(record: Record) -> str:
    return ("one", "two", "three")[record.names.count(record.names[-1]) - 1]


def _animals(record: Record) -> str:
    return " and ".join(dict.fromkeys(name for name in record.names if name in world.PLURALS)) or "none"


def _share(found: list, truth: list) -> float:
    return round(sum(one == other for one, other in zip(found, truth, strict=True)) / len(truth), 3)


def _speed(judge: Callable[[np.ndarray], object], pixels: np.ndarray) -> float:
    """Pictures a second in batches of 50, with as many threads as this process has."""
    judge(pixels[:50])
    start = time.perf_counter()
    for _ in range(5):
        judge(pixels[:50])
    return round(250 / (time.perf_counter() - start), 1)
