"""Everything a run is, saved atomically and restored exactly.

A checkpoint is a folder: `weights.safetensors` (trained weights only), `optimizer.pt` (optimiser and
gradient scaler, tensors only, no code) and `state.json` (the rest), and whatever the caller puts beside them,
such as the command line's `plugins.json`. It is written beside its final name,
synced and renamed, so a folder with its final name is complete, whatever was killed when.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpo_core.errors import CheckpointError

PREFIX = "epoch-"
UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class RunState:
    """A run between two epochs. The samplers' noise is no part of it: that follows from seed and epoch."""

    epoch: int  # epochs that are done
    updates: int  # optimiser steps that are done
    reward_queries: int  # images scored so far
    weights: dict[str, Tensor]  # the trained weights
    optimizer: dict[str, Any]
    scaler: dict[str, Any]  # empty without fp16
    normaliser: dict[str, Any]  # each prompt's latest scores
    prompts: dict[str, Any]  # task → the stream's position
    multipliers: dict[str, Any]  # task → the weights of its constraints
    random: list[dict[str, Any]]  # of each process: the global states that third-party rewards may use


def capture_random() -> dict[str, Any]:
    """The global random states of this process, as plain JSON."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().tolist(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def restore_random(state: dict[str, Any]) -> None:
    """Set the global random states of this process."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


def sync(path: Path) -> None:
    """Ask the disk to hold a file or folder now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_name(epoch: int) -> str:
    """The folder's name; they sort by epoch."""
    return f"{PREFIX}{epoch:06d}"


def save(root: Path, state: RunState, beside: Mapping[str, bytes] = MappingProxyType({})) -> Path:
    """Write `root/epoch-NNNNNN` and return it, in the place of one from before an interruption.

    `beside` are other files that belong to it: name → content.
    """
    final = root / checkpoint_name(state.epoch)
    unfinished = root / f"{UNFINISHED}{final.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file(
        {name: weight.contiguous() for name, weight in state.weights.items()},
        unfinished / "weights.safetensors",
    )
    torch.save({"optimizer": state.optimizer, "scaler": state.scaler}, unfinished / "optimizer.pt")
    rest = {
        "epoch": state.epoch,
        "updates": state.updates,
        "reward_queries": state.reward_queries,
        "normaliser": state.normaliser,
        "prompts": state.prompts,
        "multipliers": state.multipliers,
        "random": state.random,
    }
    (unfinished / "state.json").write_text(json.dumps(rest))
    for name, content in beside.items():
        (unfinished / name).write_bytes(content)
    for file in unfinished.iterdir():
        sync(file)
    sync(unfinished)
    if final.exists():
        shutil.rmtree(final)
    unfinished.rename(final)
    sync(root)
    return final


def load(folder: Path) -> RunState:
    """Read a checkpoint. Raises `CheckpointError` where it is missing or cannot be read."""
    try:
        rest = json.loads((folder / "state.json").read_text())
        tensors = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        weights = load_file(folder / "weights.safetensors")
    except Exception as error:  # every reader has errors of its own, and any of them means the same here
        raise CheckpointError(
            f"checkpoint {folder}: cannot be read: {type(error).__name__}: {error}"
        ) from error
    missing = {field.name for field in fields(RunState)} - {*rest, "weights", "optimizer", "scaler"}
    if missing:
        what = ", ".join(sorted(missing))
        raise CheckpointError(f"checkpoint {folder}: has no {what}; another ddpo wrote it")
    return RunState(weights=weights, optimizer=tensors["optimizer"], scaler=tensors["scaler"], **rest)


def epoch_of(folder: Path) -> int:
    """The epoch in a checkpoint's name."""
    return int(folder.name.removeprefix(PREFIX))


def complete(root: Path) -> list[Path]:
    """The complete checkpoints under `root`, oldest first."""
    return sorted(path for path in root.glob(f"{PREFIX}*") if path.is_dir())


def latest(root: Path) -> Path:
    """The newest complete checkpoint. Raises `CheckpointError` if there is none."""
    checkpoints = complete(root)
    if not checkpoints:
        raise CheckpointError(f"no complete checkpoint in {root}; nothing to resume from")
    return checkpoints[-1]
