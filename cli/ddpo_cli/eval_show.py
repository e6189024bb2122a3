"""What `ddpo eval` found, for people and for programs: a table, eval.csv, eval.json and eval.html."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo_cli import charts, givers, pages
from ddpo_cli.charts import with_error
from ddpo_cli.eval_matrix import BASE, Column, Matrix, Plan, Row, Share
from ddpo_cli.pages import Shot
from ddpo_cli.records import Record, plain
from ddpo_cli.run_folder import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = 1  # of eval.json
CLEAR = 2.0  # standard errors from which on a change is coloured
SHOWN = 12  # pictures of each prompt set and model on the page


@dataclass(frozen=True)
class Gallery:
    """The first pictures of a plan under each model, with what rewards said of them."""

    plan: Plan
    shots: dict[str, list[tuple[Image, Record]]]  # column → pictures in the plan's order


def verdict(row: Row, column: str) -> str:
    """ "good" or "bad" for a change that is clear and has a direction, else nothing."""
    moved = row.since_base(column)
    if not row.direction or not abs(moved.sigmas) >= CLEAR:
        return ""
    return "good" if moved.mean * row.direction > 0 else "bad"


def percent(share: Share, kind: str) -> str:
    """`84 ± 6 %`, or – where the share means nothing."""
    part = getattr(share, kind)
    if not math.isfinite(part.mean):
        return "–"
    error = f" ± {100 * part.stderr:.0f}" if part.stderr > 0 else ""
    return f"{100 * part.mean:.0f}{error} %"


def _moved(row: Row, column: str) -> tuple[str, str]:
    """The change and how clear it is: `+0.120 ± 0.031` and `3.9 σ`; empty for the base model."""
    if column == BASE:
        return "", ""
    moved = row.since_base(column)
    if not math.isfinite(moved.mean):
        return "", ""
    sign = "+" if moved.mean >= 0 else ""
    sigmas = f"{abs(moved.sigmas):.1f} σ" if math.isfinite(moved.sigmas) else ""
    return sign + with_error(moved.mean, moved.stderr), sigmas


# ---- the terminal ------------------------------------------------------------------------------------


def to_terminal(matrix: Matrix) -> None:
    """Tables on stdout; colours follow NO_COLOR."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for prompts in matrix.prompts:
        rows = [row for row in matrix.rows if row.prompts == prompts]
        if rows:
            console.print(_terminal_table(matrix, prompts, rows))
    for prompts in matrix.prompts:
        shares = [share for share in matrix.shares() if share.row.prompts == prompts]
        if shares:
            console.print(_terminal_shares(matrix, prompts, shares))
    for name, why in matrix.missing:
        console.print(f"not scored: {name}: {why}", markup=False, style="dim", soft_wrap=True)


def _terminal_table(matrix: Matrix, prompts: str, rows: Sequence[Row]) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(prompts), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("reward")
    for column in matrix.columns:
        table.add_column(escape(column.name + (f" @ {column.epoch}" if column.epoch else "")))
    for row in rows:
        unit = f" [dim]{escape(row.unit)}[/]" if row.unit else ""
        table.add_row(escape(row.title) + unit, *(_terminal_cell(row, column) for column in matrix.columns))
    return table


def _terminal_cell(row: Row, column: Column) -> str:
    """The mean, and in a second line the change."""
    here = row.at(column.name)
    failed = f" [red]{row.failures[column.name]} failed[/]" if row.failures[column.name] else ""
    colour = {"good": "green", "bad": "red", "": "default"}[verdict(row, column.name)]
    moved = "  ".join(text for text in _moved(row, column.name) if text)
    return with_error(here.mean, here.stderr) + failed + (f"\n[{colour}]{moved}[/]" if moved else "")


def _terminal_shares(matrix: Matrix, prompts: str, shares: Sequence[Share]) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    title = f"{prompts}: share of the specialist's score · share of its gain over base"
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("reward")
    table.add_column("specialist")
    for run in matrix.runs:
        table.add_column(escape(run.name), no_wrap=True)
    for row in dict.fromkeys(id(share.row) for share in shares):
        of_row = [share for share in shares if id(share.row) == row]
        first = of_row[0]
        cells = [first.row.title, first.specialist + ("" if first.alone else " (scored best)")]
        cells += [f"{percent(share, 'raw')} · {percent(share, 'gain')}" for share in of_row]
        table.add_row(*map(escape, cells))
    return table


# ---- files -------------------------------------------------------------------------------------------


def write(
    folder: Path, matrix: Matrix, facts: Mapping[str, Any], galleries: Mapping[Any, Gallery]
) -> list[Path]:
    """eval.csv, eval.json and eval.html in `folder`."""
    contents = {
        "eval.csv": as_csv(matrix),
        "eval.json": as_json(matrix, facts),
        "eval.html": as_page(matrix, facts, list(galleries.values())),
    }
    for name, text in contents.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in contents]


def as_csv(matrix: Matrix) -> str:
    """One line for each reward, prompt set and model."""
    shares = {(id(share.row), share.column): share for share in matrix.shares()}
    lines = []
    for row in matrix.rows:
        for column in matrix.columns:
            here, moved = row.at(column.name), row.since_base(column.name)
            share = shares.get((id(row), column.name))
            lines.append(
                {
                    "prompts": row.prompts,
                    "reward": row.reward,
                    "statistic": row.statistic,
                    "unit": row.unit,
                    "model": column.name,
                    "epoch": column.epoch,
                    "mean": here.mean,
                    "stderr": here.stderr,
                    "count": here.count,
                    "failures": row.failures[column.name],
                    "change": moved.mean if column.folder else "",
                    "change_stderr": moved.stderr if column.folder else "",
                    "specialist": share.specialist if share else "",
                    "raw_share": share.raw.mean if share else "",
                    "raw_share_stderr": share.raw.stderr if share else "",
                    "gain_share": share.gain.mean if share else "",
                    "gain_share_stderr": share.gain.stderr if share else "",
                }
            )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else ["prompts"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value != value else value for key, value in line.items()} for line in lines)
    return buffer.getvalue()


def as_json(matrix: Matrix, facts: Mapping[str, Any]) -> str:
    """Everything, each unit's own score included, so that other statistics can be made of it."""
    record = {
        "schema": SCHEMA,
        **facts,
        "models": [vars(column) for column in matrix.columns],
        "results": [_row_record(matrix, row) for row in matrix.rows],
        "shares": [
            {
                "prompts": share.row.prompts,
                "reward": share.row.title,
                "model": share.column,
                "specialist": share.specialist,
                "trained_alone": share.alone,
                "raw": vars(share.raw),
                "gain": vars(share.gain),
            }
            for share in matrix.shares()
        ],
        "not_scored": [{"reward": name, "reason": why} for name, why in matrix.missing],
    }
    return json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _row_record(matrix: Matrix, row: Row) -> dict[str, object]:
    return {
        "prompts": row.prompts,
        "reward": row.reward,
        "statistic": row.statistic,
        "unit": row.unit,
        "wanted": {1: "higher", -1: "lower", 0: "unknown"}[row.direction],
        "models": {
            column.name: {
                **vars(row.at(column.name)),
                "change": vars(row.since_base(column.name)) if column.folder else None,
                "failures": row.failures[column.name],
                "units": row.units[column.name],
            }
            for column in matrix.columns
        },
    }


# ---- the page ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One reward under one model."""

    value: str
    failed: int
    change: str
    sigmas: str
    tone: str
    whisker: str  # SVG


@dataclass(frozen=True)
class Figure:
    """One prompt and noise under each model."""

    prompt: str
    shots: Sequence[tuple[str, Shot]]  # (model, picture)


@dataclass(frozen=True)
class GroupFigure:
    """The pictures of one prompt that are judged together, under each model."""

    prompt: str
    models: Sequence[tuple[str, Sequence[Shot]]]


def as_page(matrix: Matrix, facts: Mapping[str, Any], galleries: Sequence[Gallery]) -> str:
    """The self-contained page."""
    shares = matrix.shares()
    return pages.render(
        "eval.html",
        {
            "title": " · ".join(run.name for run in matrix.runs) or str(facts["model"]),
            "facts": facts,
            "columns": matrix.columns,
            "runs": matrix.runs,
            "sets": [_set(matrix, name, shares, galleries) for name in matrix.prompts],
            "missing": matrix.missing,
            "givers": givers.rows(facts["provenance"]),
            "clear": CLEAR,
        },
    )


def _set(
    matrix: Matrix, prompts: str, shares: Sequence[Share], galleries: Sequence[Gallery]
) -> dict[str, Any]:
    rows = [row for row in matrix.rows if row.prompts == prompts]
    mine = [gallery for gallery in galleries if gallery.plan.prompts_name == prompts]
    counts = sorted(
        {(len(plan.prompts), plan.group_size) for plan in matrix.plans if plan.prompts_name == prompts}
    )
    about = [
        f"{count} pictures" if size == 1 else f"{_groups(count // size)} of {size} pictures of one prompt"
        for count, size in sorted(counts, key=lambda pair: pair[1])
    ]
    return {
        "name": prompts,
        "about": " and ".join(about) + (" of each model" if len(matrix.columns) > 1 else ""),
        "rows": [(row, [_cell(matrix, row, column) for column in matrix.columns]) for row in rows],
        "shares": _share_rows(shares, prompts),
        "figures": [
            figure
            for gallery in mine
            if gallery.plan.group_size == 1
            for figure in _figures(gallery, matrix.columns)
        ],
        "groups": [_group(gallery, matrix.columns) for gallery in mine if gallery.plan.group_size > 1],
    }


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"


def _cell(matrix: Matrix, row: Row, column: Column) -> Cell:
    here = row.at(column.name)
    change, sigmas = _moved(row, column.name)
    return Cell(
        value=with_error(here.mean, here.stderr),
        failed=row.failures[column.name],
        change=change,
        sigmas=sigmas,
        tone=verdict(row, column.name),
        whisker=_whisker(matrix, row, column),
    )


def _whisker(matrix: Matrix, row: Row, column: Column) -> str:
    all_of_row = [row.at(other.name) for other in matrix.columns]
    return charts.whisker(
        row.at(column.name).mean,
        row.at(column.name).stderr,
        mark=row.at(BASE).mean if column.folder else None,
        others=[(other.mean, other.stderr) for other in all_of_row],
        tone=verdict(row, column.name),
    )


def _share_rows(shares: Sequence[Share], prompts: str) -> list[tuple[Share, list[tuple[str, str]]]]:
    """For each reward: its specialist, and both shares of every run."""
    mine = [share for share in shares if share.row.prompts == prompts]
    rows: dict[int, list[Share]] = {}
    for share in mine:
        rows.setdefault(id(share.row), []).append(share)
    return [
        (of_row[0], [(percent(share, "raw"), percent(share, "gain")) for share in of_row])
        for of_row in rows.values()
    ]


def _figures(gallery: Gallery, columns: Sequence[Column]) -> list[Figure]:
    """The first few pictures, side by side."""
    return [
        Figure(
            gallery.plan.prompts[index].text,
            [(column.name, pages.shot(*gallery.shots[column.name][index])) for column in columns],
        )
        for index in range(min(len(gallery.plan.prompts), SHOWN))
    ]


def _group(gallery: Gallery, columns: Sequence[Column]) -> GroupFigure:
    """The first group. Its scores are about all of it, so single pictures go without."""
    size = gallery.plan.group_size
    return GroupFigure(
        gallery.plan.prompts[0].text,
        [
            (
                column.name,
                [
                    pages.shot(picture, {**record, "scores": {}})
                    for picture, record in gallery.shots[column.name][:size]
                ],
            )
            for column in columns
        ],
    )
