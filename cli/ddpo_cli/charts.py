"""Curves as inline SVG: no library, no script. Colours are CSS variables, so a page can be light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 56, 16, 12, 28
MOST_HOVER_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """y over x, with a band of ± `errors` where there are some."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float] = ()
    colour: int = 1  # of the page's series colours


@dataclass(frozen=True)
class _Frame:
    """From data to pixels."""

    width: int
    height: int
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        inner = self.width - MARGIN_LEFT - MARGIN_RIGHT
        return MARGIN_LEFT + (value - self.x_low) / ((self.x_high - self.x_low) or 1) * inner

    def y(self, value: float) -> float:
        inner = self.height - MARGIN_TOP - MARGIN_BOTTOM
        return MARGIN_TOP + (self.y_high - value) / ((self.y_high - self.y_low) or 1) * inner


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, about so many: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """Short and readable: 0.012, 1.5, 12 000, 3.1e-6."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.2g}"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """The ticks with as many decimals as tell them apart; in powers of ten where those would be many."""
    step = min((abs(b - a) for a, b in pairwise(ticks)), default=0.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 9
    if decimals > 4 or max(map(abs, ticks)) >= 10_000:
        return [number(tick) for tick in ticks]
    return [f"{tick:.{decimals}f}" for tick in ticks]


def with_error(mean: float, error: float) -> str:
    """`-1.579 ± 0.012`: as many digits as the error leaves meaning to, two of its own."""
    if not (math.isfinite(error) and error > 0):
        return number(mean)
    decimals = min(12, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def svg(curves: Sequence[Curve], *, width: int = 640, height: int = 260, x_name: str = "epoch") -> str:
    """One chart. Values that are not finite are left out of it."""
    curves = [_finite(curve) for curve in curves]
    curves = [curve for curve in curves if curve.x]
    if not curves:
        return ""
    frame = _frame(curves, width, height)
    marks = [*_grid(frame, x_name)]
    for curve in curves:
        marks += [_band(frame, curve), _line(frame, curve), *_points(frame, curve, x_name)]
    label = escape(f"{', '.join(curve.name for curve in curves)} over {x_name}")
    inner = "\n".join(mark for mark in marks if mark)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n{inner}\n</svg>'


def _finite(curve: Curve) -> Curve:
    errors = curve.errors or [0.0] * len(curve.x)
    rows = [row for row in zip(curve.x, curve.y, errors, strict=True) if math.isfinite(row[1])]
    x, y, kept = zip(*rows, strict=True) if rows else ((), (), ())
    kept = tuple(error if math.isfinite(error) else 0.0 for error in kept)
    return Curve(curve.name, x, y, kept if curve.errors else (), curve.colour)


def _frame(curves: Sequence[Curve], width: int, height: int) -> _Frame:
    lows = [y - e for c in curves for y, e in zip(c.y, c.errors or [0.0] * len(c.y), strict=True)]
    highs = [y + e for c in curves for y, e in zip(c.y, c.errors or [0.0] * len(c.y), strict=True)]
    low, high = min(lows), max(highs)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    # a quantity that cannot be negative keeps its zero line where that is near
    low = 0.0 if 0 <= low < (high - low) * 0.5 else low - room
    xs = [x for curve in curves for x in curve.x]
    return _Frame(width, height, min(xs), max(xs), low, high + room)


def _grid(frame: _Frame, x_name: str) -> list[str]:
    right, bottom = frame.width - MARGIN_RIGHT, frame.height - MARGIN_BOTTOM
    marks = []
    ticks = nice_ticks(frame.y_low, frame.y_high, max(3, frame.height // 45))
    for value, text in zip(ticks, tick_texts(ticks), strict=True):
        y = frame.y(value)
        marks.append(f'<line class="grid" x1="{MARGIN_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(_tick(MARGIN_LEFT - 8, y + 4, text, "end"))
    for value in nice_ticks(frame.x_low, frame.x_high, max(3, frame.width // 90)):
        if float(value).is_integer():
            marks.append(_tick(frame.x(value), bottom + 18, number(value), "middle"))
    marks.append(f'<line class="axis" x1="{MARGIN_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    if x_name != "epoch":
        marks.append(_tick(right, bottom - 6, escape(x_name), "end"))
    return marks


def _band(frame: _Frame, curve: Curve) -> str:
    if not any(curve.errors):
        return ""
    rows = list(zip(curve.x, curve.y, curve.errors, strict=True))
    above = [f"{frame.x(x):.1f},{frame.y(y + e):.1f}" for x, y, e in rows]
    below = [f"{frame.x(x):.1f},{frame.y(y - e):.1f}" for x, y, e in reversed(rows)]
    return f'<polygon class="band c{curve.colour}" points="{" ".join(above + below)}"/>'


def _line(frame: _Frame, curve: Curve) -> str:
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
    return f'<polyline class="line c{curve.colour}" points="{points}"/>'


def _points(frame: _Frame, curve: Curve, x_name: str) -> list[str]:
    """A dot at the end, and something to point at everywhere: SVG's own tooltips need no script."""
    dot = _circle(frame, curve.x[-1], curve.y[-1], f"dot c{curve.colour}", 3.5) + "</circle>"
    if len(curve.x) > MOST_HOVER_POINTS:
        return [dot]
    errors = curve.errors or [0.0] * len(curve.x)
    hovers = []
    for x, y, error in zip(curve.x, curve.y, errors, strict=True):
        margin = f" ± {number(error)}" if error else ""
        title = escape(f"{x_name} {x:g} · {curve.name} {number(y)}{margin}")
        hovers.append(f"{_circle(frame, x, y, 'hover', 7)}<title>{title}</title></circle>")
    return [dot, *hovers]


def _circle(frame: _Frame, x: float, y: float, kind: str, radius: float) -> str:
    """The opening tag."""
    return f'<circle class="{kind}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius}">'


def _tick(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def whisker(
    mean: float,
    error: float,
    *,
    mark: float | None,
    others: Sequence[tuple[float, float]],
    tone: str = "",
    width: int = 120,
) -> str:
    """A dot with ± one standard error, on the scale that all of `others` (mean, error) span.

    `mark` is where it started, a thin line. Nothing is drawn where no error is known: a scale of two bare
    numbers would make any difference look large.
    """
    known = [(m, e if math.isfinite(e) else 0.0) for m, e in others if math.isfinite(m)]
    if not (math.isfinite(mean) and math.isfinite(error)):
        return ""
    low, high = min(m - e for m, e in known), max(m + e for m, e in known)
    inner = width - 12

    def x(value: float) -> float:
        return 6 + ((value - low) / (high - low) if high > low else 0.5) * inner

    start = ""
    if mark is not None and math.isfinite(mark):
        start = f'<line class="start" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="2" y2="14"/>'
    return (
        f'<svg class="whisker {tone or "even"}" viewBox="0 0 {width} 16" aria-hidden="true">'
        f'<line class="grid" x1="0" x2="{width}" y1="8" y2="8"/>{start}'
        f'<line class="span" x1="{x(mean - error):.1f}" x2="{x(mean + error):.1f}" y1="8" y2="8"/>'
        f'<circle cx="{x(mean):.1f}" cy="8" r="3.5"/></svg>'
    )
