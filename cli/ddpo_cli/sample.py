"""`ddpo sample`: pictures from a run, or from a model as it comes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo_cli import config_file, grids
from ddpo_cli.options import Device, GuidanceScale, NumSteps
from ddpo_cli.run_folder import RunFolder, write_atomic
from ddpo_core.config import parts
from ddpo_core.config.resolve import Layer, resolve
from ddpo_core.config.settings import RunConfig
from ddpo_core.errors import UsageError

if TYPE_CHECKING:
    from ddpo_core.discovery import Registry


def sample(
    source: Annotated[
        str, typer.Argument(help="A run's folder, or a model.", metavar="RUN|MODEL", show_default=False)
    ],
    prompt: Annotated[
        list[str],
        typer.Option(help="What to draw; repeat it for several.", metavar="TEXT", show_default=False),
    ],
    seed: Annotated[int, typer.Option(help="Of the first picture; the next ones count on.", min=0)] = 0,
    n: Annotated[int, typer.Option("-n", "--count", help="Pictures of each prompt.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Where the PNGs go.", metavar="DIR")] = Path("samples"),
    epoch: Annotated[
        int | None,
        typer.Option(
            help="The run's checkpoint to take; 0: before training (default: the latest).",
            min=0,
            show_default=False,
        ),
    ] = None,
    num_steps: NumSteps = None,
    guidance_scale: GuidanceScale = None,
    device: Device = "auto",
) -> None:
    """Draw pictures; one seed and one prompt always give the same picture. Prints the files it wrote."""
    run = RunFolder(Path(source)) if (Path(source) / "config.toml").is_file() else None
    values: dict[str, object] = {"device": device}
    if num_steps is not None:
        values["num_steps"] = num_steps
    if guidance_scale is not None:
        values["guidance_scale"] = guidance_scale
    if run is None and epoch is not None:
        raise UsageError(f"--epoch belongs to a run, and {source} is not a run's folder")
    config, registry = _of_run(run, values) if run else _of_model(source, values)
    pictures = _draw(config, registry, run, epoch, prompt, seed, n)
    for name, content in pictures:
        write_atomic(out / name, content)
        print(out / name)


def _of_run(run: RunFolder, values: dict[str, object]) -> tuple[RunConfig, Registry]:
    from ddpo_core.config.resolve import make_registry

    stored, _ = config_file.stored(run.config)
    layers = [Layer(f"run {run.root}", stored), Layer("flag", values)]
    registry = make_registry(layers)
    return resolve(layers, registry).config, registry


def _of_model(source: str, values: dict[str, object]) -> tuple[RunConfig, Registry]:
    from ddpo_core.config.resolve import make_registry

    registry = make_registry([])
    return resolve([Layer("flag", {**values, "model": source})], registry, to_train=False).config, registry


def _draw(
    config: RunConfig,
    registry: Registry,
    run: RunFolder | None,
    epoch: int | None,
    prompts: list[str],
    seed: int,
    n: int,
) -> list[tuple[str, bytes]]:
    """File names and PNGs."""
    parts.require(*parts.TO_DRAW)
    from ddpo_core.denoising import Policy
    from ddpo_core.types import Prompt

    at = run.pick_checkpoint(epoch) if run and epoch != 0 else None  # None: before training
    # without trained weights a LoRA would be nothing but work
    model = parts.load_model(config, registry, adapted=at is not None)
    if run and at:
        from ddpo_core import checkpoint

        model.denoiser.load_trainable_state(checkpoint.load(run.checkpoint(at)).weights)
    policy = Policy(
        model.denoiser,
        model.sampler,
        model.sampler.schedule(model.denoiser, config.num_steps),
        config.guidance_scale,
    )
    jobs = [(text, seed + index) for text in prompts for index in range(n)]
    plan = grids.GridPlan([Prompt(text) for text, _ in jobs], [number for _, number in jobs])
    with model.accelerator.autocast():
        images = grids.draw(policy, plan, config.sample_batch_size)
    return [
        (_file_name(*job), grids.png(picture))
        for job, picture in zip(jobs, grids.to_pil(images), strict=True)
    ]


def _file_name(prompt: str, seed: int) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.casefold()).strip("-")[:60] or "empty"
    return f"{slug}-{seed}.png"
