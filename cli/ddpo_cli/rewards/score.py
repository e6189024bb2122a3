"""`ddpo rewards score`: what a reward says of pictures that are there already."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpo_cli.options import AsJson, JudgesOf, PluginFiles, RewardSpec
from ddpo_core.errors import UsageError
from ddpo_core.nearest import nearest_path

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo_core.discovery import Registry
    from ddpo_core.rewards import Term
    from ddpo_core.types import Prompt, Scores

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Picture:
    """A file, and the prompt that it is judged with."""

    file: Path
    prompt: Prompt


def score(
    reward: RewardSpec,
    images: Annotated[
        list[Path],
        typer.Option(help="A picture, or a folder of them; repeat it for several.", metavar="DIR|FILE"),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='Their prompts: {"file": …, "prompt": …} a line of .jsonl, with objects and the like beside'
            " (default: name.txt beside name.png, or none).",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="One prompt for all of them.", metavar="TEXT", show_default=False)
    ] = None,
    model: JudgesOf = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with the pictures, too.", metavar="FILE", show_default=False),
    ] = None,
    as_json: AsJson = False,
    plugin: PluginFiles = None,
) -> None:
    """Score existing pictures: a line for each, mean and standard error below.

    ddpo rewards score jpeg --images pictures/
    ddpo rewards score align --images cat.png --prompt "a cat riding a bike"
    """
    pictures = found(images, prompts, prompt)
    from ddpo_core.config import provenance

    registry, spec = asked_for(reward, model, plugin or ())
    term = built(registry, spec)
    scores = judged(term, pictures)
    _, given_by = provenance.of_reward(registry, spec)
    if html is not None:
        html.write_text(page(term, pictures, scores, given_by), encoding="utf-8")
    if as_json:
        print_json(term, pictures, scores, given_by)
    else:
        print_table(term, pictures, scores)
        if html is not None:
            print(f"\n{html}")


def asked_for(text: str, model: str | None, plugins: Sequence[Path]) -> tuple[Registry, str]:
    """The reward's spec, with the options that suit a model's pictures where the user gave none."""
    from ddpo_core.config import specs
    from ddpo_core.config.resolve import Layer, make_registry

    registry = make_registry([Layer("flag", {"plugin": [str(file) for file in plugins]})])
    spec = specs.with_judges(registry, model, text) if model else text
    specs.find(registry, "reward", spec)  # an unknown name is told of before torch is imported
    return registry, spec


def built(registry: Registry, spec: str) -> Term:
    """The reward itself."""
    from ddpo_core.config.parts import TO_SCORE, make_term, quiet_loading, require

    require(*TO_SCORE)
    quiet_loading()
    return make_term(registry, spec, watched=False)


# ---- pictures ----------------------------------------------------------------------------------------


def found(images: Sequence[Path], prompts: Path | None, prompt: str | None) -> list[Picture]:
    """The pictures by name, each with its prompt. Raises `UsageError` where there are none."""
    from ddpo_core.types import Prompt

    if prompts is not None and prompt is not None:
        raise UsageError("--prompts and --prompt were both given; one of them has to go")
    listed = read_prompts(prompts) if prompts else {}
    pictures = []
    for file in [file for given in images for file in files_of(given)]:
        if listed and file.name not in listed:
            raise UsageError(f"--prompts {prompts} has no line for {file.name}")
        pictures.append(Picture(file, listed.get(file.name) or Prompt(prompt or beside(file))))
    return pictures


def files_of(given: Path) -> list[Path]:
    """A picture, or all of a folder's."""
    if given.is_file():
        return [given]
    if not given.is_dir():
        raise UsageError(f"--images: there is no file or folder {given}{nearest_path(given)}")
    files = sorted(file for file in given.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"--images: expected {', '.join(SUFFIXES)} in {given}, found none")
    return files


def beside(file: Path) -> str:
    """The caption in the text file of the same name, or nothing."""
    caption = file.with_suffix(".txt")
    return caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""


def read_prompts(path: Path) -> dict[str, Prompt]:
    """File name → prompt; whatever else a line holds is the prompt's metadata."""
    from ddpo_core.types import Prompt

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
        return {
            Path(record.pop("file")).name: Prompt(record.pop("prompt"), record)
            for record in map(dict, records)
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f'--prompts: expected lines such as {{"file": "a.png", "prompt": "a cat"}} in {path};'
            f" {type(error).__name__}: {error}"
        ) from error


def pixels(file: Path) -> Tensor:
    """The picture [3, H, W] float32 in [0, 1]; transparency lies on white."""
    from ddpo_core.scoring import as_tensor

    return as_tensor(file)


# ---- judging -----------------------------------------------------------------------------------------


def judged(term: Term, pictures: Sequence[Picture]) -> Scores:
    """All scores, in the pictures' order; pictures are judged together as the reward's scope asks."""
    from ddpo_core.scoring import judge

    return judge(
        term, [pixels(picture.file) for picture in pictures], [picture.prompt for picture in pictures]
    )


# ---- telling -----------------------------------------------------------------------------------------


def summary(scores: Scores) -> tuple[float, float, int]:
    """Mean, standard error (NaN for one) and count of the scores that are there."""
    values = [float(value) for value in scores.values if math.isfinite(value)]
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan, len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values)), len(values)


def described(pictures: Sequence[Picture], scores: Scores) -> list[dict[str, Any]]:
    """A record for each picture."""
    from ddpo_cli.records import plain

    levels = scores.levels if scores.levels is not None else [math.nan] * len(pictures)
    details: Sequence[Mapping[str, object]] = scores.details or [{}] * len(pictures)
    rows = zip(pictures, scores.values, levels, details, strict=True)
    return [
        {
            "file": str(picture.file),
            "prompt": picture.prompt.text,
            "score": plain(float(value)),
            **({"level": float(level)} if math.isfinite(level) else {}),
            "details": plain(detail),
        }
        for picture, value, level, detail in rows
    ]


def print_json(term: Term, pictures: Sequence[Picture], scores: Scores, given_by: Mapping[str, Any]) -> None:
    from ddpo_cli.console import emit_json

    mean, stderr, count = summary(scores)
    emit_json(
        {
            "reward": term.label,
            "unit": term.info.unit,
            "mean": mean,
            "stderr": stderr,
            "count": count,
            "failures": scores.failures,
            "provenance": given_by,
            "images": described(pictures, scores),
        }
    )


def print_table(term: Term, pictures: Sequence[Picture], scores: Scores) -> None:
    from ddpo_cli.console import table

    said = described(pictures, scores)
    has_levels = any("level" in each for each in said)
    headings = ["picture", f"{term.label} {term.info.unit}".strip(), *(["of its set"] if has_levels else [])]
    rows = [
        (
            Path(each["file"]).name,
            _number(each["score"]),
            *([_number(each.get("level"))] if has_levels else []),
            str(each["details"].get("caption") or each["prompt"]),
        )
        for each in said
    ]
    print(table(rows, (*headings, "caption or prompt")))
    mean, stderr, count = summary(scores)
    error = "" if math.isnan(stderr) else f" ± {stderr:.3g}"
    print(f"\nmean {mean:.4g}{error} of {count}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def page(term: Term, pictures: Sequence[Picture], scores: Scores, given_by: Mapping[str, Any]) -> str:
    """The pictures with what was said of them, best first, in one HTML file."""
    from PIL import Image

    from ddpo_cli import givers
    from ddpo_cli.pages import render, shot

    said = described(pictures, scores)
    order = sorted(range(len(said)), key=lambda row: -(said[row]["score"] or -math.inf))
    shots = []
    for row in order:
        record = {
            "prompt": said[row]["prompt"],
            "scores": {term.label: said[row]["score"]},
            "details": {term.label: said[row]["details"]},
        }
        with Image.open(pictures[row].file) as opened:
            shots.append((said[row], shot(opened.convert("RGB"), record)))
    mean, stderr, count = summary(scores)
    return render(
        "score.html",
        {
            "label": term.label,
            "info": term.info,
            "mean": f"{mean:.4g}",
            "stderr": "" if math.isnan(stderr) else f"{stderr:.3g}",
            "count": count,
            "shots": shots,
            "givers": givers.rows({term.label: given_by}),
        },
    )
