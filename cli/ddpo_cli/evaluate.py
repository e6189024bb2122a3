"""`ddpo eval`: rewards × prompt sets, before and after training, with standard errors and pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpo_cli import config_file, eval_show
from ddpo_cli.eval_matrix import (
    BASE,
    Column,
    Matrix,
    Plan,
    draw,
    group_size_of,
    plan_pictures,
    rows_of,
    score,
)
from ddpo_cli.live import wants_live
from ddpo_cli.options import Device, GuidanceScale, NumSteps, PluginFiles
from ddpo_cli.records import Record, records_of
from ddpo_cli.run_folder import RunFolder
from ddpo_core import spec as grammar
from ddpo_core.config import parts, provenance, specs
from ddpo_core.config.resolve import Layer, resolve
from ddpo_core.config.settings import RunConfig
from ddpo_core.config.task_specs import rewards_of, tasks_of
from ddpo_core.errors import DdpoError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo_core.denoising import Policy
    from ddpo_core.discovery import Registry
    from ddpo_core.protocols import PromptSet
    from ddpo_core.rewards import Term

PICTURES = 12  # of each model and prompt set on the page
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


def evaluate(
    source: Annotated[
        list[str],
        typer.Argument(
            help="A run's folder, several of them, or a model.", metavar="RUN…|MODEL", show_default=False
        ),
    ],
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            "-r",
            help="Score with this reward; repeat it for several (default: all that can be built here).",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw these prompts; repeat it for several (default: the run's own, and those held out).",
            metavar="SPEC",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Pictures of each prompt set and model.", min=1)] = 64,
    epoch: Annotated[
        int | None,
        typer.Option(
            help="The runs' checkpoint to take (default: each run's latest).", min=1, show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the results go (default: RUN/eval, or ./eval).", metavar="DIR", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses prompts and noise.", min=0)] = 0,
    num_steps: NumSteps = None,
    guidance_scale: GuidanceScale = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Pictures drawn at a time (default: the run's).", min=1, show_default=False),
    ] = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Score pictures before and after training: every reward on every prompt set, with standard errors.

    ddpo eval runs/mine
    ddpo eval runs/mine --reward align --reward jpeg --prompts animals-activities --samples 128
    ddpo eval runs/joint runs/only-align runs/only-aesthetic --reward align --reward aesthetic

    Before and after get the same prompts and the same noise, so a change is known better than its two ends.
    With several runs, each is also told as a share of the run that was trained on that reward alone.
    """
    values: dict[str, object] = {"device": device, "num_steps": num_steps, "guidance_scale": guidance_scale}
    given = {key: value for key, value in values.items() if value is not None}
    look = _look(source, given, [str(file) for file in plugin or ()], prompts or [], epoch, samples, seed)
    look = replace(look, batch_size=batch_size or look.config.sample_batch_size)
    parts.require(*parts.TO_DRAW)
    parts.quiet_loading()
    terms, missing = _rewards(look, reward or [])
    with steps() as step:
        matrix, pictures = _judge(look, terms, missing, step, explicit=bool(reward))
    folder = out or (Path(look.columns[1].folder) / "eval" if len(look.columns) == 2 else Path("eval"))
    facts = {
        "model": look.config.model,
        "samples": samples,
        "seed": seed,
        "num_steps": look.config.num_steps,
        "guidance_scale": look.config.guidance_scale,
        "sampler": look.config.sampler,
        "provenance": _given_by(look, reward or _all_rewards(look), terms),
    }
    eval_show.to_terminal(matrix)
    for file in eval_show.write(folder, matrix, facts, pictures):
        print(file)


# ---- what is looked at -------------------------------------------------------------------------------


def _look(
    sources: Sequence[str],
    given: dict[str, object],
    plugins: list[str],
    prompts: Sequence[str],
    epoch: int | None,
    samples: int,
    seed: int,
) -> Look:
    """Resolve sources and prompt sets. Raises `UsageError` for models that cannot be compared."""
    from ddpo_core.config.resolve import make_registry

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


def _rewards(look: Look, typed: Sequence[str]) -> tuple[list[Term], list[tuple[str, str]]]:
    """The rewards that were named; without any, all that can be built, and why others cannot."""
    if typed:
        grammar.parse_all(typed, weighted=True)  # refuses two with one label
        return [_term(look, text) for text in typed], []
    terms: list[Term] = []
    missing = [(plugin.distribution, plugin.reason) for plugin in look.registry.broken]
    with without_downloads():
        for text in _all_rewards(look):
            try:
                terms.append(_term(look, text))
            except DdpoError as error:
                missing.append((grammar.parse(text, weighted=True).label, _one_line(error)))
    if not terms:
        raise UsageError(
            "no installed reward can be built here" + "".join(f"\n  {name}: {why}" for name, why in missing),
            hint="name one to see why: ddpo eval … --reward NAME",
        )
    return terms, missing


def _all_rewards(look: Look) -> list[str]:
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


def _given_by(look: Look, texts: Sequence[str], terms: Sequence[Term]) -> dict[str, dict[str, Any]]:
    """Of each reward that was built, who gives its scores."""
    built = {term.label for term in terms}
    return dict(
        provenance.of_reward(look.registry, _suited(look, text))
        for text in texts
        if grammar.parse(text, weighted=True).label in built
    )


def _one_line(error: DdpoError) -> str:
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


# ---- drawing and scoring -----------------------------------------------------------------------------

Advance = Callable[[int], None]
Step = Callable[[str, int], Advance]  # (what is done, of how much) → how much more of it is done


def _judge(
    look: Look, terms: Sequence[Term], missing: list[tuple[str, str]], step: Step, *, explicit: bool
) -> tuple[Matrix, dict[tuple[str, int], eval_show.Gallery]]:
    """Draw everything, then score everything."""
    from ddpo_core.errors import RewardError

    sizes = sorted({group_size_of(term) for term in terms})
    plans = [
        plan_pictures(name, prompt_set, look.samples, size, look.seed)
        for name, prompt_set in look.prompt_sets
        for size in sizes
    ]
    drawn = [
        _draw(look, column, config, plans, step)
        for column, config in zip(look.columns, look.configs, strict=True)
    ]
    matrix = Matrix(look.columns, plans, missing=missing)
    galleries = {(plan.prompts_name, plan.group_size): eval_show.Gallery(plan, {}) for plan in plans}
    for index, plan in enumerate(plans):
        said: dict[str, dict[str, Any]] = {column.name: {} for column in look.columns}
        for term in (term for term in terms if group_size_of(term) == plan.group_size):
            try:
                scores = _score(look, term, plan, [pictures[index] for pictures in drawn], step)
            except RewardError as error:
                if explicit:
                    raise
                matrix.missing.append((f"{term.label} on {plan.prompts_name}", _one_line(error)))
                continue
            matrix.rows += rows_of(term, plan, scores)
            for name, of_column in scores.items():
                said[name][term.label] = of_column
        for column, pictures in zip(look.columns, drawn, strict=True):
            shown = records_of(plan.prompts, plan.seeds, said[column.name], max(PICTURES, plan.group_size))
            galleries[plan.prompts_name, plan.group_size].shots[column.name] = _shots(pictures[index], shown)
    return matrix, galleries


def _shots(pictures: Tensor, shown: Sequence[Record]) -> list[tuple[Any, Record]]:
    from PIL import Image

    pixels = pictures[: len(shown)].permute(0, 2, 3, 1).numpy()
    return [(Image.fromarray(picture), record) for picture, record in zip(pixels, shown, strict=True)]


def _draw(look: Look, column: Column, config: RunConfig, plans: Sequence[Plan], step: Step) -> list[Tensor]:
    """The pictures of every plan under one model, which is loaded here and let go of."""
    from ddpo_core import checkpoint

    # without trained weights a LoRA would be nothing but work
    model = parts.load_model(config, look.registry, adapted=bool(column.folder))
    if column.folder:
        state = checkpoint.load(RunFolder(Path(column.folder)).checkpoint(column.epoch))
        model.denoiser.load_trainable_state(state.weights)
    policy = _policy(model, config)
    pictures = []
    with model.accelerator.autocast():
        for plan in plans:
            groups = f" in groups of {plan.group_size}" if plan.group_size > 1 else ""
            advance = step(f"drawing {column.name} · {plan.prompts_name}{groups}", len(plan.prompts))
            pictures.append(draw(policy, plan, look.batch_size, advance))
    return pictures


def _policy(model: parts.Model, config: RunConfig) -> Policy:
    from ddpo_core.denoising import Policy

    schedule = model.sampler.schedule(model.denoiser, config.num_steps)
    return Policy(model.denoiser, model.sampler, schedule, config.guidance_scale)


def _score(look: Look, term: Term, plan: Plan, pictures: Sequence[Tensor], step: Step) -> dict[str, Any]:
    advance = step(f"scoring {term.label} · {plan.prompts_name}", len(plan.prompts) * len(pictures))
    return {
        column.name: score(term, images, plan, look.batch_size, advance)
        for column, images in zip(look.columns, pictures, strict=True)
    }


@contextmanager
def steps() -> Iterator[Step]:
    """Bars on a terminal, a line for each step elsewhere; all on stderr."""
    if not wants_live(sys.stderr):
        yield _told
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    what = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*what, console=Console(stderr=True), transient=True) as progress:

        def begin(text: str, total: int) -> Advance:
            task = progress.add_task(text, total=total)

            def advance(more: int) -> None:
                progress.advance(task, more)
                if progress.tasks[task].finished:
                    progress.update(task, visible=False)

            return advance

        yield begin


def _told(text: str, total: int) -> Advance:
    print(f"{text}: {total}", file=sys.stderr, flush=True)
    return lambda more: None
