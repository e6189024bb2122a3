"""What `ddpo eval` was asked to look at: models, prompt sets and rewards, found and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_cli import config_file
from ddpo_cli.eval_matrix import BASE, Column
from ddpo_cli.run_folder import RunFolder
from ddpo_core import spec as grammar
from ddpo_core.config import parts, provenance, specs
from ddpo_core.config.resolve import Layer, make_registry, resolve
from ddpo_core.config.settings import RunConfig
from ddpo_core.config.task_specs import rewards_of, tasks_of
from ddpo_core.errors import DdpoError, UsageError

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry
    from ddpo_core.protocols import PromptSet
    from ddpo_core.rewards import Term

SHARED = ("model", "sampler", "num_steps", "guidance_scale")  # what models must share to be compared


@dataclass(frozen=True)
class Look:
    """Everything that was asked for, resolved."""

    config: RunConfig  # how pictures are drawn
    registry: Registry
    columns: Sequence[Column]
    configs: Sequence[RunConfig]  # of the columns
    prompt_sets: Sequence[tuple[str, PromptSet]]
    samples: int
    seed: int
    batch_size: int


# ---- models and prompt sets --------------------------------------------------------------------------


def look_at(
    sources: Sequence[str],
    given: dict[str, object],
    plugins: list[str],
    prompts: Sequence[str],
    epoch: int | None,
    samples: int,
    seed: int,
) -> Look:
    """Resolve sources and prompt sets. Raises `UsageError` for models that cannot be compared."""
    layers = [_layer(text, alone=len(sources) == 1) for text in sources]
    stored = [file for layer in layers for file in _texts(layer.values.get("plugin"))]
    flags = Layer("flag", {**given, "plugin": [*dict.fromkeys([*stored, *plugins])]})
    registry = make_registry([flags])
    configs = [resolve([layer, flags], registry, to_train=False).config for layer in layers]
    for config, text in zip(configs, sources, strict=True):
        _refuse_strangers(configs[0], config, sources[0], text)
    runs = [RunFolder(Path(text)) for text in sources if _is_run(text)]
    if epoch is not None and not runs:
        raise UsageError(f"--epoch belongs to a run, and {sources[0]} is not a run's folder")
    columns = [Column(BASE)]
    for run, config in zip(runs, configs, strict=False):
        at = run.pick_checkpoint(epoch)
        columns.append(Column(_name(run, runs), at, str(run.root), _trained_on(config, registry)))
    return Look(
        config=configs[0],
        registry=registry,
        columns=columns,
        configs=[configs[0], *configs] if runs else configs,
        prompt_sets=_prompt_sets(configs, registry, prompts),
        samples=samples,
        seed=seed,
        batch_size=configs[0].sample_batch_size,
    )


def _is_run(text: str) -> bool:
    return (Path(text) / "config.toml").is_file()


def _layer(text: str, *, alone: bool) -> Layer:
    """A run's settings, or the model's name."""
    if _is_run(text):
        return Layer(f"run {text}", config_file.stored(Path(text) / "config.toml")[0])
    if not alone:
        raise UsageError(
            f"{text} is not a run: it has no config.toml",
            hint="give several runs, or one model; the model before training is looked at anyway",
        )
    return Layer("flag", {"model": text})


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _name(run: RunFolder, runs: Sequence[RunFolder]) -> str:
    """The folder's name, or its path where two runs share that name."""
    names = [other.root.resolve().name for other in runs]
    name = run.root.resolve().name
    return str(run.root) if names.count(name) > 1 or name == BASE else name


def _refuse_strangers(first: RunConfig, other: RunConfig, first_text: str, text: str) -> None:
    for key in SHARED:
        a, b = getattr(first, key), getattr(other, key)
        if a != b:
            raise UsageError(
                f"{first_text} and {text} cannot be compared: {key} is {a} in one and {b} in the other",
                hint=f"give both the same with --{key.replace('_', '-')}" if key in SHARED[2:] else "",
            )


def _trained_on(config: RunConfig, registry: Registry) -> tuple[str, ...]:
    """The names of a run's rewards, sorted, whatever they are labelled."""
    names = {specs.find(registry, "reward", text).info.name for text in rewards_of(config)}
    return tuple(sorted(names))


def _prompt_sets(
    configs: Sequence[RunConfig], registry: Registry, typed: Sequence[str]
) -> list[tuple[str, PromptSet]]:
    """Those that were named, or the runs' own and what is held out of those."""
    texts = [_canonical(registry, text) for text in typed]
    found: dict[str, PromptSet] = {}
    if not typed:
        for task in [task for config in configs for task in tasks_of(config)]:
            if task.prompt:
                found[", ".join(task.prompt)] = parts.load_prompts("", task.prompt, registry)
            texts += [_canonical(registry, task.prompts)] if task.prompts else []
        texts += [held_out for text in texts if (held_out := _held_out(registry, text))]
    found |= {text: parts.load_prompts(text, (), registry) for text in dict.fromkeys(texts)}
    if not found:
        raise UsageError(
            f"model '{configs[0].model}' has no prompt set of its own",
            hint="add --prompts NAME (see `ddpo prompts list`)",
        )
    return list(found.items())


def _canonical(registry: Registry, text: str) -> str:
    return str(replace(specs.find(registry, "prompts", text).spec, text=""))


def _held_out(registry: Registry, text: str) -> str | None:
    """The same set's held-out part, where training saw the other."""
    found = specs.find(registry, "prompts", text)
    splits = [option for option in found.info.options if option.name == "split"]
    if not splits or not {"seen", "held_out"} <= set(splits[0].choices):
        return None
    if found.spec.options.get("split", splits[0].default) != "seen":
        return None
    return specs.with_option(registry, "prompts", text, "split", "held_out")


# ---- rewards -----------------------------------------------------------------------------------------


def rewards(look: Look, typed: Sequence[str]) -> tuple[list[Term], list[tuple[str, str]]]:
    """The rewards that were named; without any, all that can be built, and why others cannot."""
    if typed:
        grammar.parse_all(typed, weighted=True)  # refuses two with one label
        return [_term(look, text) for text in typed], []
    terms: list[Term] = []
    missing = [(plugin.distribution, plugin.reason) for plugin in look.registry.broken]
    with without_downloads():
        for text in all_rewards(look):
            try:
                terms.append(_term(look, text))
            except DdpoError as error:
                missing.append((grammar.parse(text, weighted=True).label, one_line(error)))
    if not terms:
        raise UsageError(
            "no installed reward can be built here" + "".join(f"\n  {name}: {why}" for name, why in missing),
            hint="name one to see why: ddpo eval … --reward NAME",
        )
    return terms, missing


def all_rewards(look: Look) -> list[str]:
    """The runs' own, as they were used, then every other that is installed."""
    own = [text for config in look.configs for text in (*rewards_of(config), *config.watch)]
    texts = {grammar.parse(text, weighted=True).label: text for text in reversed(own)}
    used = {specs.find(look.registry, "reward", text).info.name for text in own}
    entries = look.registry.entries("reward")
    names = [entry.info.name for entry in entries]
    others = [
        f"{entry.qualified},as={entry.plugin.distribution}.{entry.info.name}"
        if names.count(entry.info.name) > 1
        else entry.info.name
        for entry in entries
        if entry.info.name not in used
    ]
    return [*reversed(texts.values()), *others]


def _term(look: Look, text: str) -> Term:
    return parts.make_term(look.registry, _suited(look, text), watched=False)


def _suited(look: Look, text: str) -> str:
    """The spec with the judges that suit the model's pictures."""
    return specs.with_judges(look.registry, look.config.model, text)


def given_by(look: Look, texts: Sequence[str], terms: Sequence[Term]) -> dict[str, dict[str, Any]]:
    """Of each reward that was built, who gives its scores."""
    built = {term.label for term in terms}
    return dict(
        provenance.of_reward(look.registry, _suited(look, text))
        for text in texts
        if grammar.parse(text, weighted=True).label in built
    )


def one_line(error: DdpoError) -> str:
    message = " ".join(str(error).split())
    return f"{message} ({error.hint})" if error.hint else message


@contextmanager
def without_downloads() -> Iterator[None]:
    """What nobody asked for by name is not fetched: a default `ddpo eval` must not load gigabytes."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
