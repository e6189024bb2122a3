"""plugins.json: which distribution, version and weights gave each part of a run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_core import spec as grammar
from ddpo_core.config import specs, task_specs
from ddpo_core.config.settings import RunConfig
from ddpo_core.errors import EnvironmentFault, UsageError
from ddpo_core.judges import locate, sha256

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

ENVIRONMENT = ("ddpo", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow")
IDENTITY = ("distribution", "version", "weights")  # what must not change under a run
HASHED_END = 1 << 16


def describe(config: RunConfig, registry: Registry) -> dict[str, Any]:
    """The record of a run's parts."""
    rewards = {}
    trained = task_specs.rewards_of(config)
    for text in (*trained, *config.watch):
        found = specs.find(registry, "reward", text)
        rewards[found.spec.label] = {
            **_part(registry, "reward", text),
            "weight": found.spec.weight if text in trained else 0,
            "unit": found.info.unit,
            "higher_is": found.info.higher_is,
        }
    parts = {kind: _part(registry, kind, getattr(config, kind)) for kind in ("model", "sampler", "estimator")}
    if config.prompts:
        parts["prompts"] = _part(registry, "prompts", config.prompts)
    return {"rewards": rewards, "parts": parts, "environment": environment()}


def environment() -> dict[str, str]:
    """Versions that numbers depend on."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in ENVIRONMENT:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _part(registry: Registry, kind: str, text: str) -> dict[str, Any]:
    found = specs.find(registry, kind, text)
    weights = {item.name: item.sha256 for item in getattr(found.info, "weights", ()) if item.sha256}
    weights |= dict(_judges(found.spec.options)) if kind == "reward" else {}
    pretrained = found.spec.options.get("pretrained")
    if isinstance(pretrained, str) and Path(pretrained).is_dir():
        weights["pretrained"] = fingerprint(Path(pretrained))
    return {
        "name": found.info.name,
        "distribution": found.distribution,
        "version": found.version or _file_version(found.source),
        "weights": weights,
    }


def _judges(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The weights that a reward's options name on this machine: option and fingerprint."""
    for key, value in options.items():
        try:
            place = Path(locate(value)) if isinstance(value, str) and len(value) < 1000 else None
        except EnvironmentFault:  # said with more words where the reward is built
            continue
        if place is not None and place.is_dir():
            yield key, fingerprint(place)
        elif place is not None and place.is_file():
            yield key, sha256(place)


def _file_version(source: str) -> str:
    """A loose plugin file has no version but its content."""
    file = Path(source)
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" if file.is_file() else ""


def fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes, heads and tails of a model's files: cheap, and a retrained one differs."""
    digest = hashlib.sha256()
    for file in sorted(
        path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".json")
    ):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(HASHED_END))
            opened.seek(max(0, file.stat().st_size - HASHED_END))
            digest.update(opened.read(HASHED_END))
    return digest.hexdigest()


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], *, allowed: bool) -> None:
    """Raise `UsageError` where a part of the run comes from elsewhere than when it began."""
    changes = list(_changes(before, now))
    if changes and not allowed:
        raise UsageError(
            "this run was begun with other plugins:\n  " + "\n  ".join(changes),
            hint="install those again, or accept that it becomes another run: --allow-plugin-change",
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for group in ("rewards", "parts"):
        for name, then in before.get(group, {}).items():
            here = now.get(group, {}).get(name, {})
            for key in IDENTITY:
                if then.get(key) != here.get(key):
                    yield f"{group.removesuffix('s')} {name}: {key} was {then.get(key)}, is {here.get(key)}"


def labels(config: RunConfig) -> dict[str, float]:
    """Label → weight of the rewards that are trained on."""
    return {
        spec.label: spec.weight for spec in grammar.parse_all(task_specs.rewards_of(config), weighted=True)
    }
