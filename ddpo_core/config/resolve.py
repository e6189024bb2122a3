"""From flags, a file and a preset to one complete `RunConfig`, and where each of its values came from.

    default < what suits the model < what suits the estimator < preset < --config FILE < flags

Unknown keys, wrong types, unknown names and batch sizes that do not divide are refused here, before
anything heavy is imported.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_core.batches import check_batches
from ddpo_core.config import constraint_specs, pairs, presets, specs, task_specs
from ddpo_core.config.settings import DERIVED, RunConfig, Setting, declared
from ddpo_core.errors import EnvironmentFault, UnknownName, UsageError
from ddpo_core.nearest import did_you_mean, nearest_path

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry
    from ddpo_core.info import EstimatorInfo, ModelInfo

CLIP_RANGE = "clip_range"  # a short way to say `--estimator NAME,clip-range=…`
ORIGINS = "origins"  # the table in config.toml that tells, and does not set
DEFAULT = "default"
ARGUMENT = "argument"  # the origin of what Python gave; its errors are told by `phrasing`
ALTERNATIVES = (("prompts", "prompt"), ("reward", "task"))


@dataclass(frozen=True)
class Layer:
    """Some settings and who gave them."""

    origin: str  # "preset demo", "file runs/x/config.toml", "flag", "argument"
    values: Mapping[str, object]


@dataclass(frozen=True)
class Resolved:
    """A complete config, and where each value of it came from."""

    config: RunConfig
    origins: Mapping[str, str]


def from_file(path: Path) -> Layer:
    """The layer of a TOML file. Raises `UsageError` where it cannot be read."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config: there is no file {path}{nearest_path(path)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config: {path} is not readable as TOML: {error}") from error
    values.pop(ORIGINS, None)
    return Layer(f"file {path}", values)


def from_preset(name: str) -> Layer:
    """The layer of a preset. Raises `UnknownName`."""
    return Layer(f"preset {name}", presets.read(name))


def make_registry(layers: Sequence[Layer]) -> Registry:
    """What is installed, and the plugin files that some layer names."""
    from ddpo_core.discovery import registry

    given = (layer.values.get("plugin", ()) for layer in layers)
    files = [str(file) for some in given for file in (some if isinstance(some, list | tuple) else [some])]
    found = registry()
    for file in dict.fromkeys(files):
        found = found.with_file(Path(file))
    return found


def resolve(layers: Sequence[Layer], registry: Registry, *, to_train: bool = True) -> Resolved:
    """One config from layers, weakest first. Not `to_train`: rewards and prompts may be missing.

    Raises `UsageError`, `UnknownName`, `SpecError` or `BatchError`, each naming who gave the value.
    """
    checked = [Layer(layer.origin, _checked(layer)) for layer in layers]
    merged = _merge(checked)
    model = _model_of(merged, registry)
    merged = _merge_with_suiting(model.info, checked, registry)
    _fold_clip_range(merged, registry)
    for key, derive in DERIVATIONS.items():
        if merged.values.get(key) is DERIVED:
            merged.values[key], merged.origins[key] = derive(merged.values, registry)
    config = RunConfig(**{f.name: merged.values[f.name] for f in fields(RunConfig)})
    config = specs.canonical(config, registry)
    if to_train:
        _check(config, merged.origins, registry)
    return Resolved(config, merged.origins)


@dataclass
class _Merged:
    values: dict[str, Any]
    origins: dict[str, str]


def _model_of(merged: _Merged, registry: Registry) -> specs.Found:
    """The model. Raises `UnknownName`; `EnvironmentFault` where it is the default, and not installed."""
    try:
        return specs.find(registry, "model", str(merged.values["model"]))
    except UnknownName as error:
        if merged.origins["model"] != DEFAULT:
            raise
        raise EnvironmentFault(
            "no model was named, and the small one that is the default is not installed",
            hint="pip install ddpo-pocket; or name a model: `ddpo models list` shows them",
        ) from error


def _merge(layers: Sequence[Layer]) -> _Merged:
    merged = _Merged({s.name: s.default for s in declared().values()}, dict.fromkeys(declared(), DEFAULT))
    for layer in layers:
        if _switches_between_lora_and_all(merged.values, layer.values):
            # a learning rate that suits a LoRA is some thirty times too large for all weights
            for key in ("learning_rate", "lora_alpha"):
                merged.values[key], merged.origins[key] = DERIVED, DEFAULT
        for pair in ALTERNATIVES:  # whoever chooses one of the two has chosen against the other
            if any(key in layer.values for key in pair):
                for key in pair:
                    merged.values[key], merged.origins[key] = declared()[key].default, DEFAULT
        merged.values.update(layer.values)
        merged.origins.update(dict.fromkeys(layer.values, layer.origin))
    return merged


def _merge_with_suiting(model: ModelInfo, checked: Sequence[Layer], registry: Registry) -> _Merged:
    """All layers, those of the chosen model, of the chosen estimator and of the two together below them.

    An estimator's options that nobody gave come from there, too.
    """
    about_model = _suiting(f"model {model.name}", model.defaults)
    chosen = str(_merge([about_model, *checked]).values["estimator"])
    estimator: EstimatorInfo = specs.find(registry, "estimator", chosen).info
    about_both = model.estimators.get(estimator.name, {})
    suits = [
        about_model,
        _suiting(f"estimator {estimator.name}", estimator.defaults),
        _suiting(f"estimator {estimator.name} on {model.name}", about_both),
    ]
    merged = _merge([*suits, *checked])
    for layer in reversed(suits):
        suiting = str(layer.values.get("estimator", ""))
        if suiting and specs.find(registry, "estimator", suiting).info is estimator:
            merged.values["estimator"] = specs.with_suiting(
                registry, "estimator", str(merged.values["estimator"]), suiting
            )
    return merged


def _suiting(origin: str, values: Mapping[str, object]) -> Layer:
    return Layer(origin, _checked(Layer(origin, values)))


def _switches_between_lora_and_all(before: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return "lora_rank" in values and bool(values["lora_rank"]) != bool(before["lora_rank"])


def _fold_clip_range(merged: _Merged, registry: Registry) -> None:
    if CLIP_RANGE not in merged.values:
        return
    value, origin = merged.values.pop(CLIP_RANGE), merged.origins.pop(CLIP_RANGE)
    merged.values["estimator"] = specs.with_option(
        registry, "estimator", merged.values["estimator"], CLIP_RANGE, value
    )
    merged.origins["estimator"] = origin


# What follows from other settings when nobody gives it: value and origin.
Derivation = Callable[[Mapping[str, Any], "Registry"], tuple[object, str]]


def _prompts(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    info = specs.find(registry, "model", values["model"]).info
    return ("" if values["prompt"] else info.prompts), f"model {info.name}"


def _sampler(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    model: ModelInfo = specs.find(registry, "model", values["model"]).info
    estimator: EstimatorInfo = specs.find(registry, "estimator", values["estimator"]).info
    if model.path == "diffusion":
        return "ddim", DEFAULT
    rated = "log_probs" in estimator.needs
    return "flow-sde" if rated else "flow-ode", f"model {model.name}, estimator {estimator.name}"


def _lora_alpha(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    return float(values["lora_rank"] or 1), "follows lora_rank"


def _updates(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    info = specs.find(registry, "estimator", values["estimator"]).info
    return info.updates_per_epoch, f"estimator {info.name}"


def _group_size(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    rewards = [*values["reward"], *values["watch"]]  # a task's rewards speak for that task alone
    rewards += [str(constraint_specs.split(text)[0]) for text in values["constraint"]]
    return specs.group_size(registry, values["advantages"], rewards)


def _train_batch_size(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    """As many as are sampled at a time, or the nearest lower number that divides an update's samples."""
    share = max(1, values["samples_per_epoch"] // values["updates_per_epoch"])
    fitting = [size for size in range(1, min(values["sample_batch_size"], share) + 1) if share % size == 0]
    return fitting[-1], "follows sample_batch_size"


def _learning_rate(values: Mapping[str, Any], registry: Registry) -> tuple[object, str]:
    return (3e-4, "default for a LoRA") if values["lora_rank"] else (1e-5, "default for all weights")


DERIVATIONS: Mapping[str, Derivation] = {
    "prompts": _prompts,
    "sampler": _sampler,
    "lora_alpha": _lora_alpha,
    "updates_per_epoch": _updates,
    "group_size": _group_size,
    "train_batch_size": _train_batch_size,
    "learning_rate": _learning_rate,
}


def _checked(layer: Layer) -> dict[str, object]:
    """The layer's values with their types checked, `[[reward]]` tables as specs."""
    known = declared()
    values: dict[str, object] = {}
    for key, value in layer.values.items():
        if key == CLIP_RANGE:
            values[key] = _number(layer.origin, replace(known["learning_rate"], name=CLIP_RANGE), value)
            continue
        if key not in known:
            near = did_you_mean(key, [*known, CLIP_RANGE])
            raise UnknownName(f"{layer.origin}: no setting is named '{key}'{near}")
        values[key] = _value(layer.origin, known[key], value)
    return values


def _value(origin: str, setting: Setting, value: object) -> object:
    if setting.many:
        return _texts(origin, setting, value)
    if setting.type is bool:
        return _same(origin, setting, value, bool, "true or false")
    if setting.type is str:
        text = _same(origin, setting, value, str, "a text in quotes")
        if setting.choices and text not in setting.choices:
            near = did_you_mean(str(text), setting.choices)
            raise UsageError(_wrong(origin, setting, "one of " + ", ".join(setting.choices), value) + near)
        return text
    return _number(origin, setting, value)


def _texts(origin: str, setting: Setting, value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise UsageError(_wrong(origin, setting, "a list of texts", value))
    texts = []
    for item in items:
        if setting.name == "task" and isinstance(item, dict):
            item = task_specs.from_table(f"{origin}: [[task]]", item)
        if setting.name == "task" and isinstance(item, str) and item.endswith(".toml"):
            texts += task_specs.from_file(Path(item))
            continue
        if isinstance(item, dict) and setting.name in ("reward", "watch"):
            item = specs.from_table(f"{origin}: [[{setting.name}]]", item)
        if not isinstance(item, str):
            raise UsageError(_wrong(origin, setting, "a list of texts", value))
        texts.append(item)
    return tuple(texts)


def _number(origin: str, setting: Setting, value: object) -> int | float:
    whole = setting.type is int
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UsageError(_wrong(origin, setting, "a whole number" if whole else "a number", value))
    if value < setting.minimum:
        raise UsageError(_wrong(origin, setting, f"{setting.minimum:g} or more", value))
    if not value > setting.above:
        raise UsageError(_wrong(origin, setting, f"more than {setting.above:g}", value))
    return int(value) if whole else float(value)


def _same(origin: str, setting: Setting, value: object, kind: type, expected: str) -> object:
    if not isinstance(value, kind):
        raise UsageError(_wrong(origin, setting, expected, value))
    return value


def _wrong(origin: str, setting: Setting, expected: str, value: object) -> str:
    name = setting.flag if origin in ("flag", ARGUMENT) else f"{origin}: {setting.name}"
    return f"{name} must be {expected}; got {value!r}"


def _check(config: RunConfig, origins: Mapping[str, str], registry: Registry) -> None:
    """What no single value can be blamed for."""
    if config.reward and config.task:
        raise UsageError(
            "--reward and --task were both given; a run has rewards, or tasks that have them",
            hint='make the rewards a task of their own: --task "--reward NAME"',
        )
    if not config.reward and not config.task:
        raise UsageError(
            "no reward to train towards",
            hint="add --reward NAME, for instance --reward jpeg; `ddpo rewards list` shows what is installed",
        )
    if not all(task.prompts or task.prompt for task in task_specs.tasks_of(config)):
        raise UsageError(
            f"model '{config.model}' has no prompt set of its own",
            hint="add --prompts NAME (see `ddpo prompts list`) or --prompt TEXT",
        )
    if config.prompts and config.prompt:
        raise UsageError("--prompts and --prompt were both given; one of them has to go")
    estimator = specs.find(registry, "estimator", config.estimator).info
    if estimator.fixed_updates and config.updates_per_epoch != estimator.updates_per_epoch:
        raise UsageError(
            f"estimator '{estimator.name}' is right for {estimator.updates_per_epoch} update an epoch; got "
            f"{config.updates_per_epoch} ({origins['updates_per_epoch']})",
            hint=f"add --updates-per-epoch {estimator.updates_per_epoch}, or take --estimator ddpo-is",
        )
    pairs.check(config, registry)
    specs.check_files(config, registry)
    for task in task_specs.tasks_of(config):
        check_batches(
            samples_per_epoch=config.samples_per_epoch,
            sample_batch_size=config.sample_batch_size,
            train_batch_size=config.train_batch_size,
            updates_per_epoch=config.updates_per_epoch,
            group_size=task.group_size,
        )
