"""Turns the chosen SVG drawings into 112 × 112 RGBA sprites, and keeps them where the renderer can pick.

Leaves out most drawings on purpose: a small model averages over drawings that differ much, so each animal has
two or three that agree (all heads, or all bodies), and people come from three sets only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ddpo_pocket import world
from PIL import Image

SPRITE_SIZE = 112  # pixels
_USUAL_SETS = ("noto", "fluent", "flat")

# Animals whose drawing is not simply called after them, or not taken from the usual three sets.
_ANIMAL_DRAWINGS: dict[str, tuple[str, ...]] = {
    "cat": ("noto:cat-face", "fluent:cat-face", "flat:cat-face"),
    "dog": ("noto:dog-face", "fluent:dog-face", "flat:dog-face"),
    "monkey": ("noto:monkey-face", "fluent:monkey-face", "flat:monkey-face"),
    "rabbit": ("noto:rabbit-face", "fluent:rabbit-face", "flat:rabbit-face"),
    "tiger": ("noto:tiger-face", "fluent:tiger-face", "flat:tiger-face"),
    "mouse": ("noto:mouse-face", "fluent:mouse-face", "flat:mouse-face"),
    "pig": ("noto:pig-face", "fluent:pig-face", "flat:pig-face", "fx:pig"),
    "bird": ("noto:bird", "noto-v1:bird"),
    "goat": ("noto:goat", "noto-v1:goat"),
    "butterfly": ("noto-v1:butterfly", "fluent:butterfly", "flat:butterfly"),
    "raccoon": ("fluent:raccoon", "flat:raccoon"),
    "sheep": ("noto:ewe", "fluent:ewe", "flat:ewe"),
    "fish": ("noto:tropical-fish", "fluent:tropical-fish", "flat:tropical-fish"),
    "whale": ("noto:spouting-whale", "fluent:spouting-whale", "flat:spouting-whale"),
    "squirrel": ("noto:chipmunk", "fluent:chipmunk", "flat:chipmunk"),
    "bee": ("noto:honeybee", "fluent:honeybee", "flat:honeybee"),
    "camel": ("noto:two-hump-camel", "fluent:two-hump-camel", "flat:two-hump-camel"),
    "chicken": ("noto:chicken", "fluent:chicken", "flat:chicken", "fx:chicken"),
}
_PROFESSION_DRAWINGS = {
    "doctor": "health-worker",
    "programmer": "technologist",
    "builder": "construction-worker",
}
_PLAIN_PEOPLE = {"grandmother": "old-woman", "grandfather": "old-man"}
_PROPS = {
    "bike": "bicycle",
    "chess piece": "chess-pawn",
    "plate": "fork-and-knife-with-plate",
    "sponge": "sponge",
}


@dataclass(frozen=True)
class Sprite:
    """One drawing, cropped to its ink and centred on a square."""

    kind: str  # "animal", "person" or "prop"
    word: str
    tone: int  # place in world.TONES, -1 where there is no skin
    pixels: np.ndarray  # [112, 112, 4] uint8 RGBA


class SpriteBook:
    """Sprites by (kind, word, tone)."""

    def __init__(self, sprites: list[Sprite]) -> None:
        self._by_key: dict[tuple[str, str, int], list[Sprite]] = {}
        for sprite in sprites:
            self._by_key.setdefault((sprite.kind, sprite.word, sprite.tone), []).append(sprite)

    def choices(self, kind: str, word: str, tone: int = -1) -> list[Sprite]:
        """All drawings of one thing. Raises KeyError where there is none."""
        return self._by_key[kind, word, tone]


def load_or_draw(drawings: Path, cache: Path) -> SpriteBook:
    """The sprites, drawn once from the sets under `drawings` and then kept in `cache` (an .npz file)."""
    if not cache.exists():
        _save(list(_draw_all(drawings)), cache)
    stored = np.load(cache)
    rows = json.loads(str(stored["index"]))
    return SpriteBook(
        [Sprite(**row, pixels=pixels) for row, pixels in zip(rows, stored["pixels"], strict=True)]
    )


def _save(sprites: list[Sprite], cache: Path) -> None:
    index = json.dumps([{"kind": s.kind, "word": s.word, "tone": s.tone} for s in sprites])
    partial = cache.with_suffix(".partial.npz")
    np.savez(partial, index=index, pixels=np.stack([sprite.pixels for sprite in sprites]))
    partial.rename(cache)


def _draw_all(drawings: Path) -> Iterator[Sprite]:
    sets = {
        path.name: json.loads((path / "icons.json").read_text())
        for path in drawings.iterdir()
        if path.is_dir()
    }
    for word in world.ANIMALS:
        for name in _ANIMAL_DRAWINGS.get(word, tuple(f"{key}:{word}" for key in _USUAL_SETS)):
            key, icon = name.split(":")
            yield Sprite("animal", word, -1, _required(sets[key], icon))
    for word, icon in _PROPS.items():
        for key in _USUAL_SETS:
            if (svg := _svg(sets[key], icon)) is not None:
                yield Sprite("prop", word, -1, _rasterise(svg))
    for word in world.PEOPLE:
        yield from _draw_person(sets, word)


def _draw_person(sets: dict[str, dict], word: str) -> Iterator[Sprite]:
    """One word's drawings in all five tones; professions exist as person, man and woman."""
    for key in _USUAL_SETS:
        suffix = "-skin-tone" if key == "noto" else ""
        for icon in _person_icons(word):
            for tone, tone_name in enumerate(world.TONES):
                svg = _svg(sets[key], f"{icon}-{tone_name}{suffix}")
                if svg is not None:
                    yield Sprite("person", word, tone, _rasterise(svg))


def _person_icons(word: str) -> list[str]:
    if word not in world.PROFESSIONS:
        return [_PLAIN_PEOPLE.get(word, word)]
    icon = _PROFESSION_DRAWINGS.get(word, word.replace(" ", "-"))
    return [icon, f"man-{icon}", f"woman-{icon}"]


def _required(icon_set: dict, icon: str) -> np.ndarray:
    svg = _svg(icon_set, icon)
    if svg is None:
        raise SystemExit(
            f"the set {icon_set['prefix']} has no drawing {icon!r}; was another version fetched?"
        )
    return _rasterise(svg)


def _svg(icon_set: dict, icon: str) -> str | None:
    """The drawing as a stand-alone SVG document, None where the set has no such drawing."""
    icon = icon_set.get("aliases", {}).get(icon, {}).get("parent", icon)
    entry = icon_set["icons"].get(icon)
    if entry is None:
        return None
    width = entry.get("width", icon_set.get("width", 16))
    height = entry.get("height", icon_set.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">{entry["body"]}</svg>'
    )


def _rasterise(svg: str) -> np.ndarray:
    """[112, 112, 4] uint8: the drawing without its empty margin, centred on a transparent square."""
    import resvg_py

    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=128)))).convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS))
