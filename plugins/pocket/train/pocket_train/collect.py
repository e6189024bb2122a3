"""Fetches the emoji drawings: five npm packages at fixed versions, through `npm pack`.

Every set is under MIT or Apache-2.0; `DrawingSet.licence` is checked against what the package itself
declares.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DrawingSet:
    """One npm package of drawings in Iconify's JSON format."""

    key: str  # how drawings.py names it
    package: str
    version: str
    licence: str  # SPDX


SETS: tuple[DrawingSet, ...] = (
    DrawingSet("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0"),
    DrawingSet("noto-v1", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0"),
    DrawingSet("fluent", "@iconify-json/fluent-emoji", "1.2.7", "MIT"),
    DrawingSet("flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT"),
    DrawingSet("fx", "@iconify-json/fxemoji", "1.2.2", "Apache-2.0"),
)


def collect(folder: Path) -> None:
    """Puts every set's `icons.json` and `info.json` under `folder/KEY/`; what is already there is kept."""
    for drawing_set in SETS:
        target = folder / drawing_set.key
        if not target.exists():
            _fetch(drawing_set, target)


def _fetch(drawing_set: DrawingSet, target: Path) -> None:
    if shutil.which("npm") is None:
        raise SystemExit(
            "npm is not installed; it fetches the drawings (`npm pack`). Install Node.js and try again."
        )
    unpacked = target.with_name(target.name + ".partial")
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    command = ["npm", "pack", "--silent", f"{drawing_set.package}@{drawing_set.version}"]
    archive = subprocess.run(
        command, cwd=unpacked, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    with tarfile.open(unpacked / archive) as bundle:
        for name in ("icons.json", "info.json", "package.json"):
            bundle.extract(f"package/{name}", unpacked, filter="data")
    (unpacked / archive).unlink()
    declared = json.loads((unpacked / "package/info.json").read_text())["license"]["spdx"]
    if declared != drawing_set.licence:
        raise SystemExit(
            f"{drawing_set.package} declares {declared}, expected {drawing_set.licence}: look at it first"
        )
    (unpacked / "package").rename(target)
    shutil.rmtree(unpacked)
