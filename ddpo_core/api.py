"""Training from Python: `ddpo_core.train`, one `Epoch` at a time, and `ddpo_core.score`.

The same way as `ddpo train` takes: the same settings, defaults and checks, by way of `config/`. A function is
a reward, a list of texts a prompt set, a loaded pipeline a model. Nothing is printed, and nothing is written
but what an `Epoch` is asked to write.
"""

from __future__ import annotations

import json
import os
import textwrap
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from ddpo_core.config import parts, provenance, specs
from ddpo_core.config.given import Handover, Rewards
from ddpo_core.config.phrasing import ARGUMENTS, in_python, told_in_python
from ddpo_core.config.resolve import (
    ARGUMENT,
    Layer,
    from_file,
    from_preset,
    make_registry,
    resolve,
)
from ddpo_core.config.settings import RunConfig, Setting, declared
from ddpo_core.config.task_specs import TaskText
from ddpo_core.errors import UnknownName, UsageError
from ddpo_core.nearest import did_you_mean
from ddpo_core.types import Prompt, Scores

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from ddpo_core.checkpoint import RunState
    from ddpo_core.discovery import Registry
    from ddpo_core.protocols import Denoiser, PromptSet
    from ddpo_core.scoring import Picture
    from ddpo_core.training import Epoch, Progress

    Model: TypeAlias = str | Path | DiffusionPipeline | Denoiser
    Prompts: TypeAlias = str | Path | Sequence[str | Prompt] | PromptSet

# What these settings of `ddpo train` do is here its caller's: it has each epoch in its hands.
OF_THE_FOLDER = {
    "images_every": "epoch.pictures and epoch.draw(prompts)",
    "image_count": "epoch.draw(prompts)",
    "checkpoint_every": "epoch.checkpoint(folder)",
    "checkpoint_keep": "epoch.checkpoint(folder)",
    "tracker": "epoch.metrics",
}


class TrainSettings(TypedDict, total=False):
    """The other settings of a run, as `ddpo train --help` explains them. `clip_range` is the estimator's."""

    mixer: str
    lora_rank: int
    lora_alpha: float
    lora_targets: str | Sequence[str]
    pretrain: str | Path
    sampler: str
    num_steps: int
    guidance_scale: float
    samples_per_epoch: int
    group_size: int
    sample_batch_size: int
    estimator: str
    clip_range: float
    advantages: str
    updates_per_epoch: int
    train_batch_size: int
    learning_rate: float
    warmup_updates: int
    optimizer: str
    adam_epsilon: float
    weight_decay: float
    pretrain_weight: float
    pretrain_batch_size: int
    max_grad_norm: float
    mixed_precision: str
    gradient_checkpointing: bool
    self_check: bool
    epochs: int
    seed: int
    device: str
    plugin: str | Sequence[str]


class AskedTask(TypedDict, total=False):
    """A task: rewards, and the prompts on whose pictures they are trained (default: the run's)."""

    rewards: Rewards
    prompts: Prompts
    group_size: int


def train(
    rewards: Rewards | None = None,
    *,
    model: Model | None = None,
    prompts: Prompts | None = None,
    watch: Rewards | None = None,
    constraints: str | Sequence[str] | Mapping[str, Mapping[str, float]] | None = None,
    tasks: Mapping[str, AskedTask] | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    resume: str | Path | RunState | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **settings: Unpack[TrainSettings],
) -> Generator[Epoch, None, None]:
    """Fine-tune a text-to-image model towards rewards, one `Epoch` at a time.

        def redness(images, prompts):              # [B, 3, H, W] in [0, 1] → one number for each
            red, green, blue = images.unbind(1)
            return (red - (green + blue) / 2).mean((1, 2))

        for epoch in ddpo_core.train({"redness": (redness, 0.5), "jpeg": 0.5}, model="pocket", epochs=3):
            print(epoch.number, epoch.metrics["reward/redness/mean"])
        epoch.save("adapter")                      # for pipe.load_lora_weights("adapter")

    rewards      a spec ("aesthetic:0.5"), a function, a list of both, or label → one of: a weight, a spec, a
                 function, (spec or function, weight), (spec or function, weight, options). A function is
                 called with images [B, 3, H, W] and `Prompt`s and returns B numbers: a list, numpy or torch.
                 Options of a function are `on_error`, `tries` and `time_limit`. What judges the pictures of a
                 prompt together, or passes a gradient, says so with `ddpo_core.reward`.
    model        a name, a folder or a hub id; a loaded diffusers pipeline, which is trained in place; or a
                 `Denoiser` (default: pocket)
    prompts      texts or `Prompt`s in a list, a prompt set, or the name or file of one (default: the model's)
    watch        rewards that are scored and not trained on
    constraints  label → {"min": …, "max": …}, or specs such as "aesthetic,min=5.5"
    tasks        in place of `rewards`: name → {"rewards": …, "prompts": …, "group_size": …}, taking turns
    preset       settings that ship, such as "paper/aesthetic"
    config       settings from a TOML file, such as a run's config.toml
    resume       the folder that `epoch.checkpoint` wrote into, or what `epoch.capture()` returned; the
                 settings are to be the same. `epochs` counts from the beginning.
    on_progress  called with a `Progress` while an epoch is made

    Settings are checked at once; the model is loaded when the first epoch is asked for. Rewards that were
    built from specs are closed when the generator ends or is dropped. Raises `UsageError` (`UnknownName` with
    the nearest valid one), `EnvironmentFault` for what is not installed, `RewardError` or `SelfCheckError`
    while running.
    """
    with told_in_python():
        _check_names(settings)
        layers = [from_preset(preset)] if preset else []
        layers += [from_file(Path(config))] if config else []
        asked = {key: _plain(value) for key, value in settings.items() if value is not None}
        handover = Handover(make_registry([*layers, Layer(ARGUMENT, asked)]))
        if rewards is not None and tasks is not None:
            raise UsageError(
                "rewards and tasks were both given; a run has rewards, or tasks that have them",
                hint="make the rewards a task of their own: tasks={'all': {'rewards': …}, …}",
            )
        if model is not None:
            asked["model"] = handover.model(model)
        if rewards is not None:
            asked["reward"] = handover.rewards("rewards", rewards)
        if watch is not None:
            asked["watch"] = handover.rewards("watch", watch, weighted=False)
        if prompts is not None:
            asked |= handover.prompts("prompts", prompts)
        if constraints is not None:
            asked["constraint"] = _constraints(constraints)
        if tasks is not None:
            asked["task"] = [_task(handover, name, task) for name, task in tasks.items()]
        registry = handover.registry
        resolved = resolve([*layers, Layer(ARGUMENT, asked)], registry)
        parts.require(*parts.TO_DRAW)
    return _epochs(resolved.config, registry, resume, on_progress)


def score(
    rewards: Rewards,
    images: Tensor | Sequence[Picture],
    prompts: str | Prompt | Sequence[str | Prompt] = "",
    *,
    model: str | None = None,
    plugin: str | Sequence[str] = (),
) -> dict[str, Scores]:
    """What rewards say of pictures that are there: label → `Scores`, whose `values` are one per picture.

        ddpo_core.score(["jpeg", "aesthetic"], ["cat.png", "dog.png"])["jpeg"].values

    `rewards` as for `train`; weights are left aside. `images` are a tensor [B, 3, H, W] in [0, 1], or a list
    of files, PIL pictures, tensors [3, H, W] or arrays [H, W, 3] of uint8, of any sizes. `prompts` is one for
    all of them or one for each. With `model`, rewards take the judges that suit its pictures.
    """
    with told_in_python():
        handover = Handover(make_registry([Layer(ARGUMENT, {"plugin": plugin})]))
        texts = handover.rewards("rewards", rewards)
        registry = handover.registry
        texts = [specs.with_judges(registry, model, text) if model else text for text in texts]
        for text in texts:
            specs.find(registry, "reward", text)  # an unknown name is told of before torch is imported
        parts.require(*parts.TO_SCORE)
        from ddpo_core import scoring
        from ddpo_core.rewards import Objective

        tensors = [scoring.as_tensor(image) for image in images]
        one_each = _one_each(prompts, len(tensors))
        objective = Objective([parts.make_term(registry, text, watched=True) for text in texts])
        try:
            return {term.label: scoring.judge(term, tensors, one_each) for term in objective.terms}
        finally:
            objective.close()


def _epochs(
    config: RunConfig,
    registry: Registry,
    resume: str | Path | RunState | None,
    on_progress: Callable[[Progress], None],
) -> Generator[Epoch, None, None]:
    from ddpo_core.training import train as run

    with told_in_python():
        folder = _checkpoint(resume) if isinstance(resume, str | Path) else None
        state = _state(folder or resume, config.epochs)
        record = _record(config, registry, folder)
        built = parts.build(config, registry)
        try:
            yield from run(
                denoiser=built.model.denoiser,
                sampler=built.model.sampler,
                estimator=built.estimator,
                tasks=built.tasks,
                settings=built.settings,
                normaliser=built.normaliser,
                pretraining=built.pretraining,
                state=state,
                accelerator=built.model.accelerator,
                on_progress=on_progress,
                beside={provenance.FILE: provenance.encoded(record)},
            )
        finally:
            for task in built.tasks:
                task.objective.close()


def _checkpoint(resume: str | Path) -> Path:
    """The checkpoint that a folder is, or the latest in it. Raises `CheckpointError` where there is none."""
    from ddpo_core import checkpoint

    folder = Path(resume)
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder  # a run of `ddpo train`
    return folder if folder.name.startswith(checkpoint.PREFIX) else checkpoint.latest(folder)


def _record(config: RunConfig, registry: Registry, folder: Path | None) -> dict[str, Any]:
    """Who gives which score, for the checkpoints; warns of what differs from the one that is gone on from."""
    now = provenance.describe(config, registry)
    file = folder / provenance.FILE if folder else None
    if folder is None or file is None or not file.is_file():
        return now
    from ddpo_core import checkpoint

    saved = json.loads(file.read_text(encoding="utf-8"))
    record, differences = provenance.gone_on(now, saved, saved, checkpoint.epoch_of(folder))
    if differences:
        listed = "\n  ".join(differences)
        warnings.warn(f"this run goes on with other plugins than it had:\n  {listed}", stacklevel=2)
    return record


def _state(resume: str | Path | RunState | None, epochs: int) -> RunState | None:
    """The state to go on from. Raises `CheckpointError`, or `UsageError` where nothing is left to do."""
    from ddpo_core import checkpoint

    if isinstance(resume, str | Path):
        resume = checkpoint.load(Path(resume))
    if resume is not None and resume.epoch >= epochs:
        raise UsageError(
            f"resume: epoch {resume.epoch} is done, and epochs={epochs} leaves nothing to do",
            hint="epochs counts from the beginning: raise it",
        )
    return resume


def _check_names(settings: Mapping[str, object]) -> None:
    """Raise `UnknownName` for what is no argument, `UsageError` for a setting of a run's folder."""
    named = ("rewards", "model", "prompts", "watch", "constraints", "tasks", "preset", "config", "resume")
    for key in settings:
        if key in OF_THE_FOLDER:
            raise UsageError(
                f"{key} is about the folder that `ddpo train` writes; train() writes none",
                hint=f"in the loop over the epochs there is {OF_THE_FOLDER[key]}",
            )
        if key not in TrainSettings.__annotations__:
            valid = [*named, *TrainSettings.__annotations__, "on_progress"]
            meant = f"; did you mean '{ARGUMENTS[key]}'?" if key in ARGUMENTS else did_you_mean(key, valid)
            raise UnknownName(f"train() takes no '{key}'{meant}", hint="help(ddpo_core.train) lists all")


def _plain(value: Any) -> object:
    """Numbers of numpy and torch as Python's, paths as texts."""
    value = value.item() if hasattr(value, "item") else value
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _constraints(asked: str | Sequence[str] | Mapping[str, Mapping[str, float]]) -> list[str]:
    if isinstance(asked, str):
        return [asked]
    if not isinstance(asked, Mapping):
        return list(asked)
    for label, bounds in asked.items():
        if not isinstance(bounds, Mapping):
            raise UsageError(
                f"constraints: {label} expects bounds; got {bounds!r}",
                hint=f"write constraints={{{label!r}: {{'min': 5.5}}}}",
            )
    return [
        ",".join([label, *(f"{key}={value}" for key, value in bounds.items())])
        for label, bounds in asked.items()
    ]


def _task(handover: Handover, name: str, asked: AskedTask) -> str:
    """The task as a text, its functions and prompts handed over."""
    for key in asked:
        if key not in AskedTask.__annotations__:
            near = did_you_mean(key, AskedTask.__annotations__)
            takes = ", ".join(AskedTask.__annotations__)
            raise UnknownName(f"tasks: {name} takes {takes}; got '{key}'{near}")
    if not asked.get("rewards"):
        raise UsageError(
            f"tasks: {name} needs a reward", hint=f"write tasks={{{name!r}: {{'rewards': 'jpeg'}}}}"
        )
    rewards = tuple(handover.rewards(f"tasks: {name}", asked["rewards"]))
    drawn: Any = handover.prompts(f"tasks: {name}", asked["prompts"]) if "prompts" in asked else {}
    return str(TaskText(name, rewards, **drawn, group_size=int(asked.get("group_size", 0))))


def _one_each(prompts: str | Prompt | Sequence[str | Prompt], count: int) -> list[Prompt]:
    each = [prompts] * count if isinstance(prompts, str | Prompt) else list(prompts)
    if len(each) != count:
        raise UsageError(f"prompts: expects one for all or one for each of {count} images; got {len(each)}")
    return [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in each]


def _list_of_settings() -> str:
    """For `help(ddpo_core.train)`, from where `ddpo train --help` has it."""
    known = [setting for setting in declared().values() if setting.name in TrainSettings.__annotations__]
    lines = [_described(setting) for setting in known]
    return "\n    Settings; what suits a model or an estimator goes before these defaults:\n\n" + "\n".join(
        lines
    )


def _described(setting: Setting) -> str:
    told = in_python(setting.help)
    if setting.default not in (None, "", ()):
        told = f"{told.rstrip('.')} (default: {setting.default!r})."
    if setting.choices:
        told += f" One of {', '.join(map(repr, setting.choices))}."
    indent = " " * 28
    return textwrap.fill(told, 106, initial_indent=f"    {setting.name:<22}  ", subsequent_indent=indent)


train.__doc__ = f"{train.__doc__}{_list_of_settings()}"
