"""What one epoch costs beside the bare network calls, and beside TRL's DDPOTrainer.

    python benchmarks/epoch.py                                 on a CPU, a few minutes
    python benchmarks/epoch.py --device cuda --size sd15       SD 1.5's own shapes

All contestants take turns in one process; ratios are formed turn by turn, so that a machine that is busy
for a while is busy for both sides of a ratio. Peak memory is measured first, in a fresh process for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contestants import AccelerateState, Contestant
    from probe import Probe

    from ddpo_core.training import Settings

HOW_TO_GET_TRL = 'TRL: not installed, so not compared. To compare: pip install "trl==0.23.1" datasets'
SYNCHRONISED_TURNS = 2  # on a GPU, and only for the parts: turns whose clock stops it around every call
BATCHES = ("samples_per_epoch", "sample_batch_size", "train_batch_size", "updates_per_epoch", "num_steps")
DEFAULTS = {
    "tiny": (4, 2, 2, 2, 2),
    "small": (4, 2, 2, 2, 5),
    "medium": (8, 4, 4, 2, 5),
    "sd15": (16, 8, 4, 2, 10),
}


@dataclass(frozen=True)
class Turn:
    """One epoch of one contestant."""

    wall: float  # s
    cpu: float  # s, all threads of the process
    whole: float  # s by the probe's clock
    parts: dict[str, float]  # s in each of the networks by the same clock
    calls: dict[str, tuple[int, int]]  # part → calls, rows in them

    @property
    def rest(self) -> float:
        """Seconds outside every network."""
        return self.whole - sum(self.parts.values())


def main() -> None:
    arguments = parse()
    if arguments.memory_of:
        print(json.dumps(peak_memory(arguments)))
        return
    # before this process grows: a forked child would begin with its parent's peak
    memory = [] if arguments.no_memory else list(memory_of_each(arguments))
    print_machine(arguments)
    turns, counted = race(arguments)
    print_seconds(turns)
    print_parts(counted)
    print_calls(counted)
    print_memory(memory)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=DEFAULTS, default="small", help="widths of the networks (small)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of each (5)")
    for name in BATCHES:
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="by default depends on --size")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--memory-of", choices=["ddpo", "TRL"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, default in zip(BATCHES, DEFAULTS[arguments.size], strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    return arguments


def settings_of(arguments: argparse.Namespace, epochs: int) -> Settings:
    from ddpo_core.training import Settings

    return Settings(epochs=epochs, guidance_scale=5.0, **{name: getattr(arguments, name) for name in BATCHES})


def prepare_torch(arguments: argparse.Namespace) -> None:
    """The same conditions for all: threads, and the TF32 that TRL would switch on for itself."""
    import diffusers
    import torch

    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = True


def make(name: str, arguments: argparse.Namespace, epochs: int) -> Contestant:
    """A contestant on a pipeline of its own. Raises `ImportError` where it is not installed."""
    import contestants
    from shapes import SHAPES, build_pipeline

    if name == "TRL":
        import trl.models  # noqa: F401  (a missing package is told before weights are made)
    pipeline = build_pipeline(SHAPES[arguments.size], device=arguments.device)
    maker: Callable[[Any, Settings], Contestant] = {"ddpo": contestants.ddpo, "TRL": contestants.trl}[name]
    return maker(pipeline, settings_of(arguments, epochs))


# ---- time ----------------------------------------------------------------------------------------


def race(arguments: argparse.Namespace) -> tuple[dict[str, list[Turn]], dict[str, list[Turn]]]:
    """Timed turns of each contestant, and the turns whose parts are to be trusted (see `Probe`)."""
    prepare_torch(arguments)
    from contestants import AccelerateState
    from probe import Probe, gpu_clock

    # on a CPU that others use too, CPU seconds are the clock that only counts our own work
    on_gpu = arguments.device != "cpu"
    state, probe = AccelerateState(), Probe(time.perf_counter if on_gpu else time.process_time)
    field = entrants(arguments, state)
    for pipeline in {id(entrant.pipeline): entrant.pipeline for entrant in field}.values():
        probe.attach(pipeline)
    first = one_round(field, state, probe)  # not counted: first calls are slower, and ddpo checks itself
    check = f"{first['ddpo'].cpu:.2f} CPU s"
    print(f"\nddpo's first epoch, with its self-check: {check}; not counted below\n")
    turns = rounds(arguments.repeats, field, state, probe)
    if not on_gpu:
        return turns, turns
    probe.clock = gpu_clock
    return turns, rounds(SYNCHRONISED_TURNS, field, state, probe)


def entrants(arguments: argparse.Namespace, state: AccelerateState) -> list[Contestant]:
    """Bare and ddpo share one pipeline, LoRA included; TRL has an equal one."""
    from contestants import bare

    epochs = 1 + arguments.repeats + SYNCHRONISED_TURNS
    ours = make("ddpo", arguments, epochs)
    field = [bare(ours.pipeline, settings_of(arguments, epochs)), ours]
    if not arguments.no_trl:
        try:
            with state.of("TRL"):
                field.append(make("TRL", arguments, epochs))
        except ImportError as error:
            print(f"{HOW_TO_GET_TRL}\n  ({error})")
    return field


def rounds(
    count: int, field: Sequence[Contestant], state: AccelerateState, probe: Probe
) -> dict[str, list[Turn]]:
    """Every contestant once a round, forwards and backwards in turn."""
    turns: dict[str, list[Turn]] = {entrant.name: [] for entrant in field}
    for number in range(count):
        for name, turn in one_round(field[:: -1 if number % 2 else 1], state, probe).items():
            turns[name].append(turn)
    return turns


def one_round(field: Sequence[Contestant], state: AccelerateState, probe: Probe) -> dict[str, Turn]:
    turns = {}
    for entrant in field:
        turns[entrant.name] = turn = take_turn(entrant, state, probe)
        print(f"  {entrant.name}: {turn.wall:.2f} s, {turn.cpu:.2f} CPU s", file=sys.stderr, flush=True)
    return turns


def take_turn(entrant: Contestant, state: AccelerateState, probe: Probe) -> Turn:
    """Time one epoch."""
    import torch

    finish = torch.cuda.synchronize if entrant.pipeline.device.type == "cuda" else lambda: None
    probe.clear()
    with state.of(entrant.name), probe.watch_backward():
        finish()
        wall, cpu, whole = time.perf_counter(), time.process_time(), probe.clock()
        entrant.epoch()
        finish()
        wall, cpu, whole = time.perf_counter() - wall, time.process_time() - cpu, probe.clock() - whole
    calls = {name: (count, probe.rows[name]) for name, count in probe.calls.items()}
    return Turn(wall, cpu, whole, dict(probe.seconds), calls)


# ---- memory --------------------------------------------------------------------------------------


def memory_of_each(arguments: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """MiB above the loaded pipeline at the peak of two epochs, each in a fresh process."""
    for name in ("ddpo",) if arguments.no_trl else ("ddpo", "TRL"):
        child = subprocess.run(
            [sys.executable, __file__, "--memory-of", name, *sys.argv[1:]], capture_output=True, text=True
        )
        if child.returncode == 0:
            yield name, json.loads(child.stdout.splitlines()[-1])
        elif "ModuleNotFoundError" not in child.stderr:
            print(child.stderr, file=sys.stderr)


def peak_memory(arguments: argparse.Namespace) -> float:
    """MiB that two epochs add to the loaded pipeline."""
    prepare_torch(arguments)
    entrant = make(arguments.memory_of, arguments, epochs=2)
    on_gpu = arguments.device != "cpu"
    clear_peak(on_gpu)
    before = peak(on_gpu)
    entrant.epoch()
    entrant.epoch()
    return (peak(on_gpu) - before) / 2**20


def clear_peak(on_gpu: bool) -> None:
    """Forget what building the pipeline took."""
    import torch

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak(on_gpu: bool) -> int:
    """Bytes at the peak. VmHWM is an ru_maxrss that can be cleared and does not begin at the parent's."""
    import resource

    import torch

    if on_gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---- what is printed -----------------------------------------------------------------------------


def print_machine(arguments: argparse.Namespace) -> None:
    """What was run, on what."""
    import os

    import torch

    numbers = ", ".join(f"{name} {getattr(arguments, name)}" for name in BATCHES)
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else "CPU"
    cores = f"{arguments.threads} of {os.cpu_count()} cores"
    print(f"{arguments.size} on {device}, {cores}, torch {torch.__version__}")
    print(f"{numbers}, guidance 5, float32")


def print_table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    print(f"{title:<28}" + "".join(f"{column:>16}" for column in columns))
    for name, cells in rows:
        print(f"  {name:<26}" + "".join(f"{cell:>16}" for cell in cells))
    print()


def print_seconds(turns: dict[str, list[Turn]]) -> None:
    """Seconds of each, and the ratios."""
    print_table(
        "seconds an epoch, median",
        list(turns),
        [
            ("wall", [f"{median(turn.wall for turn in mine):.2f}" for mine in turns.values()]),
            ("CPU", [f"{median(turn.cpu for turn in mine):.2f}" for mine in turns.values()]),
        ],
    )
    for other in turns:
        if other != "ddpo":
            for clock in ("wall", "cpu"):
                print_ratio(f"ddpo / {other}, {clock}", pairwise(turns["ddpo"], turns[other], clock))
    print()


def pairwise(ours: Sequence[Turn], theirs: Sequence[Turn], clock: str) -> list[float]:
    """Ratio of each round."""
    return [getattr(our, clock) / getattr(their, clock) for our, their in zip(ours, theirs, strict=True)]


def print_ratio(title: str, ratios: Sequence[float]) -> None:
    print(f"{title:<28}{median(ratios):>8.3f}   of {' '.join(f'{ratio:.3f}' for ratio in ratios)}")


def print_parts(turns: dict[str, list[Turn]]) -> None:
    """Where the seconds went."""
    from probe import PARTS

    rows = [
        (part, [f"{median(turn.parts.get(part, 0) for turn in mine):.3f}" for mine in turns.values()])
        for part in PARTS
    ]
    rest = [median(turn.rest for turn in mine) for mine in turns.values()]
    share = [median(turn.rest / turn.whole for turn in mine) for mine in turns.values()]
    rows.append(("everything else", [f"{seconds:.3f}" for seconds in rest]))
    rows.append(("  as a share of the epoch", [f"{part:.2%}" for part in share]))
    print_table("seconds by part, median", list(turns), rows)


def print_calls(turns: dict[str, list[Turn]]) -> None:
    """That all did the same: how often each network was called, on how many images or texts."""
    from probe import BACKWARD, PARTS

    def cell(turn: Turn, part: str) -> str:
        calls, rows = turn.calls.get(part, (0, 0))
        return str(calls) if part == BACKWARD else f"{calls} ({rows})"

    rows = [(part, [cell(mine[-1], part) for mine in turns.values()]) for part in PARTS]
    print_table("calls an epoch (rows)", list(turns), rows)


def print_memory(memory: Sequence[tuple[str, float]]) -> None:
    if memory:
        cells = [f"{amount:.0f}" for _, amount in memory]
        print_table("peak memory", [name for name, _ in memory], [("MiB above the pipeline", cells)])


if __name__ == "__main__":
    main()
