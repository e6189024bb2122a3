"""Pictures of every model, and what every reward says of them, with a bar on a terminal meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_cli.eval_look import Look, one_line
from ddpo_cli.eval_matrix import Column, Matrix, Plan, draw, group_size_of, plan_pictures, rows_of, score
from ddpo_cli.eval_show import Gallery
from ddpo_cli.live import wants_live
from ddpo_cli.records import Record, records_of
from ddpo_cli.run_folder import RunFolder
from ddpo_core.config import parts
from ddpo_core.config.settings import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo_core.denoising import Policy
    from ddpo_core.rewards import Term

PICTURES = 12  # of each model and prompt set on the page
Advance = Callable[[int], None]
Step = Callable[[str, int], Advance]  # (what is done, of how much) → how much more of it is done


def judge(
    look: Look, terms: Sequence[Term], missing: list[tuple[str, str]], step: Step, *, explicit: bool
) -> tuple[Matrix, dict[tuple[str, int], Gallery]]:
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
    galleries = {(plan.prompts_name, plan.group_size): Gallery(plan, {}) for plan in plans}
    for index, plan in enumerate(plans):
        said: dict[str, dict[str, Any]] = {column.name: {} for column in look.columns}
        for term in (term for term in terms if group_size_of(term) == plan.group_size):
            try:
                scores = _score(look, term, plan, [pictures[index] for pictures in drawn], step)
            except RewardError as error:
                if explicit:
                    raise
                matrix.missing.append((f"{term.label} on {plan.prompts_name}", one_line(error)))
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
