"""Options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        help="A Python file with a plugin that is not installed.", metavar="FILE", show_default=False
    ),
]
RewardSpec = Annotated[str, typer.Argument(help="A reward's spec, such as jpeg,quality=80.", metavar="SPEC")]
JudgesOf = Annotated[
    str | None,
    typer.Option(
        help="Take the judges that suit this model's pictures, such as pocket.",
        metavar="SPEC",
        show_default=False,
    ),
]
MadeForPrompts = Annotated[
    str | None,
    typer.Option(
        help="Prompts it is made for, such as counting: a set, or a file of them.",
        metavar="SPEC|FILE",
        show_default=False,
    ),
]
NumSteps = Annotated[
    int | None, typer.Option(help="Denoising steps (default: the run's).", min=1, show_default=False)
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance (default: the run's).", min=0, show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.", metavar="NAME")]
