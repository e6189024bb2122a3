"""A run is a folder, and at any moment a whole one: killed in the middle of a write, it can be resumed.

    config.toml      resolved; `ddpo train --config` takes it back
    metrics.jsonl    one object an epoch
    images/          the fixed-seed grid, epoch 0 is before training
    records/         epoch-000012.json …: what rewards said of single pictures, a few of them
    checkpoints/     epoch-000012/ …: the latest, the best and every so many, each with its plugins.json
    adapter/         the trained weights in diffusers' format
    plugins.json     which distribution, version and weights gave each part
    report.html      to look at

A record holds the epoch's first few samples, without their pictures, and where the grid was drawn each of its
cells, as {"epoch": 12, "samples": [RECORD, …], "grid": [RECORD, …]}; `records.py` says what a RECORD is.

Files appear whole: written beside, flushed to the disk, renamed. An epoch's metrics line is written before
its checkpoint, so a resumed run drops lines after the checkpoint and writes them again, equal.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo_core.errors import CheckpointError, UsageError
from ddpo_core.nearest import nearest_path

Metrics = dict[str, float]


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut, where the system can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run, and how they are written and read."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def record(self, epoch: int) -> Path:
        """Where an epoch's record is or would be."""
        return self.root / "records" / f"epoch-{epoch:06d}.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def plugins(self) -> Path:
        return self.root / "plugins.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @classmethod
    def create(cls, root: Path) -> RunFolder:
        """A new, empty run. Raises `UsageError` where something is there already."""
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            goes_on = (root / "config.toml").is_file()
            hint = f"to go on with that run: ddpo train --resume {root}" if goes_on else "take another --out"
            raise UsageError(f"--out {root} exists and is not empty", hint=hint)
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    def discard_unused(self) -> None:
        """Remove the folder of a run that did not come to draw or train anything."""
        if not self.metrics.exists() and not self.images.exists() and not self.checkpoints.exists():
            shutil.rmtree(self.root, ignore_errors=True)

    @classmethod
    def open(cls, root: Path) -> RunFolder:
        """A run that is there. Raises `UsageError` where there is none."""
        if not (root / "config.toml").is_file():
            raise UsageError(
                f"{root} is not a run: it has no config.toml{'' if root.exists() else nearest_path(root)}",
                hint="give the folder that `ddpo train` wrote (--out)",
            )
        return cls(root)

    # metrics

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        """One line, on the disk when this returns."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(_line(metrics))
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[Metrics]:
        """All whole lines; a last line that was torn by a kill is left out."""
        if not self.metrics.is_file():
            return []
        rows = (json.loads(line) for line in self.metrics.read_bytes().split(b"\n")[:-1] if line)
        return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]

    def truncate_metrics(self, epoch: int) -> None:
        """Drop every line after `epoch`, and a torn one."""
        kept = [_line(row) for row in self.read_metrics() if row["epoch"] <= epoch]
        write_atomic(self.metrics, "".join(kept).encode())

    # checkpoints

    def checkpoint(self, epoch: int) -> Path:
        """Where an epoch's checkpoint is or would be."""
        return self.checkpoints / f"epoch-{epoch:06d}"

    def checkpoint_epochs(self) -> list[int]:
        """The epochs that have a whole checkpoint, in order."""
        if not self.checkpoints.is_dir():
            return []
        found = (re.fullmatch(r"epoch-(\d+)", entry.name) for entry in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def checkpoint_plugins(self, epoch: int) -> Any:
        """The checkpoint's own plugins.json; empty where an older ddpo wrote it."""
        record = self.checkpoint(epoch) / self.plugins.name
        return self.read_json(record) if record.is_file() else {}

    def latest_checkpoint(self) -> int | None:
        """The last epoch that was saved."""
        return max(self.checkpoint_epochs(), default=None)

    def pick_checkpoint(self, epoch: int | None) -> int:
        """That epoch, or the latest for None. Raises `UsageError` that names those that are kept."""
        kept = self.checkpoint_epochs()
        if epoch is None and kept:
            return kept[-1]
        if epoch is not None and epoch in kept:
            return epoch
        there = ", ".join(map(str, kept)) or "none"
        raise UsageError(f"{self.root} has no checkpoint of epoch {epoch or 'any kind'}; kept: {there}")

    def prune_checkpoints(self, weights: Mapping[str, float], keep_every: int) -> None:
        """Keep the latest, the best, and every `keep_every`-th; drop what a kill left half-written."""
        epochs = self.checkpoint_epochs()
        kept = {max(epochs, default=0), best_epoch(self.read_metrics(), epochs, weights)}
        for epoch in epochs:
            if epoch not in kept and not (keep_every and epoch % keep_every == 0):
                shutil.rmtree(self.checkpoint(epoch))
        for entry in self.checkpoints.glob("*"):
            if not re.fullmatch(r"epoch-\d+", entry.name) and entry.is_dir():
                shutil.rmtree(entry)

    def publish_adapter(self, export: Callable[[Path], None]) -> None:
        """Replace the adapter file by file: whoever loads it meanwhile finds whole files."""
        beside = self.root / ".adapter.writing"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        export(beside)
        for file in sorted(path for path in beside.rglob("*") if path.is_file()):
            target = self.adapter / file.relative_to(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(beside)

    # plugins.json

    def write_json(self, path: Path, record: Any) -> None:
        """A record, indented, atomically."""
        write_atomic(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, path: Path) -> Any:
        """A record that `write_json` wrote. Raises `CheckpointError` where it is not there or not whole."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def _line(metrics: Mapping[str, float]) -> str:
    """A line of metrics.jsonl; what is not finite becomes null, which JSON has."""
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def improvement(metrics: Metrics, first: Metrics, weights: Mapping[str, float]) -> float:
    """Weighted rise of the rewards over epoch 1, each in standard errors of epoch 1, so that units cancel."""
    rise = 0.0
    for label, weight in weights.items():
        spread = first.get(f"reward/{label}/stderr", 0.0) or 1.0
        rise += weight * (metrics[f"reward/{label}/mean"] - first[f"reward/{label}/mean"]) / spread
    return rise


def best_epoch(history: list[Metrics], epochs: list[int], weights: Mapping[str, float]) -> int | None:
    """Which of these epochs scored highest; None where there is nothing to compare."""
    candidates = [line for line in history if int(line["epoch"]) in epochs]
    if not candidates:
        return None
    return int(max(candidates, key=lambda line: improvement(line, history[0], weights))["epoch"])
