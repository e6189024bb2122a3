"""`ddpo report RUN`: everything worth seeing of a run in one HTML file that needs nothing else.

Curves with error bands, the fixed-seed grid before and after, settings with their origins, versions.
No script and no network; light or dark as the reader's system is.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpo_cli import charts, failures, givers, grids, pages
from ddpo_cli.charts import Curve
from ddpo_cli.live import duration
from ddpo_cli.pages import PIXELATED_BELOW, Shot, data_uri
from ddpo_cli.run_folder import Metrics, RunFolder, best_epoch, write_atomic
from ddpo_core.config.settings import declared

LEARNING = {
    "loss": "Loss",
    "approx_kl": "Approximate KL per element",
    "clip_fraction": "Fraction of ratios clipped",
    "grad_norm": "Gradient norm before clipping",
    "effective_sample_size": "Effective sample size, part of the samples",
    "denoising_error": "Denoising error",
    "kl": "KL divergence from the model before training, nats per element",
    "pretraining/denoising_error": "Denoising error on captioned pictures",
}
CLIPPED = "clip_fraction/timestep-"
PAGE_WIDTH, CARD_WIDTH = 1030, 560  # of a chart, in pixels, alone in its row or not
STRIP_PROMPTS, STRIP_EPOCHS = 4, 7


@dataclass(frozen=True)
class RewardCard:
    """One reward's chart, and its rise in numbers."""

    label: str
    about: str
    unit: str
    chart: str
    first: str
    last: str
    change: str
    errors: str  # the change in combined standard errors
    better: bool | None  # None: watched only
    share: str


@dataclass(frozen=True)
class Pair:
    """One cell of the grid, first and latest."""

    prompt: str
    before: Shot
    after: Shot


@dataclass(frozen=True)
class Strip:
    """One cell of the grid through time."""

    prompt: str
    frames: Sequence[tuple[int, str]]  # epoch, data URI


def report(
    run: Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)],
) -> None:
    """Write RUN/report.html: curves, pictures before and after, settings, versions."""
    folder = RunFolder.open(run)
    write_report(folder)
    print(folder.report)


def write_report(folder: RunFolder) -> None:
    """Render and save it, atomically."""
    write_atomic(folder.report, render(folder).encode())


def render(folder: RunFolder) -> str:
    """The page. A run without any epoch yet has a page too."""
    return pages.render("report.html", contents(folder))


def contents(folder: RunFolder) -> dict[str, Any]:
    """What the page shows, as plain values."""
    stored = tomllib.loads(folder.config.read_text(encoding="utf-8"))
    plugins = folder.read_json(folder.plugins) if folder.plugins.is_file() else {}
    history = folder.read_metrics()
    drawn = grids.saved_epochs(folder)
    rewards = plugins.get("rewards", {}) if history else {}
    width = CARD_WIDTH if len(rewards) > 1 else PAGE_WIDTH
    cards = [_reward_card(label, part, history, width) for label, part in rewards.items()]
    weights = {label: part["weight"] for label, part in plugins.get("rewards", {}).items() if part["weight"]}
    last = history[-1] if history else {}
    return {
        "title": " + ".join(weights) or folder.root.name,
        "folder": folder.root.name,
        "model": str(stored.get("model", "")).partition(",")[0],
        "tiles": _tiles(stored, history, folder, weights),
        "cards": cards,
        "failures": [
            tally.told()
            for tally in failures.tallies(plugins, history, int(stored.get("samples_per_epoch", 0)))
        ],
        "givers": givers.rows(plugins.get("rewards", {})),
        "changes": plugins.get("changes", []),
        "pairs": _pairs(folder, drawn),
        "drawn": drawn,
        "strips": _strips(folder, drawn),
        "pixelated": _is_small(folder, drawn),
        "learning": _learning_charts(history),
        "settings": _settings(stored),
        "parts": _parts(plugins),
        "versions": plugins.get("environment", {}),
        "last_epoch": int(last.get("epoch", 0)),
    }


def _column(history: Sequence[Metrics], key: str) -> list[float]:
    return [line.get(key, math.nan) for line in history]


def _reward_card(label: str, part: Mapping[str, Any], history: Sequence[Metrics], width: int) -> RewardCard:
    epochs = _column(history, "epoch")
    means, errors = _column(history, f"reward/{label}/mean"), _column(history, f"reward/{label}/stderr")
    change = means[-1] - means[0]
    combined = math.hypot(errors[0], errors[-1])
    weight = float(part.get("weight", 0))
    share = history[-1].get(f"reward/{label}/share", 0.0)
    return RewardCard(
        label=label,
        about=_about(part),
        unit=part.get("unit", ""),
        chart=charts.svg([Curve(label, epochs, means, errors)], width=width, height=300),
        first=charts.with_error(means[0], errors[0]),
        last=charts.with_error(means[-1], errors[-1]),
        change=f"{change:+.3g}",
        errors=f"{change / combined:+.1f}" if combined else "",
        better=change * weight > 0 if weight else None,
        share=f"{share:.0%}" if weight else "watched",
    )


def _about(part: Mapping[str, Any]) -> str:
    """What a higher score means, its weight, and who it comes from."""
    meaning = f"higher: {part['higher_is']}" if part.get("higher_is") else ""
    weight = f"weight {part['weight']:g}" if part.get("weight") else "watched, not trained on"
    return " · ".join(text for text in (meaning, weight, f"{part['distribution']} {part['version']}") if text)


def _tiles(
    stored: Mapping[str, Any], history: Sequence[Metrics], folder: RunFolder, weights: Mapping[str, float]
) -> list[tuple[str, str]]:
    """A few numbers to begin with: name, value."""
    if not history:
        return [("epochs", f"0 of {stored.get('epochs', '?')}")]
    seconds = sum(
        line.get(f"seconds/{phase}", 0.0) for line in history for phase in ("rollout", "scores", "update")
    )
    tiles = [
        ("epochs", f"{int(history[-1]['epoch'])} of {stored.get('epochs', '?')}"),
        ("reward queries", charts.number(history[-1].get("reward_queries", math.nan))),
        ("sampling and training", duration(seconds)),
    ]
    best = best_epoch(list(history), [int(line["epoch"]) for line in history], weights)
    return [*tiles, ("best epoch", str(best))] if best else tiles


def _learning_charts(history: Sequence[Metrics]) -> list[tuple[str, str, str]]:
    """Title, chart and legend of every quantity that was measured."""
    if not history:
        return []
    epochs = _column(history, "epoch")
    made = [
        (title, charts.svg([Curve(title, epochs, _column(history, key))], width=340, height=170), "")
        for key, title in LEARNING.items()
        if key in history[-1]
    ]
    phases = [phase for phase in ("rollout", "scores", "update") if f"seconds/{phase}" in history[-1]]
    seconds = [
        Curve(phase, epochs, _column(history, f"seconds/{phase}"), colour=index + 1)
        for index, phase in enumerate(phases)
    ]
    legend = " ".join(f'<span class="key c{curve.colour}">{curve.name}</span>' for curve in seconds)
    made.append(("Seconds an epoch", charts.svg(seconds, width=340, height=170), legend))
    by_step = steps_chart(history)
    if by_step:
        made.append(("Clipped at each timestep, last quarter of the run", by_step, ""))
    shares = [key for key in history[-1] if key.endswith("/share") and history[-1][key]]
    if len(shares) > 1:
        curves = [
            Curve(key.split("/")[1], epochs, _column(history, key), colour=i % 5 + 1)
            for i, key in enumerate(shares)
        ]
        legend = " ".join(f'<span class="key c{curve.colour}">{curve.name}</span>' for curve in curves)
        made.append(("Share of the advantage's variance", charts.svg(curves, width=340, height=170), legend))
    return made


def steps_chart(history: Sequence[Metrics]) -> str:
    """How often each timestep's ratio was clipped, in the last quarter of the epochs; noise to the right."""
    recent = history[-max(1, len(history) // 4) :]
    seen: dict[int, list[float]] = {}
    for line in recent:
        for key, value in line.items():
            if key.startswith(CLIPPED):
                seen.setdefault(int(key.removeprefix(CLIPPED)), []).append(value)
    timesteps = sorted(seen)
    means = [sum(seen[timestep]) / len(seen[timestep]) for timestep in timesteps]
    curve = Curve("clipped", [float(timestep) for timestep in timesteps], means)
    return charts.svg([curve], width=340, height=170, x_name="timestep") if len(timesteps) > 1 else ""


def _pairs(folder: RunFolder, drawn: Sequence[int]) -> list[Pair]:
    if not drawn:
        return []
    first, last = grids.read_grid(folder, drawn[0]), grids.read_grid(folder, drawn[-1])
    return [
        Pair(prompt, pages.shot(*before), pages.shot(*after))
        for prompt, before, after in zip(first.prompts, first.judged(), last.judged(), strict=True)
    ]


def _strips(folder: RunFolder, drawn: Sequence[int]) -> list[Strip]:
    """A few prompts through all of training; nothing where there is no time between first and last."""
    if len(drawn) < 3:
        return []
    shown = min(STRIP_EPOCHS, len(drawn))
    epochs = [drawn[round(index * (len(drawn) - 1) / (shown - 1))] for index in range(shown)]
    sheets = [grids.read_grid(folder, epoch) for epoch in epochs]
    count = len(sheets[0].prompts)
    rows = sorted({index * count // min(STRIP_PROMPTS, count) for index in range(min(STRIP_PROMPTS, count))})
    return [
        Strip(sheets[0].prompts[row], [(sheet.epoch, data_uri(sheet.cells[row])) for sheet in sheets])
        for row in rows
    ]


def _is_small(folder: RunFolder, drawn: Sequence[int]) -> bool:
    return bool(drawn) and grids.read_grid(folder, drawn[0]).cells[0].width < PIXELATED_BELOW


def _settings(stored: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Panels of (setting, value, origin), in the order of `--help`."""
    origins = stored.get("origins", {})
    panels: dict[str, list[tuple[str, str, str]]] = {}
    for name, setting in declared().items():
        value = stored.get(name, setting.default)
        text = "\n".join(map(str, value)) if isinstance(value, list | tuple) else _plain(value)
        if text:
            panels.setdefault(setting.panel, []).append((name, text, str(origins.get(name, ""))))
    return list(panels.items())


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parts(plugins: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, name, distribution, version) of everything besides rewards that a plugin gave."""
    rows = plugins.get("parts", {}).items()
    return [(what, part["name"], part["distribution"], part["version"]) for what, part in rows]
