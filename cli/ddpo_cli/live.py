"""What a run shows while it runs: a live view on a terminal, one plain line an epoch elsewhere.

Everything goes to stderr. Colours follow NO_COLOR, which rich honours by itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TextIO

from ddpo_cli.charts import with_error
from ddpo_cli.failures import brief

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ddpo_core.training import Progress

Metrics = Mapping[str, float]
BLOCKS = "▁▂▃▄▅▆▇█"
PHASES = ("rollout", "scores", "update")
CURVE_WIDTH = 32
BAR_WIDTH = 36


@dataclass(frozen=True)
class Header:
    """What a run is, in a few lines."""

    folder: str
    epochs: int
    rewards: Mapping[str, str]  # label → "weight 0.5 · ddpo-reward-jpeg 0.1.0"
    facts: Sequence[tuple[str, str]]  # ("model", "pocket · ddpo-pocket 0.1.0 · LoRA 16"), …


class View(Protocol):
    """Somebody who looks on."""

    def start(self, header: Header, history: Sequence[Metrics]) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def epoch(self, metrics: Metrics) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


def wants_live(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """A terminal that can move its cursor, and nobody's log."""
    return stream.isatty() and not environ.get("CI") and environ.get("TERM") != "dumb"


def make_view() -> View:
    """The view that suits stderr."""
    return LiveView() if wants_live(sys.stderr) else PlainView(sys.stderr)


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """The curve in block characters, from its lowest to its highest value; means where it is too long."""
    values = [value for value in values if value == value]
    if not values:
        return ""
    if len(values) > width:
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    if high == low:
        return BLOCKS[3] * len(values)
    return "".join(BLOCKS[round((value - low) / (high - low) * (len(BLOCKS) - 1))] for value in values)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"


def plus_minus(metrics: Metrics, label: str) -> str:
    """A reward's mean ± standard error."""
    return with_error(metrics[f"reward/{label}/mean"], metrics.get(f"reward/{label}/stderr", 0.0))


def standing(metrics: Metrics, label: str) -> str:
    """What a reward had to say beside others: its share, and the weight that a constraint gave it."""
    bound = metrics.get(f"constraint/{label}/weight")
    share = f"{metrics.get(f'reward/{label}/share', 0.0):.0%}"
    return share if bound is None else f"{share}, constraint {bound:+.2f}"


@dataclass
class Clock:
    """How long an epoch takes, from those that this process has run."""

    started: float = field(default_factory=time.monotonic)
    epochs: int = 0

    def remaining(self, epochs_left: int) -> float | None:
        """Seconds to the end; None before the first epoch is done."""
        if not self.epochs:
            return None
        return (time.monotonic() - self.started) / self.epochs * epochs_left


class PlainView:
    """Lines, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._header = Header("", 0, {}, ())
        self._clock = Clock()
        self._first: Metrics | None = None

    def start(self, header: Header, history: Sequence[Metrics]) -> None:
        self._header, self._clock = header, Clock()
        self._first = history[0] if history else None
        for name, text in [
            *header.facts,
            *((f"reward {label}", text) for label, text in header.rewards.items()),
        ]:
            self.say(f"{name}: {text}")

    def progress(self, progress: Progress) -> None:
        pass

    def epoch(self, metrics: Metrics) -> None:
        self._first = self._first or metrics
        self._clock.epochs += 1
        self.say("  ".join(self._parts(metrics, self._first)))

    def _parts(self, metrics: Metrics, first: Metrics) -> list[str]:
        epoch = int(metrics["epoch"])
        parts = [f"epoch {epoch:>{len(str(self._header.epochs))}}/{self._header.epochs}"]
        for label in self._header.rewards:
            change = metrics[f"reward/{label}/mean"] - first[f"reward/{label}/mean"]
            influence = f", {standing(metrics, label)}" if len(self._header.rewards) > 1 else ""
            failed = f", {told}" if (told := brief(label, metrics)) else ""
            parts.append(f"{label} {plus_minus(metrics, label)} ({change:+.3f}{influence}{failed})")
        parts += [
            f"{phase} {metrics[f'seconds/{phase}']:.1f} s"
            for phase in PHASES
            if f"seconds/{phase}" in metrics
        ]
        remaining = self._clock.remaining(self._header.epochs - epoch)
        return [*parts, f"left {duration(remaining)}"] if remaining else parts

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class LiveView:
    """A screenful that rich redraws: header, progress, one curve for each reward, seconds per phase."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(stderr=True)
        self._header = Header("", 0, {}, ())
        self._history: list[Metrics] = []
        self._now: Progress | None = None
        self._clock = Clock()
        self._note = "Ctrl-C: finish this epoch and save"
        self._live = Live(console=self._console, get_renderable=self._screen, refresh_per_second=4)

    def start(self, header: Header, history: Sequence[Metrics]) -> None:
        self._header, self._history, self._clock = header, list(history), Clock()
        self._live.start()

    def progress(self, progress: Progress) -> None:
        self._now = progress

    def epoch(self, metrics: Metrics) -> None:
        self._history.append(metrics)
        self._clock.epochs += 1
        self._now = None
        self._live.refresh()

    def say(self, text: str) -> None:
        if self._live.is_started:
            self._note = text  # in the panel: printing above it from a signal handler tears it
        else:
            self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def _screen(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.panel import Panel

        parts = [self._facts(), self._bars(), self._curves(), self._seconds()]
        title = f"[bold]ddpo[/] · {self._header.folder}"
        return Panel(
            Group(*parts),
            title=title,
            title_align="left",
            box=box.ROUNDED,
            border_style="dim",
            padding=(0, 1),
        )

    def _facts(self) -> RenderableType:
        from rich.markup import escape
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, text in self._header.facts:
            table.add_row(f"[dim]{name}[/]", escape(text))
        for label, text in self._header.rewards.items():
            table.add_row("[dim]reward[/]", f"[bold]{label}[/] · {escape(text)}")
        return table

    @property
    def _left(self) -> int:
        """Epochs still to run."""
        return self._header.epochs - len(self._history)

    def _bars(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        total, now = self._header.epochs, self._now
        remaining = self._clock.remaining(self._left)
        table = Table.grid(padding=(0, 2))
        table.add_row("", "", "")
        eta = f"{duration(remaining)} left" if remaining and self._left else ""
        epochs = ProgressBar(total=total, completed=len(self._history), width=BAR_WIDTH)
        table.add_row(f"epoch {min(len(self._history) + 1, total)}/{total}", epochs, eta)
        if now:
            bar = ProgressBar(
                total=max(now.total, 1), completed=now.done, width=BAR_WIDTH, complete_style="cyan"
            )
            table.add_row(f"[cyan]{now.phase}[/]", bar, f"{now.done}/{now.total}")
        else:
            table.add_row("[dim]starting[/]" if self._left else "[green]done[/]", "", "")
        return table

    def _curves(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", show_edge=False)
        for title in ("reward", "mean ± stderr", "since epoch 1", "share", "judging", "curve"):
            table.add_column(title, no_wrap=True)
        for label in self._header.rewards:
            table.add_row(f"[bold]{label}[/]", *self._curve(label))
        failed = {label: brief(label, *self._history) for label in self._header.rewards}
        told = [f"\n[yellow]{label}[/] so far: {text}" for label, text in failed.items() if text]
        return Group(table, *told)

    def _curve(self, label: str) -> tuple[str, ...]:
        """The reward's latest mean, its change, its influence, its seconds and its sparkline."""
        if not self._history:
            return "–", "–", "", "", ""
        means = [line[f"reward/{label}/mean"] for line in self._history]
        change = means[-1] - means[0]
        colour = "green" if change > 0 else "red" if change < 0 else "dim"
        last = self._history[-1]
        seconds = f"{last.get(f'seconds/reward/{label}', 0.0):.1f} s"
        curve = f"[{colour}]{sparkline(means)}[/]"
        return plus_minus(last, label), f"[{colour}]{change:+.3g}[/]", standing(last, label), seconds, curve

    def _seconds(self) -> RenderableType:
        from rich.text import Text

        last = self._history[-1] if self._history else {}
        parts = [
            f"{phase} {last[f'seconds/{phase}']:.1f} s" for phase in PHASES if f"seconds/{phase}" in last
        ]
        note = f"   {self._note}" if self._left else ""
        return Text("\n" + " · ".join(parts) + note, style="dim")
