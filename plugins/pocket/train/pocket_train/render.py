"""Draws the pocket world: 64 × 64 pictures with captions, each a pure function of its seed.

A picture is a background, one to three sprites, and for the activities a few props. Captions name what is
there and never the skin tone. Held-out combinations (`world.HELD_OUT`) are never drawn unless asked for:
the judges see the whole world, the model does not.
"""

from __future__ import annotations

import colorsys
import json
import math
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ddpo_pocket import world
from PIL import Image, ImageDraw

from .sprites import Sprite, SpriteBook, load_or_draw

SIZE = 64  # pixels
TRAINING_SEED = 0  # picture i of the training set has seed TRAINING_SEED + i
HELD_OUT_SEED = 1_000_000_000  # renderings from here on are never trained on
SCENE_SHARES = {"animal": 0.45, "activity": 0.20, "person": 0.22, "pair": 0.09, "count": 0.04}
MIN_CONTRAST = 75.0  # RGB distance between a sprite's mean colour and the background's

_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@dataclass(frozen=True)
class Placed:
    """An animal or person of a picture, and the pixels that its drawing covers."""

    name: str  # an entry of world.ANIMALS or world.PEOPLE
    sprite: Sprite
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels, inside the picture
    square: tuple[int, int, int]  # left, top, side in pixels of the whole sprite; may reach outside


@dataclass(frozen=True)
class Picture:
    """One rendering with everything known about it."""

    pixels: np.ndarray  # [64, 64, 3] uint8
    caption: str
    scene: str  # a key of SCENE_SHARES
    subject: str  # the animal or person; of a pair, the first one named
    tone: int  # place in world.TONES, -1 where nobody has skin
    placed: tuple[Placed, ...]  # every animal and person, from left to right


@dataclass(frozen=True)
class Background:
    """What lies behind the sprites."""

    pixels: np.ndarray  # [64, 64, 3] float32, 0 to 255
    colour: str | None  # a key of world.COLOURS where a caption may name it


def render(book: SpriteBook, seed: int, scene: str | None = None, split: world.Split = "seen") -> Picture:
    """The picture of this seed; of the kind `scene` where given, else drawn by SCENE_SHARES.

    `split` says which combinations of animals and activities, and of two animals, may be drawn.
    """
    rng = random.Random(seed)
    if scene is None:
        scene = rng.choices(list(SCENE_SHARES), list(SCENE_SHARES.values()))[0]
    return _SCENES[scene](book, rng, split)


# --- scenes -------------------------------------------------------------------------------------------------


def _animal(book: SpriteBook, rng: random.Random, split: world.Split) -> Picture:
    word = rng.choice(world.ANIMALS)
    sprite = rng.choice(book.choices("animal", word))
    background = _contrasting_background(rng, sprite)
    canvas = Canvas(background.pixels)
    canvas.put(sprite, rng.uniform(48, 58), 32 + _jitter(rng, 2), 32 + _jitter(rng, 2))
    caption = _subject_caption(rng, word) + _background_phrase(rng, background)
    return canvas.picture(caption, "animal", word)


def _person(book: SpriteBook, rng: random.Random, split: world.Split) -> Picture:
    word = rng.choice(world.PEOPLE)
    tone = rng.choices(range(len(world.TONES)), world.TONE_SHARES)[0]
    sprite = rng.choice(book.choices("person", word, tone))
    background = _contrasting_background(rng, sprite)
    canvas = Canvas(background.pixels)
    canvas.put(sprite, rng.uniform(54, 60), 32 + _jitter(rng, 2), 33 + _jitter(rng, 2))
    extra = ("portrait of {}", "a portrait of {}")
    caption = _subject_caption(rng, word, extra) + _background_phrase(rng, background)
    return canvas.picture(caption, "person", word, tone)


def _activity(book: SpriteBook, rng: random.Random, split: world.Split) -> Picture:
    word, activity = rng.choice(_ACTIVITIES[split])
    sprite = rng.choice(book.choices("animal", word))
    background = _contrasting_background(rng, sprite)
    draw = {"riding a bike": _ride, "playing chess": _play_chess, "washing the dishes": _wash}[activity]
    canvas = Canvas(background.pixels)
    draw(canvas, book, rng, sprite)
    noun = word if rng.random() < 0.25 else world.with_article(word)
    caption = f"{noun} {rng.choice(world.ACTIVITY_PHRASES[activity])}"
    return canvas.picture(caption, "activity", word)


def _pair(book: SpriteBook, rng: random.Random, split: world.Split) -> Picture:
    left, right = rng.choice(_PAIRS[split])
    if rng.random() < 0.5:
        left, right = right, left
    left_sprite, right_sprite = (rng.choice(book.choices("animal", word)) for word in (left, right))
    canvas = Canvas(_contrasting_background(rng, left_sprite, right_sprite).pixels)
    canvas.put(left_sprite, rng.uniform(29, 32), 16.5 + _jitter(rng, 1), 32 + _jitter(rng, 4))
    canvas.put(right_sprite, rng.uniform(29, 32), 47.5 + _jitter(rng, 1), 32 + _jitter(rng, 4))
    first, relation, second = _relation_caption(rng, left, right)
    caption = f"{world.with_article(first)} {relation} {world.with_article(second)}"
    return canvas.picture(caption, "pair", first)


def _relation_caption(rng: random.Random, left: str, right: str) -> tuple[str, str, str]:
    """(first noun, relation, second noun), true of a picture with `left` on its left."""
    relation = rng.choices(world.RELATIONS, (0.5, 0.2, 0.15, 0.15))[0]
    swap = relation == "right of" or (relation in ("and", "next to") and rng.random() < 0.5)
    return (right, relation, left) if swap else (left, relation, right)


def _count(book: SpriteBook, rng: random.Random, split: world.Split) -> Picture:
    word = rng.choice(world.ANIMALS)
    number = rng.choices(world.DRAWN_NUMBERS, (0.65, 0.35))[0]
    sprite = rng.choice(book.choices("animal", word))
    canvas = Canvas(_contrasting_background(rng, sprite).pixels)
    size, places = {"two": (31.0, (16.5, 47.5)), "three": (21.0, (11.0, 32.0, 53.0))}[number]
    for place in places:
        canvas.put(sprite, size + _jitter(rng, 1), place + _jitter(rng, 1), 32 + _jitter(rng, 4))
    return canvas.picture(f"{number} {world.PLURALS[word]}", "count", word)


_SCENES: dict[str, Callable[[SpriteBook, random.Random, world.Split], Picture]] = {
    "animal": _animal,
    "activity": _activity,
    "person": _person,
    "pair": _pair,
    "count": _count,
}


def _in_split(held_out: bool, split: world.Split) -> bool:
    return split == "all" or held_out == (split == "held_out")


_SPLITS: tuple[world.Split, ...] = ("all", "seen", "held_out")
_ACTIVITIES = {
    split: [
        (animal, activity)
        for animal in world.ANIMALS
        for activity in world.ACTIVITIES
        if _in_split(world.is_held_out_activity(animal, activity), split)
    ]
    for split in _SPLITS
}
_PAIRS = {
    split: [
        (first, second)
        for first in world.ANIMALS
        for second in world.ANIMALS
        if first < second and _in_split(world.is_held_out_pair(first, second), split)
    ]
    for split in _SPLITS
}


def _ride(canvas: Canvas, book: SpriteBook, rng: random.Random, rider: Sprite) -> None:
    size, centre = rng.uniform(44, 48), 32 + _jitter(rng, 2)
    canvas.put(rng.choice(book.choices("prop", "bike")), size, centre, 63 - size * 0.40)
    canvas.put(rider, rng.uniform(33, 36), centre, 20 + _jitter(rng, 1))


def _play_chess(canvas: Canvas, book: SpriteBook, rng: random.Random, player: Sprite) -> None:
    """The player behind a chequered board with two pawns on it."""
    canvas.put(player, rng.uniform(40, 44), 32 + _jitter(rng, 3), 23 + _jitter(rng, 1))
    top = 45
    light, dark = np.array((240, 217, 181)), np.array((120, 80, 55))
    is_light = ((_COLUMNS // 8 + (_ROWS - top) // 7) % 2)[..., None]
    board = light * is_light + dark * (1 - is_light)
    canvas.pixels = np.where((top <= _ROWS)[..., None], board, canvas.pixels)
    for centre in (14 + _jitter(rng, 3), 50 + _jitter(rng, 3)):
        canvas.put(rng.choice(book.choices("prop", "chess piece")), 22, centre, top + 2)


def _wash(canvas: Canvas, book: SpriteBook, rng: random.Random, washer: Sprite) -> None:
    """The washer behind a basin of water with a plate, a sponge and foam in it."""
    canvas.put(washer, rng.uniform(40, 44), 32 + _jitter(rng, 3), 22 + _jitter(rng, 1))
    canvas.pixels = canvas.pixels.copy()
    canvas.pixels[46:] = (120, 190, 235)
    image = Image.fromarray(_to_bytes(canvas.pixels))
    pen = ImageDraw.Draw(image)
    for centre in range(4, 64, 11):
        x, y, radius = centre + _jitter(rng, 1), 46 + _jitter(rng, 1), rng.uniform(3, 4.5)
        pen.ellipse(
            [x - radius, y - radius, x + radius, y + radius], outline=(255, 255, 255), fill=(220, 240, 250)
        )
    canvas.pixels = np.asarray(image).astype(np.float32)
    canvas.put(rng.choice(book.choices("prop", "plate")), 26, 17 + _jitter(rng, 2), 50)
    canvas.put(rng.choice(book.choices("prop", "sponge")), 19, 49 + _jitter(rng, 2), 51)


# --- captions -----------------------------------------------------------------------------------------------


def _subject_caption(rng: random.Random, word: str, extra: tuple[str, ...] = ()) -> str:
    """The bare noun (35 %), with article (45 %), or as a photo, picture or one of `extra` (20 %)."""
    draw = rng.random()
    if draw < 0.35:
        return word
    if draw < 0.80:
        return world.with_article(word)
    template = rng.choice(("a photo of {}", "a picture of {}", *extra))
    return template.format(world.with_article(word))


def _background_phrase(rng: random.Random, background: Background) -> str:
    if background.colour is None or rng.random() < 0.5:
        return ""
    return f" on {world.with_article(background.colour)} background"


# --- backgrounds --------------------------------------------------------------------------------------------


def _contrasting_background(rng: random.Random, *sprites: Sprite) -> Background:
    """A background from which every sprite stands out, the last try where six tries find none."""
    means = [_mean_colour(sprite) for sprite in sprites]
    for _ in range(6):
        background = _background(rng)
        behind = background.pixels.mean((0, 1))
        if all(np.linalg.norm(mean - behind) > MIN_CONTRAST for mean in means):
            break
    return background


def _background(rng: random.Random) -> Background:
    """Solid 58 % (six tenths of them in a named colour), gradient 20 %, texture 22 %."""
    draw = rng.random()
    if draw < 0.35:
        name = rng.choice(list(world.COLOURS))
        colour = np.clip(np.array(world.COLOURS[name]) + [rng.gauss(0, 6) for _ in range(3)], 0, 255)
        return Background(_filled(colour), name)
    if draw < 0.58:
        return Background(_filled(_any_colour(rng)), None)
    if draw < 0.78:
        angle = rng.uniform(0, 2 * math.pi)
        along = (_COLUMNS - 32) * math.cos(angle) + (_ROWS - 32) * math.sin(angle)
        return Background(_blend(_any_colour(rng), _any_colour(rng), np.clip(along / 64 + 0.5, 0, 1)), None)
    texture = rng.choice((_stripes, _checks, _dots, _blotches, _landscape))
    return Background(texture(rng), None)


def _stripes(rng: random.Random) -> np.ndarray:
    angle, period = rng.choice((0.0, math.pi / 2, math.pi / 4)), rng.uniform(12, 22)
    along = _COLUMNS * math.cos(angle) + _ROWS * math.sin(angle)
    wave = 3 * np.sin(2 * math.pi * along / period + rng.uniform(0, 6))
    return _blend(*_related_colours(rng), 0.5 + 0.5 * np.clip(wave, -1, 1))


def _checks(rng: random.Random) -> np.ndarray:
    side = rng.choice((8, 16))
    return _blend(*_related_colours(rng), (_COLUMNS // side + _ROWS // side) % 2)


def _dots(rng: random.Random) -> np.ndarray:
    distance = np.hypot(_COLUMNS % 16 - 8, _ROWS % 16 - 8)
    return _blend(*_related_colours(rng), np.clip(1.5 * (5 - distance), 0, 1))


def _blotches(rng: random.Random) -> np.ndarray:
    coarse = np.random.default_rng(rng.getrandbits(32)).random((8, 8), dtype=np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return _blend(*_related_colours(rng), np.clip((smooth - 0.5) * 1.5 + 0.5, 0, 1))


def _landscape(rng: random.Random) -> np.ndarray:
    sky = np.array((150, 205, 245)) + [rng.gauss(0, 10) for _ in range(3)]
    ground = np.array(rng.choice(((110, 180, 80), (220, 195, 140), (200, 200, 205))))
    horizon = rng.uniform(34, 50)
    return _blend(np.clip(sky, 0, 255), ground, np.clip(_ROWS - horizon, 0, 1))


def _related_colours(rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    first = _any_colour(rng)
    return first, np.clip(first + [rng.uniform(-50, 50) for _ in range(3)], 0, 255)


def _any_colour(rng: random.Random) -> np.ndarray:
    hue, saturation, value = rng.random(), rng.uniform(0.15, 0.65), rng.uniform(0.55, 1)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255


def _filled(colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.float32)


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[64, 64, 3] float32: `first` where weight [64, 64] is 0, `second` where it is 1."""
    return (first * (1 - weight[..., None]) + second * weight[..., None]).astype(np.float32)


# --- pixels -------------------------------------------------------------------------------------------------


class Canvas:
    """A picture in the making, and where its animals and people stand."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels  # [64, 64, 3] float32, 0 to 255
        self.placed: list[Placed] = []

    def put(self, sprite: Sprite, size: float, centre_x: float, centre_y: float) -> None:
        """Lay the sprite over the picture at that size; what reaches outside is cut off."""
        side = round(size)
        left, top = round(centre_x - side / 2), round(centre_y - side / 2)
        scaled = Image.fromarray(sprite.pixels).resize((side, side), Image.Resampling.LANCZOS)
        layer = Image.new("RGBA", (SIZE, SIZE))
        layer.paste(scaled, (left, top))
        if sprite.kind != "prop":
            self.placed.append(Placed(sprite.word, sprite, _ink(layer), (left, top, side)))
        colours = np.asarray(layer, dtype=np.float32)
        alpha = colours[..., 3:] / 255
        self.pixels = self.pixels * (1 - alpha) + colours[..., :3] * alpha

    def picture(self, caption: str, scene: str, subject: str, tone: int = -1) -> Picture:
        """The finished picture."""
        placed = tuple(sorted(self.placed, key=lambda thing: thing.box[0]))
        return Picture(_to_bytes(self.pixels), caption, scene, subject, tone, placed)


def _ink(layer: Image.Image) -> tuple[float, float, float, float]:
    """The box of what is not transparent."""
    box = layer.getchannel("A").point(lambda alpha: 255 if alpha > 32 else 0).getbbox()
    return box or (0.0, 0.0, 0.0, 0.0)


def _mean_colour(sprite: Sprite) -> np.ndarray:
    small = sprite.pixels[::4, ::4].astype(np.float32)
    alpha = small[..., 3:]
    return (small[..., :3] * alpha).sum((0, 1)) / (alpha.sum() + 1e-6)


def _jitter(rng: random.Random, reach: float) -> float:
    return rng.uniform(-reach, reach)


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels, 0, 255).round().astype(np.uint8)


# --- the data set -------------------------------------------------------------------------------------------


def render_dataset(drawings: Path, folder: Path, count: int, workers: int) -> None:
    """Writes `pixels.npy` [count, 64, 64, 3] uint8 and `captions.jsonl` to `folder`, once."""
    if (folder / "captions.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    load_or_draw(drawings, folder / "sprites.npz")
    shape = (count, SIZE, SIZE, 3)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
    chunk = 1000
    starts = range(0, count, chunk)
    lines: list[str] = []
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(_render_range, folder / "sprites.npz", at, min(at + chunk, count)) for at in starts
        ]
        for start, job in zip(starts, jobs, strict=True):
            block, described = job.result()
            pixels[start : start + len(block)] = block
            lines += described
    pixels.flush()
    # captions come last: their presence says that the set is complete
    partial = folder / "captions.partial"
    partial.write_text("\n".join(lines) + "\n")
    partial.rename(folder / "captions.jsonl")


def _render_range(sprites: Path, start: int, stop: int) -> tuple[np.ndarray, list[str]]:
    book = load_or_draw(Path(), sprites)
    pictures = [render(book, TRAINING_SEED + seed) for seed in range(start, stop)]
    return np.stack([picture.pixels for picture in pictures]), [_describe(picture) for picture in pictures]


def _describe(picture: Picture) -> str:
    fields = ("caption", "scene", "subject", "tone")
    return json.dumps({name: getattr(picture, name) for name in fields})


def load_dataset(folder: Path) -> tuple[np.ndarray, list[dict]]:
    """(memory-mapped pixels [N, 64, 64, 3] uint8, one record per picture: caption, scene, subject, tone)."""
    records = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    return np.load(folder / "pixels.npy", mmap_mode="r"), records


def held_out_pictures(
    book: SpriteBook,
    count: int,
    scene: str | None = None,
    seed: int = HELD_OUT_SEED,
    split: world.Split = "seen",
) -> list[Picture]:
    """Renderings that are in no training set: same drawings, new places, sizes and backgrounds."""
    return [render(book, seed + number, scene, split) for number in range(count)]
