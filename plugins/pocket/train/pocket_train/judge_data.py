"""What the judges learn from: pictures of the whole world, held-out combinations too, whole and damaged.

A judge looks at what the pocket model draws, so a part of the pictures went through its autoencoder and a
part was drawn anew by the model itself, from a rendering under some noise or from nothing but the caption.
"""

from __future__ import annotations

import json
import logging
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from ddpo_pocket import world
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
from PIL import Image
from torch import Tensor

from .autoencoder import reconstruct
from .damage import damage_picture, grade_of
from .evaluate import Sampling, generate, load_pipeline
from .render import Picture, render
from .sprites import SpriteBook, load_or_draw

JUDGE_SEED = 500_000_000  # picture i has seed JUDGE_SEED + i: neither trained on by the model nor held out
SCENE_SHARES = {"animal": 0.34, "activity": 0.24, "person": 0.14, "pair": 0.16, "count": 0.12}
DECODED_EVERY = 6  # one picture in six went through the autoencoder
DECODED_QUALITY = 8 / 9  # grade 9
REDRAWN, DRAWN = 1500, 1000  # the first pictures of the set: from a rendering under noise, from the caption
STRENGTHS = (
    0.25,
    0.42,
    0.58,
    0.75,
    0.92,
)  # shares of the model's 12 steps that a redrawn picture went through
DRAWN_GRADE = 4.0  # drawn by the model alone in 12 steps without guidance; less noise, better grade
DRAWING = Sampling(steps=12, guidance_scale=1.0, eta=1.0, seed=7)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is known about a picture of the set."""

    caption: str  # as the renderer words it
    scene: str
    names: tuple[str, ...]  # every animal and person from left to right
    kinds: tuple[str, ...]  # how its damaged copy was made

    @property
    def shown(self) -> str:
        """The plain sentence: `"a cat"`, `"two cats"`, `"a cat and a dog"` with the left one first."""
        return what_is_shown(self.scene, self.names, self.caption)


@dataclass(frozen=True)
class JudgeData:
    """Every picture twice: whole and damaged."""

    whole: np.ndarray  # [N, 64, 64, 3] uint8
    damaged: np.ndarray  # [N, 64, 64, 3] uint8
    grades: np.ndarray  # [N, 2] float32, 1 to 10, of the whole and of the damaged picture
    records: list[Record]

    def pick(self, places: np.ndarray, damaged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(pictures [B, 64, 64, 3], grades [B]) at sorted `places`, damaged copies where `damaged`."""
        pixels = self.whole[places]
        pixels[damaged] = self.damaged[places[damaged]]
        return pixels, self.grades[places, damaged.astype(int)]


def make_judge_data(sprites: Path, model: Path, folder: Path, count: int, workers: int) -> None:
    """Renders, decodes, draws and damages `count` pictures into `folder`, once."""
    if (folder / "records.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    starts = [(start, min(start + 500, count)) for start in range(0, count, 500)]
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = [pool.submit(_make_range, sprites, model, start, stop) for start, stop in starts]
        blocks = [job.result() for job in jobs]
    whole, damaged, grades = (np.concatenate([block[part] for block in blocks]) for part in range(3))
    records = [record for block in blocks for record in block[3]]
    np.save(folder / "whole.npy", whole)
    np.save(folder / "damaged.npy", damaged)
    np.save(folder / "grades.npy", grades)
    # the records come last: their presence says that the set is complete
    lines = [json.dumps(asdict(record)) for record in records]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")


def load_judge_data(folder: Path) -> JudgeData:
    """What make_judge_data wrote; pictures memory-mapped."""
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("whole", "damaged", "grades")]
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    records = [Record(row["caption"], row["scene"], tuple(row["names"]), tuple(row["kinds"])) for row in rows]
    return JudgeData(*arrays, records)


def what_is_shown(scene: str, names: tuple[str, ...], caption: str) -> str:
    """The plain sentence for a picture with `names` from left to right."""
    if scene == "count":
        return f"{world.NUMBERS[len(names) - 2]} {world.PLURALS[names[0]]}"
    if scene == "activity":
        return f"{world.with_article(names[0])} {activity_of(caption)}"
    return " and ".join(map(world.with_article, names))


def activity_of(caption: str) -> str:
    """The entry of world.ACTIVITIES that a caption speaks of."""
    return next(
        activity
        for activity, phrases in world.ACTIVITY_PHRASES.items()
        if any(caption.endswith(phrase) for phrase in phrases)
    )


def record_of(picture: Picture, kinds: tuple[str, ...] = ()) -> Record:
    """What is known about a rendering."""
    return Record(picture.caption, picture.scene, tuple(placed.name for placed in picture.placed), kinds)


def render_for_judges(book: SpriteBook, number: int) -> Picture:
    """Picture `number` of the set, whole."""
    scene = random.Random(number).choices(list(SCENE_SHARES), list(SCENE_SHARES.values()))[0]
    return render(book, JUDGE_SEED + number, scene, "all")


def to_pixel_values(pixels: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 to [B, 3, H, W] in -1 to 1, what the shipped image processors do at 64 × 64."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(pixels: Tensor) -> np.ndarray:
    """[B, 3, H, W] in -1 to 1 to [B, H, W, 3] uint8."""
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def decode_again(model: Path, pixels: np.ndarray) -> np.ndarray:
    """[B, 64, 64, 3] uint8 through the shipped autoencoder and back."""
    return to_bytes(reconstruct(AutoencoderKL.from_pretrained(model / "vae"), pixels))


def _make_range(
    sprites: Path, model: Path, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Record]]:
    """(whole pictures, damaged pictures, grades of both, records)."""
    book = load_or_draw(Path(), sprites)
    pictures = [render_for_judges(book, number) for number in range(start, stop)]
    whole = np.stack([picture.pixels for picture in pictures])
    qualities = np.ones(len(pictures))
    decoded = np.arange(start, stop) % DECODED_EVERY == 0
    whole[decoded], qualities[decoded] = decode_again(model, whole[decoded]), DECODED_QUALITY
    if stop <= REDRAWN + DRAWN:
        pixels, grades, kinds = _draw_anew(model, pictures, whole, start)
    else:
        results = [
            damage_picture(pixels, random.Random(~number), quality)
            for number, pixels, quality in zip(range(start, stop), whole, qualities, strict=True)
        ]
        pixels, grades = np.stack([one.pixels for one in results]), [one.grade for one in results]
        kinds = [one.kinds for one in results]
    both = np.stack([[grade_of(quality) for quality in qualities], grades], 1).astype(np.float32)
    records = [record_of(picture, how) for picture, how in zip(pictures, kinds, strict=True)]
    return whole, pixels, both, records


def _draw_anew(
    model: Path, pictures: list[Picture], whole: np.ndarray, start: int
) -> tuple[np.ndarray, list[float], list[tuple[str, ...]]]:
    """(pictures, grades, kinds): drawn by the model with more or less help from the rendering."""
    captions, count = [picture.caption for picture in pictures], len(pictures)
    if start >= REDRAWN:
        drawn = generate(load_pipeline(model), captions, DRAWING)
        return drawn, [DRAWN_GRADE] * count, [("drawn",)] * count
    pixels, best = np.empty_like(whole), grade_of(DECODED_QUALITY)
    strengths = [STRENGTHS[place % len(STRENGTHS)] for place in range(count)]
    for strength in STRENGTHS:
        places = [place for place in range(count) if strengths[place] == strength]
        pixels[places] = redraw(model, [captions[place] for place in places], whole[places], strength)
    grades = [best - (best - DRAWN_GRADE) * strength for strength in strengths]
    return pixels, grades, [("redrawn",)] * count


def redraw(model: Path, captions: list[str], pixels: np.ndarray, strength: float) -> np.ndarray:
    """Each picture under the noise of step (1 − strength) × 12, taken up from there by the model."""
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        captions,
        image=[Image.fromarray(one) for one in pixels],
        strength=strength,
        num_inference_steps=DRAWING.steps,
        guidance_scale=DRAWING.guidance_scale,
        eta=DRAWING.eta,
        generator=torch.Generator().manual_seed(DRAWING.seed),
        output_type="np",
    ).images
    return (pictures * 255).round().astype(np.uint8)
