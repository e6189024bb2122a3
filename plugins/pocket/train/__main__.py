"""`python plugins/pocket/train`: makes the pocket model from scratch on a CPU. Kill it and run it again to go
on."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

_PLUGIN = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_PLUGIN / "src"))  # the worlds' words, also where the plugin is not installed

from pocket_train.stages import Plan, run  # noqa: E402 - needs the line above


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python plugins/pocket/train", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("pocket-work"), help="folder of everything but the result"
    )
    parser.add_argument(
        "--model", type=Path, default=_PLUGIN / "src/ddpo_pocket/model", help="the result, a folder"
    )
    parser.add_argument(
        "--judges", type=Path, default=_PLUGIN / "src/ddpo_pocket/judges", help="the judges, a folder"
    )
    parser.add_argument(
        "--docs", type=Path, default=_PLUGIN / "docs", help="folder of sheets and measurements"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="single-threaded training processes"
    )
    parser.add_argument("--pictures", type=int, default=70_000, help="renderings to train on")
    parser.add_argument("--autoencoder-minutes", type=float, default=27)
    parser.add_argument("--denoiser-minutes", type=float, default=76)
    parser.add_argument("--decoder-minutes", type=float, default=18)
    parser.add_argument("--classifier-minutes", type=float, default=6)
    parser.add_argument("--judge-pictures", type=int, default=60_000, help="pictures for the judges")
    parser.add_argument("--clip-minutes", type=float, default=20)
    parser.add_argument("--clip-tune-minutes", type=float, default=9)
    parser.add_argument("--captioner-minutes", type=float, default=35)
    parser.add_argument("--detector-minutes", type=float, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(Plan(**vars(_arguments())))
