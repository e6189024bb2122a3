"""What the pages share: templates, and pictures with boxes on them and words under them.

Pages hold everything inside themselves and run no script. Boxes are SVG over the picture, so that small
pictures can be enlarged without blurring and boxes stay thin.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ddpo_cli import charts, records

if TYPE_CHECKING:
    from PIL.Image import Image

    from ddpo_cli.records import Record

PIXELATED_BELOW = 128  # pixels; smaller pictures are enlarged without blurring
OVERLAY_WIDTH = 320  # units of a box's drawing across the picture
BOX_COLOURS = 5
LETTER, LINE = 8.6, 17  # units: width of a letter and height of a line, a little more than they need


@dataclass(frozen=True)
class Shot:
    """One picture on a page, with what rewards said of it."""

    picture: str  # data URI
    overlay: str  # SVG, empty without boxes
    captions: Sequence[tuple[str, str]]  # (reward, text)
    scores: Sequence[tuple[str, str]]  # (reward, number)
    pixelated: bool


def render(template: str, contents: Mapping[str, Any]) -> str:
    """One of the templates, filled in. Values are escaped, except SVG that passes the filter `svg`."""
    from jinja2 import Environment, PackageLoader, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("ddpo_cli"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # only for what `charts` and this module made
    return environment.get_template(template).render(**contents)


def shot(picture: Image, record: Record | None = None) -> Shot:
    """The picture as the page shows it."""
    record = record or {}
    scores = {label: value for label, value in record.get("scores", {}).items() if value is not None}
    return Shot(
        picture=data_uri(picture),
        overlay=overlay(records.boxes(record), picture.height / picture.width),
        captions=records.captions(record),
        scores=[(label, charts.number(value)) for label, value in scores.items()],
        pixelated=picture.width < PIXELATED_BELOW,
    )


def data_uri(picture: Image) -> str:
    """The picture inside the page: PNG where it is small, WebP where PNGs would add up to megabytes."""
    buffer = io.BytesIO()
    if picture.width < PIXELATED_BELOW:
        picture.save(buffer, "PNG")
        kind = "png"
    else:
        picture.save(buffer, "WEBP", quality=90)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def overlay(boxes: Sequence[Mapping[str, Any]], aspect: float) -> str:
    """Boxes as an SVG that lies over a picture of height / width `aspect`; one colour for each label."""
    if not boxes:
        return ""
    height = OVERLAY_WIDTH * aspect
    labels = list(dict.fromkeys(str(box.get("label", "")) for box in boxes))
    marks = [_box(box, labels.index(str(box.get("label", ""))), height) for box in boxes]
    return f'<svg class="boxes" viewBox="0 0 {OVERLAY_WIDTH} {height:.0f}">{"".join(marks)}</svg>'


def _box(box: Mapping[str, Any], colour: int, height: float) -> str:
    left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) for edge in box["box"])
    x, y = left * OVERLAY_WIDTH, top * height
    size = f'width="{(right - left) * OVERLAY_WIDTH:.1f}" height="{(bottom - top) * height:.1f}"'
    score = f" {box['score']:.2f}" if isinstance(box.get("score"), int | float) else ""
    text = f"{box.get('label', '')}{score}"
    text_width = len(text) * LETTER + 6
    text_x = min(x, OVERLAY_WIDTH - text_width)
    text_y = min(max(y, 0), height - LINE)  # the words stay inside the picture
    return (
        f'<g class="c{colour % BOX_COLOURS + 1}"><rect class="box" x="{x:.1f}" y="{y:.1f}" {size}/>'
        f'<rect class="plate" x="{text_x:.1f}" y="{text_y:.1f}" width="{text_width:.1f}" height="{LINE}"/>'
        f'<text x="{text_x + 3:.1f}" y="{text_y + 13:.1f}">{escape(text)}</text></g>'
    )
