"""plugins.json: which distribution, version and weights gave each part of a run, and so each score.

It stands in the run's folder and in every checkpoint, and reports show it. A plugin that is installed in
editable mode changes without a new version, so the record also has a hash over the files of its package:
names, sizes, and 64 kB at both ends of each, which is all of any usual source file and enough to tell one
file of weights from another. Not covered: other packages that it imports (`environment` has the versions of
those that numbers depend on most), ddpo's own files, and what a server answers with.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_core import spec as grammar
from ddpo_core.config import specs, task_specs
from ddpo_core.config.settings import RunConfig
from ddpo_core.errors import EnvironmentFault
from ddpo_core.judges import locate, sha256

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry

FILE = "plugins.json"
ENVIRONMENT = ("ddpo", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow")
IDENTITY = {  # what must not change under a run, and how it is called
    "distribution": "distribution",
    "version": "version",
    "weights": "hash of weights",
    "files": "hash of its files",
}
HASHED_END = 1 << 16
SHORT = 12  # digits of a hash that people are shown
MODEL_FILES = (".safetensors", ".bin", ".json")


def describe(config: RunConfig, registry: Registry) -> dict[str, Any]:
    """The record of a run's parts."""
    rewards = {}
    trained = task_specs.rewards_of(config)
    for text in (*trained, *config.watch):
        label, part = of_reward(registry, text)
        rewards[label] = part if text in trained else {**part, "weight": 0}
    parts = {kind: _part(registry, kind, getattr(config, kind)) for kind in ("model", "sampler", "estimator")}
    if config.prompts:
        parts["prompts"] = _part(registry, "prompts", config.prompts)
    return {"rewards": rewards, "parts": parts, "environment": environment()}


def of_reward(registry: Registry, text: str) -> tuple[str, dict[str, Any]]:
    """A reward's label, and who gives its scores."""
    found = specs.find(registry, "reward", text)
    return found.spec.label, {
        **_part(registry, "reward", text),
        "weight": found.spec.weight,
        "unit": found.info.unit,
        "higher_is": found.info.higher_is,
        "options": dict(found.spec.options),
        "on_error": found.spec.on_error,
        "tries": found.spec.tries,
        "time_limit": found.spec.time_limit,
    }


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
    weights = dict(_judges(found.spec.options)) if kind == "reward" else {}
    if not weights:  # where options name none, those that the plugin names by their checksums
        weights = {item.name: item.sha256 for item in getattr(found.info, "weights", ()) if item.sha256}
    pretrained = found.spec.options.get("pretrained")
    if isinstance(pretrained, str) and Path(pretrained).is_dir():
        weights["pretrained"] = fingerprint(Path(pretrained))
    return {
        "name": found.info.name,
        "distribution": found.distribution,
        "version": found.version or _file_version(found.source),
        "weights": weights,
        "files": "" if found.distribution == "ddpo" else package_hash(found.source),
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


def package_hash(source: str) -> str:
    """The hash over the package of an entry point (`package.module:attribute`).

    Nothing for a loose file, whose version is one, and for a module that is in no file.
    """
    place = _package(source.partition(":")[0]) if not Path(source).is_file() else None
    if place is None:
        return ""
    if place.is_file():
        return sha256(place)
    return fingerprint(place, lambda path: path.suffix != ".pyc")


def _package(module: str) -> Path | None:
    """The folder of a module's outermost package that has an `__init__`, or the file of a lone module."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:count]))
        except (ImportError, ValueError):  # it went, or was put into sys.modules by hand
            return None
        if spec is not None and spec.origin is not None:  # a namespace package has none
            file = Path(spec.origin)
            return file.parent if file.name == "__init__.py" else file if file.is_file() else None
    return None


def fingerprint(
    folder: Path, is_counted: Callable[[Path], bool] = lambda path: path.suffix in MODEL_FILES
) -> str:
    """SHA-256 over names, sizes, heads and tails of a model's files: cheap, and a retrained one differs."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if is_counted(path) and path.is_file()):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(HASHED_END))
            opened.seek(max(0, file.stat().st_size - HASHED_END))
            digest.update(opened.read(HASHED_END))
    return digest.hexdigest()


# ---- going on with others ----------------------------------------------------------------------------


def gone_on(
    now: Mapping[str, Any], saved: Mapping[str, Any], begun: Mapping[str, Any], epoch: int | None
) -> tuple[dict[str, Any], list[str]]:
    """The record of a run that goes on after `epoch`, and a line for all that is not as it was.

    What counts is the record `saved` in the checkpoint. That in the run's folder (`begun`) differs from it
    where the run was resumed with other plugins and ended before it saved; that is told, too. The record
    keeps the differences, with the epoch that they follow.
    """
    lines = list(changes(saved or begun, now))
    unsaved = [line for line in changes(begun, now) if line not in lines]
    kept = list((saved or begun).get("changes", ()))
    if lines and epoch:
        kept.append({"after_epoch": epoch, "what": lines})
    record = {**now, **({"changes": kept} if kept else {})}
    return record, [*lines, *(f"{line} (since the checkpoint of epoch {epoch})" for line in unsaved)]


def encoded(record: Mapping[str, Any]) -> bytes:
    """The record as a file holds it."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was, a line for each; what an older record does not know is not compared."""
    for group in ("rewards", "parts"):
        for name, then in before.get(group, {}).items():
            here = now.get(group, {}).get(name, {})
            for key, word in IDENTITY.items():
                was, is_now = _compared(then.get(key), here.get(key))
                if was != is_now and key in then:
                    yield f"{group.removesuffix('s')} {name}: {word} was {_said(was)}, is {_said(is_now)}"


def _compared(was: Any, is_now: Any) -> tuple[Any, Any]:
    """Of weights, those that both records name."""
    if not isinstance(was, Mapping) or not isinstance(is_now, Mapping):
        return was, is_now
    both = was.keys() & is_now.keys()
    differ = sorted(name for name in both if was[name] != is_now[name])
    return {name: was[name] for name in differ}, {name: is_now[name] for name in differ}


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(value[name])}" for name in value)
    return short(str(value)) if value else "unknown"


def short(text: str) -> str:
    """A hash as people are shown it; anything else as it is."""
    is_hash = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:SHORT] if is_hash else text


def labels(config: RunConfig) -> dict[str, float]:
    """Label → weight of the rewards that are trained on."""
    return {
        spec.label: spec.weight for spec in grammar.parse_all(task_specs.rewards_of(config), weighted=True)
    }
