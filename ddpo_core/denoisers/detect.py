"""Which pipeline of diffusers a folder or a hub id holds, by its model_index.json alone. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddpo_core.errors import EnvironmentFault, UsageError

INDEX = "model_index.json"


def pipeline_class(pretrained: str, revision: str | None = None) -> str:
    """The class that the index names, such as "StableDiffusionPipeline".

    Of a hub id only this one file is fetched, into the hub's own cache. Raises `UsageError` for a folder that
    is no pipeline, `EnvironmentFault` where the hub has none to give.
    """
    return str(pipeline_index(pretrained, revision)["_class_name"])


def pipeline_index(pretrained: str, revision: str | None = None) -> dict[str, Any]:
    """The whole index: the class, settings, and part → [library, class], both null for a part left out."""
    path = Path(pretrained).expanduser()
    is_local = path.is_dir() or pretrained.startswith((".", "/", "~"))
    file = _local_index(path) if is_local else _fetched_index(pretrained, revision)
    try:
        index = json.loads(file.read_text())
    except ValueError:
        index = None
    if not isinstance(index, dict) or "_class_name" not in index:
        raise UsageError(
            f"model: the {INDEX} of {pretrained} names no pipeline: expected a _class_name in it"
        )
    return index


def check_pipeline_class(pretrained: str, expected: str, revision: str | None = None) -> None:
    """Refuse a folder or hub id of another class, before its weights are read."""
    found = pipeline_class(pretrained, revision)
    if found != expected:
        raise UsageError(
            f"model: {pretrained} is a {found}; expected a {expected}",
            hint=f"`--model {pretrained}` alone finds the right adapter; `ddpo models list` shows all",
        )


def _local_index(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"model: there is no folder {folder}")
    if not (folder / INDEX).is_file():
        raise UsageError(f"model: expected a diffusers folder, got {folder}, which has no {INDEX}")
    return folder / INDEX


def _fetched_index(hub_id: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise EnvironmentFault(
            f"model: {hub_id!r} is no folder here, and looking on the hub needs huggingface_hub",
            hint='pip install "ddpo[train]"',
        ) from error
    try:
        return Path(hf_hub_download(hub_id, INDEX, revision=revision))
    except Exception as error:  # the hub's client has errors of many kinds, and all mean the same here
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise EnvironmentFault(
            f"model: cannot load {hub_id!r}: {reason}",
            hint="give a local diffusers folder, or a hub id and a network (`hf auth login` for gated ones)",
        ) from error
