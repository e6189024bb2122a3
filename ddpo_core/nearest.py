"""What somebody probably meant: the valid name that is nearest to the one that was typed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(typed: str, valid: Iterable[str]) -> str:
    """`; did you mean 'num_steps'?`, or nothing where no valid name is near."""
    name = nearest(typed, valid)
    return f"; did you mean '{name}'?" if name else ""


def nearest(typed: str, valid: Iterable[str]) -> str:
    """The valid name that is spelled most alike, else the one whose words begin so (`lr`), else nothing."""
    by_spelling = {_plain(name): name for name in valid}
    near = get_close_matches(_plain(typed), by_spelling, n=1)
    initials = {
        "".join(word[:1] for word in plain.split("_")): plain for plain in by_spelling if "_" in plain
    }
    found = near[0] if near else initials.get(_plain(typed), "")
    return by_spelling.get(found, "")


def nearest_path(typed: Path) -> str:
    """The same of what lies in the folder of a path that is not there."""
    if not typed.parent.is_dir():
        return ""
    name = nearest(typed.name, (entry.name for entry in typed.parent.iterdir()))
    return f"; did you mean '{typed.parent / name}'?" if name else ""


def _plain(name: str) -> str:
    """Without what is easily taken for something else: case, '-' for '_', a flag's dashes."""
    return name.casefold().lstrip("-").replace("-", "_")
