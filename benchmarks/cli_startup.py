"""How long the CLI takes to answer, warm, and whether it imported torch to do so.

    python benchmarks/cli_startup.py --repeats 20

The figure is one process from start to end, so the interpreter's own start is part of it; it is shown beside.
CPU seconds are what is left of it on a machine that others keep busy.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from statistics import median

COMMANDS = (["--help"], ["rewards", "list"])
LINE = "ddpo train --reward jp"  # completed, which a shell asks for at every TAB
# the command as the console script runs it, then a word on what it imported
RUN = """
import sys
from ddpo_cli.main import main
sys.argv = ["ddpo", *sys.argv[1:]]
try:
    main()
finally:
    print("torch" if "torch" in sys.modules else "no torch", file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each (20)")
    repeats = parser.parse_args().repeats
    interpreter = [sys.executable, "-c", "pass"]
    print(f"{'python -c pass':<28}{show(seconds(interpreter, repeats))}")
    for words in COMMANDS:
        command = [sys.executable, "-c", RUN, *words]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1]
        print(f"{'ddpo ' + ' '.join(words):<28}{show(seconds(command, repeats))}, {said} imported")
    os.environ |= {"_DDPO_COMPLETE": "bash", "_DDPO_COMPLETE_LINE": LINE}
    print(f"{LINE + '<TAB>':<28}{show(seconds([sys.executable, '-c', RUN], repeats))}")


def seconds(command: list[str], repeats: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each run, the first (cold caches) left out."""
    times = []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), cpu_of_children()
        subprocess.run(command, capture_output=True, check=True)
        times.append((time.perf_counter() - wall, cpu_of_children() - cpu))
    return times[1:]


def cpu_of_children() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(times: list[tuple[float, float]]) -> str:
    wall, cpu = (median(column) for column in zip(*times, strict=True))
    return f"median of {len(times)}: {wall:.3f} s wall, {cpu:.3f} s CPU"


if __name__ == "__main__":
    main()
