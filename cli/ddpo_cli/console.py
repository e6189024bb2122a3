"""Writing to a terminal: colour where it is wanted, tables that fit, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
SCHEMA = 1  # of everything that `--json` prints


def style(text: str, name: str, stream: TextIO | None = None) -> str:
    """The text in a colour, or as it is where the stream is no terminal or NO_COLOR is set."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\033[{_CODES[name]}m{text}\033[0m"


def emit_json(value: Mapping[str, object]) -> None:
    """One JSON object on stdout. Infinite numbers, which JSON has not, become null."""
    print(json.dumps({"schema": SCHEMA, **_finite(value)}, ensure_ascii=False, indent=2))


def _finite(value: Mapping[str, object]) -> dict[str, object]:
    return {key: _finite_value(item) for key, item in value.items()}


def _finite_value(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return _finite({str(key): item for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [_finite_value(item) for item in value]
    return value


def table(rows: Sequence[Sequence[str]], headings: Sequence[str], stream: TextIO | None = None) -> str:
    """Rows under headings; the last column is wrapped to the terminal's width."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    indent = sum(widths[:-1]) + 2 * (len(widths) - 1)
    # a pipe gets whole lines, for grep
    width = shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else 10_000
    lines = [style(_row(headings, widths), "bold", stream)]
    for row in rows:
        last = textwrap.wrap(row[-1], max(width - indent, 20), break_on_hyphens=False) or [""]
        lines.append(_row((*row[:-1], last[0]), widths))
        lines += [" " * indent + line for line in last[1:]]
    return "\n".join(lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
