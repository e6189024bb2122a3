"""`ddpo train`: from what was typed to a run, a dry run, or a run that goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpo_cli import config_file, failures, flags
from ddpo_cli.console import emit_json, style
from ddpo_cli.flags import with_setting_flags
from ddpo_cli.live import Header, View, make_view
from ddpo_cli.run_folder import RunFolder
from ddpo_core.config import provenance
from ddpo_core.config.resolve import (
    CLIP_RANGE,
    Layer,
    Resolved,
    from_file,
    from_preset,
    make_registry,
    resolve,
)
from ddpo_core.config.settings import RunConfig, declared
from ddpo_core.config.task_specs import TaskText, tasks_of
from ddpo_core.errors import DdpoError, UsageError

if TYPE_CHECKING:
    from ddpo_cli.session import Session
    from ddpo_core.discovery import Registry

INTERRUPTED = 130


@dataclass(frozen=True)
class Rehearsal:
    """A dry run: the plan is shown, and nothing is done."""

    measure: bool | None  # None: where that takes seconds
    json: bool

    def show(self, resolved: Resolved, registry: Registry) -> None:
        """Print what would be done."""
        from ddpo_cli import memory, plan, plan_text

        made = plan.make_plan(resolved.config, registry)
        counted = None if self.measure is False else memory.estimated(resolved.config, registry, made.sizes)
        measured = plan_text.measured(resolved.config, registry, made, self.measure)
        if self.json:
            both = (asdict(each) if each else None for each in (counted, measured))
            emit_json(plan.as_json(made, resolved, *both))
        else:
            print(plan_text.text(made, resolved, counted, measured))


@with_setting_flags
def train(
    *,
    clip_range: Annotated[float | None, flags.CLIP_RANGE] = None,
    config: Annotated[Path | None, flags.CONFIG] = None,
    preset: Annotated[str | None, flags.PRESET] = None,
    out: Annotated[Path | None, flags.OUT] = None,
    resume: Annotated[Path | None, flags.RESUME] = None,
    allow_plugin_change: Annotated[bool, flags.ALLOW_PLUGIN_CHANGE] = False,
    dry_run: Annotated[bool, flags.DRY_RUN] = False,
    measure: Annotated[bool | None, flags.MEASURE] = None,
    json: Annotated[bool, flags.JSON] = False,
    **settings: Any,
) -> None:
    """Fine-tune a text-to-image model towards one or more rewards.

    ddpo train --reward jpeg
    ddpo train --reward aesthetic:0.5 --reward align:0.5
    ddpo train --reward align --constraint aesthetic,min=5.5
    ddpo train --resume runs/mine
    """
    rehearsal = Rehearsal(measure, json) if dry_run else None
    typed = flags.given(settings) | ({} if clip_range is None else {CLIP_RANGE: clip_range})
    if json and not dry_run:
        raise UsageError("--json belongs to --dry-run", hint="a run's numbers are in its metrics.jsonl")
    if resume is not None:
        if config or preset or out:
            raise UsageError(
                "--resume takes its settings from the run's folder; leave --config, --preset and --out out"
            )
        _resume(RunFolder.open(resume), typed, rehearsal, allow_plugin_change)
        return
    layers = [from_preset(preset)] if preset else []
    layers += [from_file(config)] if config else []
    layers.append(Layer("flag", typed))
    registry = make_registry(layers)
    resolved = resolve(layers, registry)
    if rehearsal:
        rehearsal.show(resolved, registry)
        return
    folder = _new_folder(out or default_folder(resolved.config))
    plugins = provenance.describe(resolved.config, registry)
    if is_first_process():
        folder.write_json(folder.plugins, plugins)
        write_config(folder, resolved)
    _run(folder, resolved, registry, make_header(folder, resolved.config, plugins), None)


def default_folder(config: RunConfig) -> Path:
    """runs/jpeg-pocket-20240131-235959."""
    names = [*provenance.labels(config), config.model.partition(",")[0]]
    return Path("runs") / "-".join([*names, time.strftime("%Y%m%d-%H%M%S")])


def is_first_process() -> bool:
    """The one process that writes, of those that `accelerate launch` or torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def _new_folder(path: Path) -> RunFolder:
    return RunFolder.create(path) if is_first_process() else RunFolder(path)


def write_config(folder: RunFolder, resolved: Resolved) -> None:
    """config.toml, last of the first files: a folder that has one is a run."""
    from ddpo_cli.run_folder import write_atomic

    write_atomic(folder.config, config_file.dumps(resolved).encode())


# going on


def _resume(
    folder: RunFolder, typed: dict[str, object], rehearsal: Rehearsal | None, allow_plugin_change: bool
) -> None:
    values, origins = config_file.stored(folder.config)
    begun = Layer(f"run {folder.root}", values)
    changes = Layer("flag", typed)
    registry = make_registry([begun, changes])
    before = Resolved(resolve([begun], registry).config, origins)
    resolved = resumed(before, resolve([begun, changes], registry).config, folder)
    if rehearsal:
        rehearsal.show(resolved, registry)
        return
    now = provenance.describe(resolved.config, registry)
    latest = folder.latest_checkpoint()
    saved = folder.checkpoint_plugins(latest) if latest else {}
    record, differences = provenance.gone_on(now, saved, folder.read_json(folder.plugins), latest)
    if differences and not allow_plugin_change:
        raise UsageError(
            "this run was made with other plugins:\n  " + "\n  ".join(differences),
            hint="install those again, or accept that it becomes another run: --allow-plugin-change",
        )
    if resolved.config.epochs < (latest or 0):
        raise UsageError(
            f"--epochs {resolved.config.epochs}: this run has done {latest} already; epochs can be raised"
        )
    if is_first_process():
        _warn_of(differences)
        folder.write_json(folder.plugins, record)
        write_config(folder, resolved)
    _run(folder, resolved, registry, make_header(folder, resolved.config, now), latest)


def _warn_of(differences: Sequence[str]) -> None:
    """Name what is not as it was, in a run that goes on all the same."""
    if differences:
        warning = style("warning:", "yellow", sys.stderr)
        listed = "\n  ".join(differences)
        print(f"{warning} this run goes on with other plugins than it had:\n  {listed}", file=sys.stderr)


def resumed(before: Resolved, after: RunConfig, folder: RunFolder) -> Resolved:
    """The run's config with what may change. Raises `UsageError` for what would change its numbers."""
    old, new, origins = asdict(before.config), asdict(after), dict(before.origins)
    for name, setting in declared().items():
        if old[name] == new[name]:
            continue
        if setting.fixed:
            raise UsageError(
                f"{setting.flag}: a resumed run keeps what it began with, {old[name]!r}; got {new[name]!r}",
                hint=f"a new run with it: ddpo train --config {folder.config} {setting.flag} …",
            )
        origins[name] = "flag, on resuming"
    return Resolved(after, origins)


# the run itself


def _run(
    folder: RunFolder, resolved: Resolved, registry: Registry, header: Header, resume_at: int | None
) -> None:
    from ddpo_cli import report

    goes_on = f"ddpo train --resume {folder.root}"
    view = make_view()
    try:
        session = _begin(folder, resolved, registry, view)
        outcome = session.run(header, resume_at)
    except KeyboardInterrupt:
        latest = folder.latest_checkpoint()
        saved = f"the last checkpoint is epoch {latest}" if latest else "there is no checkpoint yet"
        view.say(f"Stopped at once; {saved}. To go on: {goes_on}")
        raise typer.Exit(INTERRUPTED) from None
    if not is_first_process():
        return
    report.write_report(folder)
    plugins, history = folder.read_json(folder.plugins), folder.read_metrics()
    for tally in failures.tallies(plugins, history, resolved.config.samples_per_epoch):
        view.say(tally.told())
    if outcome.interrupted:
        view.say(
            f"Stopped after epoch {outcome.epoch} of {resolved.config.epochs}, saved. To go on: {goes_on}"
        )
        raise typer.Exit(INTERRUPTED)
    print(f"report   {folder.report}")
    print(f"adapter  {folder.adapter}")
    print(f"pictures ddpo sample {folder.root} --prompt TEXT")


def _begin(folder: RunFolder, resolved: Resolved, registry: Registry, view: View) -> Session:
    """The session; where it cannot be, a folder in which nothing has happened goes again."""
    from ddpo_core.config import parts

    try:
        parts.require(*parts.TO_DRAW)
        from ddpo_cli.session import Session

        return Session(folder, resolved, registry, view)
    except DdpoError:
        if is_first_process():
            folder.discard_unused()
        raise


def make_header(folder: RunFolder, config: RunConfig, plugins: dict[str, Any]) -> Header:
    """What the view begins with: every reward with the distribution and version that it came from."""
    shares = _expected_shares(config, plugins["rewards"])
    rewards = {label: _reward_line(part, shares.get(label)) for label, part in plugins["rewards"].items()}
    model = plugins["parts"]["model"]
    trained = f"LoRA of rank {config.lora_rank}" if config.lora_rank else "all weights"
    sampling = f"{config.sampler}, {config.num_steps} steps, guidance {config.guidance_scale:g}"
    epoch = f"{config.samples_per_epoch} samples, {config.updates_per_epoch} updates"
    turns = tasks_of(config)
    facts = [
        ("model", f"{config.model} · {model['distribution']} {model['version']} · {trained}"),
        *((("prompts" if len(turns) == 1 else f"task {turn.name}"), _drawn_from(turn)) for turn in turns),
        ("learning", f"{config.estimator} · {sampling}"),
        ("an epoch", f"{epoch}, learning rate {config.learning_rate:g}, seed {config.seed}"),
    ]
    return Header(str(folder.root), config.epochs, rewards, facts)


def _drawn_from(turn: TaskText) -> str:
    return turn.prompts or f"{len(turn.prompt)} typed"


def _expected_shares(config: RunConfig, rewards: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of the advantage's variance, if rewards do not correlate: w² / Σw². Empty where nobody knows before."""
    squares = {label: part["weight"] ** 2 for label, part in rewards.items() if part["weight"]}
    if config.mixer not in ("gdpo", "pcgrad") or len(squares) < 2 or len(tasks_of(config)) > 1:
        return {}
    return {label: square / sum(squares.values()) for label, square in squares.items()}


def _reward_line(part: dict[str, Any], share: float | None) -> str:
    weight = f"weight {part['weight']:g}" if part["weight"] else "watched"
    said = f" ({share:.0%} of the variance, unless rewards correlate)" if share is not None else ""
    return f"{weight}{said} · {part['distribution']} {part['version']}"
