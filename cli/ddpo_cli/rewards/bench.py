"""`ddpo rewards bench`: how many pictures a second a reward judges, and in how much memory, by batch size."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo_cli.console import emit_json, table
from ddpo_cli.options import AsJson, JudgesOf, MadeForPrompts, PluginFiles, RewardSpec
from ddpo_cli.rewards import score
from ddpo_cli.rewards.check import counted, first_prompts
from ddpo_cli.rewards.check import speed as rate
from ddpo_core.errors import UsageError

if TYPE_CHECKING:
    from ddpo_core.rewards import Term

REPEATS = (3, 30)  # calls of a size: at least, at most
ENOUGH = 1.0  # seconds of calls, after which no more than the least are made
NEAR = 0.95  # a smaller batch that is nearly as fast is the better one
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Speed:
    """What one batch size came to."""

    batch_size: int
    images_per_second: float
    ms_per_call: float  # the median
    calls: int
    memory_mb: float  # the most that calls held beside what was held before them; 1 MB = 10⁶ bytes


@dataclass(frozen=True)
class Bench:
    """All batch sizes, and what building the reward took."""

    build_seconds: float
    build_mb: float  # libraries that came with it included
    speeds: Sequence[Speed]
    device: str  # where memory was measured

    @property
    def best(self) -> Speed:
        """The smallest batch that is about as fast as the fastest."""
        fastest = max(speed.images_per_second for speed in self.speeds)
        return next(speed for speed in self.speeds if speed.images_per_second >= NEAR * fastest)


def bench(
    reward: RewardSpec,
    model: JudgesOf = None,
    sizes: Annotated[str, typer.Option(help="Batch sizes.", metavar="N,N…")] = "1,4,16",
    side: Annotated[int, typer.Option(help="Side of the pictures in pixels.", metavar="N", min=8)] = 512,
    prompts: MadeForPrompts = None,
    as_json: AsJson = False,
    plugin: PluginFiles = None,
) -> None:
    """Time a reward by batch size. Pictures are drawn patterns; memory is measured, too.

    \b
    ddpo rewards bench aesthetic --model pocket --side 64 --sizes 1,8,64
    """
    from ddpo_core.config.parts import TO_SCORE, require

    batches = batch_sizes(sizes)
    registry, spec = score.asked_for(reward, model, plugin or ())
    require(*TO_SCORE)
    result, term = measured(lambda: score.built(registry, spec), batches, side, prompts)
    if as_json:
        print_json(result, term, side)
    else:
        print_table(result, term, side)


def batch_sizes(text: str) -> list[int]:
    """`1,4,16` as numbers, rising. Raises `UsageError`."""
    try:
        numbers = sorted({int(number) for number in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise UsageError(f"--sizes expects batch sizes such as 1,4,16; got '{text}'")
    return numbers


# ---- measuring ---------------------------------------------------------------------------------------


def measured(
    build: Callable[[], Term], sizes: Sequence[int], side: int, prompts: str | None
) -> tuple[Bench, Term]:
    """Build it, call it once to warm up, then time every size."""
    from ddpo_core.rewards import call_reward
    from ddpo_core.testing import example_images, example_prompts

    held, start = held_bytes(), time.perf_counter()
    term = build()
    build_seconds, build_bytes = time.perf_counter() - start, held_bytes() - held
    asked = first_prompts(prompts, max(sizes)) if prompts else example_prompts()
    asked = asked[:1] if term.info.scope == "group" else asked

    def batch(size: int) -> Callable[[], object]:
        """A call on so many pictures, which are there before its memory is looked at."""
        images, texts = example_images(size, side), [asked[place % len(asked)] for place in range(size)]
        return lambda: call_reward(term, images, texts)

    batch(sizes[0])()
    speeds = [speed_of(batch(size), size) for size in sizes]
    return Bench(build_seconds, build_bytes / 1e6, speeds, device()), term


def speed_of(call: Callable[[], object], size: int) -> Speed:
    """One call to warm up, then as many as fit into a second, within REPEATS."""
    import statistics

    held = held_bytes()
    forget_peak()
    seconds_of(call)
    seconds: list[float] = []
    while len(seconds) < REPEATS[0] or (sum(seconds) < ENOUGH and len(seconds) < REPEATS[1]):
        seconds.append(seconds_of(call))
    median = statistics.median(seconds)
    return Speed(size, size / median, 1000 * median, len(seconds), max(0, peak_bytes() - held) / 1e6)


def seconds_of(call: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def device() -> str:
    """The GPU where there is one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {counted(torch.get_num_threads())}"


def synchronise() -> None:
    """Wait until the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def held_bytes() -> int:
    """What is held now: of the GPU's memory where there is one, else by this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return _status("VmRSS") or _largest_ever()


def peak_bytes() -> int:
    """The most that was held since `forget_peak`."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") or _largest_ever()


def forget_peak() -> None:
    """Begin a new peak. Only Linux can do that for a process; elsewhere the peak is that of the whole run."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5")  # proc(5): resets VmHWM


def _status(key: str) -> int:
    """A line of Linux's /proc/self/status in bytes, or 0."""
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _largest_ever() -> int:
    import resource  # there is none on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---- telling -----------------------------------------------------------------------------------------


def print_table(result: Bench, term: Term, side: int) -> None:
    rows = [
        (
            str(speed.batch_size),
            rate(speed.images_per_second),
            f"{speed.ms_per_call:.3g}" if speed.ms_per_call < 100 else f"{speed.ms_per_call:.0f}",
            f"{speed.memory_mb:.0f}",
            str(speed.calls),
        )
        for speed in result.speeds
    ]
    print(f"{term.label}, pictures of {side} × {side} pixels, {result.device}\n")
    print(table(rows, ("batch", "images/s", "ms per call", "MB more", "calls")))
    best = result.best
    print(f"\nbest: batches of {best.batch_size}, {rate(best.images_per_second)} images/s")
    print(f"built in {result.build_seconds:.1f} s, {result.build_mb:.0f} MB")


def print_json(result: Bench, term: Term, side: int) -> None:
    emit_json(
        {
            "reward": term.label,
            "side": side,
            "device": result.device,
            "build_seconds": result.build_seconds,
            "build_mb": result.build_mb,
            "best_batch_size": result.best.batch_size,
            "batches": [asdict(speed) for speed in result.speeds],
        }
    )
