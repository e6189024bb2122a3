"""Does Adam's ε matter? The same runs with several, on the pocket model and `jpeg`.

python benchmarks/adam_epsilon.py [--epsilons 1e-6 1e-8 1e-10] [--seeds 0 1] [--out DIR] [--svg FILE]

Runs of one seed see the same prompts and the same noise in every epoch, whatever ε is, so they are compared
epoch by epoch: each row is the mean reward of four epochs, minus that of the first ε in the same epochs, with
the standard error over those epochs and seeds. Finished runs are not run again.
`--svg` draws the means over the seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from ddpo_cli.charts import Curve, svg
from ddpo_cli.run_folder import RunFolder

BLOCK = 4  # epochs of a row
STYLE = (
    "svg{background:#fff}.line{fill:none;stroke-width:2}.grid{stroke:#ddd}.axis{stroke:#888}.hover{fill:none}"
    ".line.c3{stroke-dasharray:3 5}.tick,.legend{font:12px sans-serif;fill:#444}"
)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--epsilons", nargs="+", default=["1e-6", "1e-8", "1e-10"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--num-steps", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs/adam-epsilon"))
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    curves = {
        epsilon: np.array([curve(options, epsilon, seed) for seed in options.seeds])
        for epsilon in options.epsilons
    }
    show(curves)
    if options.svg:
        options.svg.write_text(drawn(curves))


def curve(options: argparse.Namespace, epsilon: str, seed: int) -> list[float]:
    """The mean reward of every epoch of a run."""
    folder = RunFolder(options.out / f"{epsilon}-{seed}")
    if len(folder.read_metrics()) < options.epochs:
        flags = [
            "--reward",
            "jpeg",
            "--adam-epsilon",
            epsilon,
            "--seed",
            str(seed),
            "--epochs",
            str(options.epochs),
        ]
        flags += ["--num-steps", str(options.num_steps), "--images-every", "0", "--tracker", "none"]
        print(f"training {folder.root}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "ddpo_cli.main", "train", *flags, "--out", str(folder.root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [line["reward/jpeg/mean"] for line in folder.read_metrics()]


def show(curves: dict[str, np.ndarray]) -> None:
    """Means of blocks of epochs, and what each ε is ahead of the first [seeds, epochs]."""
    first, *others = curves
    epochs = curves[first].shape[1]
    print(f"{'epochs':<10}{'ε = ' + first:>14}" + "".join(f"{'ε = ' + each:>24}" for each in others))
    for start in range(0, epochs, BLOCK):
        rows = slice(start, start + BLOCK)
        cells = [f"{curves[first][:, rows].mean():>14.3f}"]
        for each in others:
            ahead = (curves[each] - curves[first])[:, rows]
            error = ahead.std(ddof=1) / np.sqrt(ahead.size)
            cells.append(f"{curves[each][:, rows].mean():>9.3f} {ahead.mean():+.3f} ± {error:.3f}")
        print(
            f"{f'{start + 1}–{min(start + BLOCK, epochs)}':<10}"
            + "".join(f"{cell:>24}" if n else cell for n, cell in enumerate(cells))
        )


def drawn(curves: dict[str, np.ndarray]) -> str:
    """The curves as a picture that stands by itself: each has its ε at its end."""
    epochs = np.arange(1, next(iter(curves.values())).shape[1] + 1).tolist()
    lines = [
        Curve(f"ε = {name}", epochs, values.mean(0).tolist(), colour=place + 1)
        for place, (name, values) in enumerate(curves.items())
    ]
    colours = "".join(
        f".line.c{n}{{stroke:{c}}}.dot.c{n},.legend.c{n}{{fill:{c}}}" for n, c in enumerate(COLOURS, 1)
    )
    style = f"<style>{STYLE}{colours}</style>"
    legend = "".join(
        f'<text class="legend c{line.colour}" x="70" y="{30 + 16 * place}">{line.name}</text>'
        for place, line in enumerate(lines)
    )
    chart = svg(lines, width=640, height=240)
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        "</svg>", f"{style}{legend}</svg>"
    )


if __name__ == "__main__":
    main()
