"""From a config to the objects that `ddpo_core.training.train` is given. This is where torch comes in."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddpo_core import spec as grammar
from ddpo_core.config import constraint_specs, pairs, specs
from ddpo_core.config.settings import RunConfig
from ddpo_core.config.task_specs import TaskText, tasks_of
from ddpo_core.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ddpo_core.advantages import Normaliser
    from ddpo_core.captions import CaptionedFiles
    from ddpo_core.discovery import Registry
    from ddpo_core.pretraining import Pretraining
    from ddpo_core.protocols import Denoiser, Estimator, PromptSet, Sampler
    from ddpo_core.rewards import Objective, Term
    from ddpo_core.training import Settings, Task


@dataclass(frozen=True)
class Model:
    """What is needed to draw pictures."""

    denoiser: Denoiser
    sampler: Sampler
    accelerator: Accelerator


@dataclass(frozen=True)
class Parts:
    """What is needed to train."""

    model: Model
    estimator: Estimator
    tasks: Sequence[Task]
    normaliser: Normaliser
    pretraining: Pretraining | None
    prompt_sets: Sequence[PromptSet]  # of each task
    settings: Settings

    def some_prompts(self, count: int) -> PromptSet:
        """What to draw pictures of: the prompt set, or where there are several, some prompts of each."""
        if len(self.prompt_sets) == 1:
            return self.prompt_sets[0]
        share = -(-count // len(self.prompt_sets))
        return [each[place * len(each) // share] for each in self.prompt_sets for place in range(share)]


TO_SCORE = ("torch",)
TO_DRAW = ("torch", "diffusers", "accelerate")  # the one that says most comes first


def require(*packages: str) -> None:
    """Import them. Raises `EnvironmentFault` for the first that is not installed."""
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        raise EnvironmentFault(
            f"this needs the package '{error.name}', which is not installed",
            hint='pip install "ddpo[train]"',
        ) from error


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate's handle on devices and processes. Raises `UsageError` for a device that is not there."""
    from ddpo_core.training import fresh_accelerator

    accelerator = fresh_accelerator(config.mixed_precision, cpu=config.device == "cpu")
    if config.device not in ("auto", accelerator.device.type):
        raise UsageError(
            f"--device {config.device}: there is none here; got {accelerator.device.type}",
            hint="`ddpo doctor` shows the devices; --device auto takes the best one",
        )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("--mixed-precision fp16 needs a GPU; this is a CPU", hint="take bf16 or no")
    return accelerator


def quiet_loading() -> None:
    """No progress bars of other libraries in the live view; a reward may have come without them."""
    for name in ("diffusers", "transformers"):
        if importlib.util.find_spec(name):
            importlib.import_module(f"{name}.utils.logging").disable_progress_bar()


def make_sampler(config: RunConfig, registry: Registry) -> Sampler:
    """The transition kernel; it holds no weights."""
    sampler: Sampler = registry.build("sampler", specs.find(registry, "sampler", config.sampler).spec)
    return sampler


def load_model(config: RunConfig, registry: Registry, *, adapted: bool = True) -> Model:
    """The model on its device; `adapted`: it knows which of its weights are trained."""
    import torch

    quiet_loading()
    accelerator = make_accelerator(config)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.mixed_precision]
    sampler = make_sampler(config, registry)
    found = specs.find(registry, "model", config.model)
    denoiser: Denoiser = registry.build("model", found.spec, device=accelerator.device, dtype=dtype)
    if adapted:
        denoiser.adapt(
            lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_targets=config.lora_targets,
            gradient_checkpointing=config.gradient_checkpointing,
            seed=config.seed,
        )
    return Model(denoiser, sampler, accelerator)


def build(config: RunConfig, registry: Registry) -> Parts:
    """Everything, rewards first: a missing judge is known before a large model is loaded."""
    from ddpo_core.advantages import Normaliser
    from ddpo_core.captions import open_captioned
    from ddpo_core.prompts import PromptStream
    from ddpo_core.training import Task

    quiet_loading()
    estimator = registry.build("estimator", specs.find(registry, "estimator", config.estimator).spec)
    pairs.check_built(estimator, make_sampler(config, registry), config, registry)
    written = tasks_of(config)
    prompt_sets = [load_prompts(task.prompts, task.prompt, registry) for task in written]
    tasks = [
        Task(
            PromptStream(prompt_set, seed=config.seed, group_size=task.group_size),
            make_objective(config, registry, task, with_watched=task is written[0]),
            task.name,
        )
        for task, prompt_set in zip(written, prompt_sets, strict=True)
    ]
    captioned = open_captioned(config.pretrain, size=(0, 0)) if config.pretrain else None
    over, options = specs.advantage_options(config.advantages)
    buffers = {key: options[key] for key in ("buffer_size", "min_count") if key in options}
    model = load_model(config, registry)
    return Parts(
        model=model,
        estimator=estimator,
        tasks=tasks,
        normaliser=Normaliser(over, **buffers),  # type: ignore[arg-type]  # `specs` has checked the name
        pretraining=make_pretraining(config, captioned, model.denoiser) if captioned else None,
        prompt_sets=prompt_sets,
        settings=settings_of(config),
    )


def make_pretraining(config: RunConfig, pairs: CaptionedFiles, denoiser: Denoiser) -> Pretraining:
    """The pretraining step, on pictures as large as the model's own."""
    from ddpo_core.pretraining import Pretraining, picture_size

    return Pretraining(
        pairs.of_size(picture_size(denoiser)),
        batch_size=config.pretrain_batch_size,
        weight=config.pretrain_weight,
        minibatch_size=config.train_batch_size,
        seed=config.seed,
    )


def make_objective(config: RunConfig, registry: Registry, task: TaskText, *, with_watched: bool) -> Objective:
    """A task's rewards, those that are only watched, and the constraints on any of them."""
    from ddpo_core.mixing import GDPO, MIXERS
    from ddpo_core.rewards import Objective

    terms = [make_term(registry, text, watched=False) for text in task.reward]
    terms += [make_term(registry, text, watched=True) for text in config.watch if with_watched]
    labels = {term.label for term in terms}
    bounds = (constraint_specs.split(text)[1] for text in config.constraint)
    return Objective(
        terms,
        MIXERS.get(config.mixer, GDPO)(),  # tasks that take turns mix the rewards of one task as gdpo does
        [constraint for constraint in bounds if constraint.label in labels],
    )


def load_prompts(named: str, typed: Sequence[str], registry: Registry) -> PromptSet:
    """The prompt set that was named, or the prompts that were typed."""
    from ddpo_core.types import Prompt

    if typed:
        return [Prompt(text) for text in typed]
    prompt_set: PromptSet = registry.build("prompts", specs.find(registry, "prompts", named).spec)
    return prompt_set


def settings_of(config: RunConfig) -> Settings:
    """The numbers of a config, as core takes them."""
    from dataclasses import fields

    from ddpo_core.training import Settings

    return Settings(**{f.name: getattr(config, f.name) for f in fields(Settings) if hasattr(config, f.name)})


def make_term(registry: Registry, text: str, *, watched: bool) -> Term:
    """A reward, built, as a term of an objective."""
    from ddpo_core.rewards import Term

    spec = grammar.parse(text, weighted=True)
    return Term(
        label=spec.label,
        weight=0.0 if watched else spec.weight,
        reward=registry.build("reward", spec),
        info=registry.find("reward", spec.name),
        on_error=spec.on_error,
        tries=spec.tries,
        time_limit=spec.time_limit,
    )
