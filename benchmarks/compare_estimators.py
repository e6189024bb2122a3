"""DDPO-IS, DDPO-SF, RWR and RWR-sparse on equal reward queries: the comparison of arXiv 2305.13301, Figure 4.

python benchmarks/compare_estimators.py [--seeds 0 1 2] [--queries 768] [--reward jpeg] [--out runs/compare]

Trains every estimator with every seed through `ddpo train`, each with settings that suit it on the pocket
model (TUNED, and `ddpo train --estimator NAME --dry-run`), then looks at all runs with one `ddpo eval`: the
same prompts and the same noise before and after. Prints a table, and writes compare.json, compare.csv and
curves.csv. Runs that are finished are not run again, and one that was interrupted goes on.
What stands after `--` goes to every `ddpo train`. The last of ESTIMATORS is a control: RWR with equal weights
is plain denoising of what was sampled, which may raise a reward too.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpo_cli.run_folder import RunFolder
from ddpo_core import checkpoint

DDPO = [sys.executable, "-m", "ddpo_cli.main"]
ESTIMATORS = ("ddpo-is,inner_epochs=2", "ddpo-sf", "rwr", "rwr-sparse", "rwr,inverse_temperature=0")
# found by trial at seed 0, see docs/estimators.md
TUNED = {"ddpo-is": ("--samples-per-epoch", "16", "--updates-per-epoch", "2")}
STEPS = ("--num-steps", "6")
PHASES = ("rollout", "scores", "self-check", "update")


@dataclass(frozen=True)
class Result:
    """An estimator over all seeds."""

    estimator: str
    seeds: int
    change: float  # mean over the seeds of the paired change, in the reward's unit
    stderr: float  # over the seeds; NaN for one
    queries: int
    updates: int
    seconds: float  # of a run, mean over the seeds; pictures drawn for show and checkpoints not counted


def main() -> None:
    options = arguments()
    names = [(name, seed) for seed in options.seeds for name in options.estimators]
    for name, seed in names:
        train(options, name, seed)
    runs = {(name, seed): run_folder(options, name, seed) for name, seed in names}
    changes = evaluate(options, list(runs.values()))
    found = [
        result(name, [runs[name, seed] for seed in options.seeds], changes) for name in options.estimators
    ]
    write(options, runs, changes, found)
    show(options, found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--estimators", nargs="+", default=ESTIMATORS, metavar="SPEC")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--queries", type=int, default=768, help="pictures that are scored in each run")
    parser.add_argument("--reward", default="jpeg", metavar="SPEC")
    parser.add_argument("--model", default="pocket", metavar="SPEC")
    parser.add_argument("--samples", type=int, default=128, help="pictures of each model in the end")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), metavar="DIR")
    parser.add_argument("flags", nargs="*", help="after --: for every `ddpo train`")
    return parser.parse_args()


# ---- training ----------------------------------------------------------------------------------------


def run_folder(options: argparse.Namespace, name: str, seed: int) -> Path:
    return Path(options.out / f"{name.replace(',', '-')}-{seed}")


def train(options: argparse.Namespace, name: str, seed: int) -> None:
    """One run, unless it is there; an interrupted one goes on from its last checkpoint."""
    folder = run_folder(options, name, seed)
    if queries_of(folder) == options.queries:
        return
    print(f"training {folder}", file=sys.stderr, flush=True)
    if any((folder / "checkpoints").glob("*")):
        ddpo("train", "--resume", str(folder))
        return
    shutil.rmtree(folder, ignore_errors=True)  # began, and came to no checkpoint
    flags = ["--reward", options.reward, "--model", options.model, "--estimator", name, "--seed", str(seed)]
    flags += ["--images-every", "0", *STEPS, *TUNED.get(name.partition(",")[0], ()), *options.flags]
    planned = json.loads(ddpo("train", *flags, "--dry-run", "--no-measure", "--json"))
    per_epoch = planned["plan"]["samples_per_epoch"]
    if options.queries % per_epoch:
        sys.exit(f"--queries {options.queries} is no multiple of the {per_epoch} samples an epoch of {name}")
    ddpo("train", *flags, "--epochs", str(options.queries // per_epoch), "--out", str(folder))


def queries_of(folder: Path) -> int:
    """How far a run has come; 0 where there is none."""
    epochs = metrics_of(folder)
    return int(epochs[-1]["reward_queries"]) if epochs else 0


def metrics_of(folder: Path) -> list[dict[str, float]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def ddpo(*arguments: str) -> str:
    """Run a command of ddpo; what it printed. Ends the program where it fails."""
    done = subprocess.run([*DDPO, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ddpo {' '.join(arguments)}\n{done.stderr[-2000:]}{done.stdout[-2000:]}")
    return done.stdout


# ---- what came of it ---------------------------------------------------------------------------------


def evaluate(options: argparse.Namespace, runs: Sequence[Path]) -> dict[str, float]:
    """Folder's name → the mean paired change of the reward, before to after."""
    file = options.out / "eval" / "eval.json"
    names = [run.name for run in runs]
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("samples") != options.samples or columns(known) != names or is_older(file, runs):
        print("evaluating", file=sys.stderr, flush=True)
        ddpo(
            *("eval", *map(str, runs), "--reward", options.reward, "--samples", str(options.samples)),
            *("--out", str(file.parent)),
        )
        known = json.loads(file.read_text())
    row = known["results"][0]  # the reward itself, on the prompts that the runs were trained on
    return {name: row["models"][name]["change"]["mean"] for name in names}


def columns(evaluation: Mapping[str, Any]) -> list[str]:
    return [str(model["name"]) for model in evaluation.get("models", []) if model["folder"]]


def is_older(file: Path, runs: Iterable[Path]) -> bool:
    return any((run / "metrics.jsonl").stat().st_mtime > file.stat().st_mtime for run in runs)


def result(name: str, runs: Sequence[Path], changes: Mapping[str, float]) -> Result:
    values = [changes[run.name] for run in runs]
    folder = RunFolder(runs[0])
    state = checkpoint.load(folder.checkpoint(folder.pick_checkpoint(None)))
    return Result(
        estimator=name,
        seeds=len(values),
        change=statistics.mean(values),
        stderr=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan,
        queries=state.reward_queries,
        updates=state.updates,
        seconds=statistics.mean(map(seconds_of, runs)),
    )


def seconds_of(run: Path) -> float:
    return sum(epoch.get(f"seconds/{phase}", 0.0) for epoch in metrics_of(run) for phase in PHASES)


def write(
    options: argparse.Namespace,
    runs: Mapping[tuple[str, int], Path],
    changes: Mapping[str, float],
    found: Sequence[Result],
) -> None:
    """compare.json, compare.csv and curves.csv: the table, and every run's training mean over its queries."""
    record = {
        "reward": options.reward,
        "model": options.model,
        "samples": options.samples,
        "flags": options.flags,
        "changes": changes,
        "results": [asdict(each) for each in found],
    }
    (options.out / "compare.json").write_text(json.dumps(record, indent=2))
    write_csv(options.out / "compare.csv", [asdict(each) for each in found])
    mean = f"reward/{options.reward.partition(':')[0].partition(',')[0]}/mean"
    write_csv(
        options.out / "curves.csv",
        [
            {"estimator": name, "seed": seed, "queries": epoch["reward_queries"], "mean": epoch.get(mean)}
            for (name, seed), run in runs.items()
            for epoch in metrics_of(run)
        ],
    )


def write_csv(file: Path, lines: Sequence[Mapping[str, object]]) -> None:
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def show(options: argparse.Namespace, found: Sequence[Result]) -> None:
    seeds = ", ".join(map(str, options.seeds))
    print(f"{options.reward} on {options.model}, {options.queries} reward queries, seeds {seeds}")
    print(f"change on {options.samples} pictures of the same prompts and noise; ± over seeds\n")
    width = max(len(each.estimator) for each in found)
    print(f"{'estimator':<{width}}{'change':>20}{'updates':>10}{'minutes':>10}")
    for each in found:
        change = f"{each.change:+.3f} ± {each.stderr:.3f}"
        print(f"{each.estimator:<{width}}{change:>20}{each.updates:>10}{each.seconds / 60:>10.1f}")


if __name__ == "__main__":
    main()
