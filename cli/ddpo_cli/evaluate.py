"""`ddpo eval`: rewards × prompt sets, before and after training, with standard errors and pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ddpo_cli import eval_show
from ddpo_cli.eval_judge import judge, steps
from ddpo_cli.eval_look import all_rewards, given_by, look_at, rewards
from ddpo_cli.options import Device, GuidanceScale, NumSteps, PluginFiles
from ddpo_core.config import parts


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
    look = look_at(source, given, [str(file) for file in plugin or ()], prompts or [], epoch, samples, seed)
    look = replace(look, batch_size=batch_size or look.config.sample_batch_size)
    parts.require(*parts.TO_DRAW)
    parts.quiet_loading()
    terms, missing = rewards(look, reward or [])
    with steps() as step:
        matrix, pictures = judge(look, terms, missing, step, explicit=bool(reward))
    folder = out or (Path(look.columns[1].folder) / "eval" if len(look.columns) == 2 else Path("eval"))
    facts = {
        "model": look.config.model,
        "samples": samples,
        "seed": seed,
        "num_steps": look.config.num_steps,
        "guidance_scale": look.config.guidance_scale,
        "sampler": look.config.sampler,
        "provenance": given_by(look, reward or all_rewards(look), terms),
    }
    eval_show.to_terminal(matrix)
    for file in eval_show.write(folder, matrix, facts, pictures):
        print(file)
