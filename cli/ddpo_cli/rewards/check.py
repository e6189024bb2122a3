"""`ddpo rewards check`: hold a reward to its contract, installed or not, and tell all that it breaks."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpo_cli.console import emit_json, style
from ddpo_cli.options import AsJson, JudgesOf, MadeForPrompts, PluginFiles
from ddpo_cli.rewards import score
from ddpo_core.errors import UsageError
from ddpo_core.plugins import from_path, is_path

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo_core.discovery import Registry
    from ddpo_core.testing.contract import Outcome
    from ddpo_core.testing.trial import Picture, Subject
    from ddpo_core.types import Prompt

MOST = 16  # pictures of the user's own that are looked at
MARKS = {
    "passed": ("✓", "green"),
    "advised": ("!", "yellow"),
    "failed": ("✗", "red"),
    "skipped": ("–", "dim"),
}
PICTURES = "DIR|FILE"


@dataclass(frozen=True)
class Shown:
    """What a reward is tried on; None or nothing: drawn patterns, and prompts of ddpo's own."""

    images: Tensor | None
    prompts: Sequence[Prompt] | None
    better: Sequence[Picture]
    worse: Sequence[Picture]


@dataclass(frozen=True)
class Report:
    """What came of a trial."""

    subject: Subject
    outcomes: Sequence[Outcome]
    images_per_second: float | None  # None where it could not judge
    measured_on: str

    def count(self, status: str) -> int:
        return sum(made.status == status for made in self.outcomes)


def check(
    reward: Annotated[
        str,
        typer.Argument(
            help="An installed reward with options, a plugin file, or the folder of a distribution.",
            metavar="SPEC|PATH",
        ),
    ],
    model: JudgesOf = None,
    better: Annotated[
        list[Path] | None,
        typer.Option(help="Pictures that should score higher …", metavar=PICTURES, show_default=False),
    ] = None,
    worse: Annotated[
        list[Path] | None,
        typer.Option(help="… than these; captions as for --images.", metavar=PICTURES, show_default=False),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Pictures it is made for (default: drawn patterns); name.txt beside name.png is its prompt.",
            metavar=PICTURES,
            show_default=False,
        ),
    ] = None,
    prompts: MadeForPrompts = None,
    as_json: AsJson = False,
    plugin: PluginFiles = None,
) -> None:
    """Hold a reward to its contract, check by check. Exits with 1 where one is broken.

    \b
    ddpo rewards check redness,gamma=2
    ddpo rewards check ./redness.py --better red/ --worse blue/
    ddpo rewards check ./ddpo-reward-redness
    """
    from ddpo_core.config import parts

    if bool(better) != bool(worse):
        given, missing = ("--better", "--worse") if better else ("--worse", "--better")
        raise UsageError(f"{given} expects {missing} beside it, to compare with")
    installed = None if is_path(reward) else score.asked_for(reward, model, plugin or ())
    parts.require(*parts.TO_SCORE)
    subjects = found(reward, installed, model)
    if any(subject.info and subject.info.weights for subject in subjects):
        parts.quiet_loading()  # no progress bars between the lines
    shown = shown_pictures(better or (), worse or (), images or (), prompts)
    reports = []
    for subject in subjects:
        reports.append(tried(subject, shown, told=not as_json))
    failed = any(report.count("failed") for report in reports)
    if as_json:
        emit_json({"ok": not failed, "rewards": [described(report) for report in reports]})
    if failed:
        raise typer.Exit(1)


def found(text: str, installed: tuple[Registry, str] | None, model: str | None) -> list[Subject]:
    """What is on trial: an installed reward, or all rewards of a file or folder."""
    from ddpo_core.config import specs
    from ddpo_core.discovery import registry
    from ddpo_core.testing import subjects

    if installed is not None:
        known, text = installed
        spec = specs.find(known, "reward", text).spec
        return [subjects.subject_of(known, known.entry("reward", spec.name), spec)]
    judges = specs.find(registry(), "model", model).info.judges if model else {}
    on_trial = [
        subject for plugin in from_path(Path(text)) for subject in subjects.subjects_of(plugin, judges)
    ]
    if not on_trial:
        raise UsageError(f"{text}: expected a plugin with rewards, got none", hint="add a hook ddpo_rewards")
    return on_trial


# ---- pictures ----------------------------------------------------------------------------------------


def shown_pictures(
    better: Sequence[Path], worse: Sequence[Path], images: Sequence[Path], prompts: str | None
) -> Shown:
    """The user's own pictures and prompts. Raises `UsageError` for pictures that do not go together."""
    import torch

    own = read_pictures(images)[:MOST]
    shapes = {picture.pixels.shape for picture in own}
    if len(shapes) > 1:
        sizes = " and ".join(sorted(f"{shape[2]} × {shape[1]}" for shape in shapes))
        raise UsageError(f"--images are judged in one batch, and have to be of one size; got {sizes}")
    if prompts:
        asked: Sequence[Prompt] | None = first_prompts(prompts, len(own) or 5)
    else:
        asked = [picture.prompt for picture in own] or None
    stacked = torch.stack([picture.pixels for picture in own]) if own else None
    return Shown(stacked, asked, read_pictures(better), read_pictures(worse))


def read_pictures(files: Sequence[Path]) -> list[Picture]:
    """Pictures with the captions beside them."""
    from ddpo_core.testing.trial import Picture

    if not files:
        return []
    return [Picture(score.pixels(each.file), each.prompt) for each in score.found(files, None, None)]


def first_prompts(text: str, count: int) -> list[Prompt]:
    """The first few of a prompt set or file."""
    from ddpo_core.config.parts import load_prompts
    from ddpo_core.discovery import registry

    prompt_set = load_prompts(text, (), registry())
    return [prompt_set[place] for place in range(min(count, len(prompt_set)))]


# ---- the trial ---------------------------------------------------------------------------------------


def tried(subject: Subject, shown: Shown, *, told: bool) -> Report:
    """Make every check; with `told`, print each as it is made."""
    import torch

    from ddpo_core.testing.contract import outcomes
    from ddpo_core.testing.judged import images_per_second
    from ddpo_core.testing.trial import Trial

    trial = Trial(subject, images=shown.images, prompts=shown.prompts, better=shown.better, worse=shown.worse)
    made = []
    if told:
        print_heading(subject)
    for outcome in outcomes(trial):
        made.append(outcome)
        if told:
            print_outcome(outcome)
    can_judge = trial.outcomes["one-score"].status == "passed"
    height, width = trial.images.shape[-2:]
    report = Report(
        subject,
        made,
        images_per_second(trial) if can_judge else None,
        f"batches of {len(trial.prompts)}, {width} × {height} pixels, {counted(torch.get_num_threads())}",
    )
    trial.close()
    if told:
        print_summary(report)
    return report


# ---- telling -----------------------------------------------------------------------------------------


def print_heading(subject: Subject) -> None:
    info = subject.info
    assert info is not None, "a reward that is found has a record"
    print(f"{style(info.name, 'bold')}: {info.summary}\n")


def print_outcome(outcome: Outcome) -> None:
    """A mark, the check in plain words, and what is to be said; wrapped to the terminal."""
    from ddpo_core.testing.contract import CHECKS

    mark, colour = MARKS[outcome.status]
    says = outcome.check.says.ljust(max(len(check.says) for check in CHECKS))
    indent = len(f"  {mark}  {says}  ")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    lines = textwrap.wrap(outcome.told, max(width - indent, 30), break_on_hyphens=False) or [""]
    print(f"  {style(mark, colour)}  {says}  {lines[0]}".rstrip())
    for line in lines[1:]:
        print(" " * indent + line)


def print_summary(report: Report) -> None:
    words = {
        "passed": "kept",
        "failed": "broken",
        "advised": "to think about",
        "skipped": "not checked",
    }
    told = [f"{report.count(status)} {word}" for status, word in words.items() if report.count(status)]
    print(f"\n{', '.join(told)}")
    if report.images_per_second is not None:
        print(f"{speed(report.images_per_second)} images/s in {report.measured_on}")
    if report.count("failed"):
        print("what each check means, and how to mend it: docs/how-to/check-a-reward.md")
    print()


def speed(images_per_second: float) -> str:
    """Three digits before the point, or as many as there are."""
    return f"{images_per_second:.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"


def counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def described(report: Report) -> dict[str, Any]:
    """A report for programs."""
    info = report.subject.info
    return {
        "reward": info.name if info else report.subject.name,
        "ok": not report.count("failed"),
        "images_per_second": report.images_per_second,
        "measured_on": report.measured_on,
        "checks": [
            {
                "check": made.check.key,
                "says": made.check.says,
                "status": made.status,
                "told": made.told,
            }
            for made in report.outcomes
        ],
    }
