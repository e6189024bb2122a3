"""How often rewards failed: told while a run goes on, at its end and in its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = {"failures": ("failed sample", "failed samples"), "retries": ("retry", "retries")}
KINDS |= {"timeouts": ("time-out", "time-outs")}
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Tally:
    """What became of one reward's failures over a run."""

    label: str
    samples: int
    failures: int  # samples without a score of their own
    retries: int  # calls that were made again
    timeouts: int  # calls that took too long
    on_error: str
    tries: int
    time_limit: float | None

    def told(self) -> str:
        """A sentence for the end of a run."""
        said = []
        if self.failures:
            fate = "were left out" if self.on_error == "drop" else "got the mean of the others"
            of = f" of {self.samples}" if self.samples else ""
            said.append(f"{self.failures}{of} samples had no score and {fate} (on_error={self.on_error})")
        if self.retries:
            said.append(f"{_counted(self.retries, 'call was', 'calls were')} made again (tries={self.tries})")
        if self.timeouts:
            limit = f"{self.time_limit:g} s" if self.time_limit else "they may"
            said.append(f"{_counted(self.timeouts, 'call', 'calls')} took longer than {limit} (time_limit)")
        return f"reward {self.label}: {'; '.join(said)}"


def tallies(plugins: Mapping[str, Any], history: Sequence[Metrics], samples_per_epoch: int) -> list[Tally]:
    """Of the rewards in plugins.json, those that failed at all."""
    samples = samples_per_epoch * len(history)
    found = [_tally(label, part, history, samples) for label, part in plugins.get("rewards", {}).items()]
    return [tally for tally in found if tally.failures or tally.retries or tally.timeouts]


def _tally(label: str, part: Mapping[str, Any], history: Sequence[Metrics], samples: int) -> Tally:
    sums = {kind: int(sum(line.get(f"reward/{label}/{kind}", 0) for line in history)) for kind in KINDS}
    return Tally(
        label,
        samples,
        **sums,
        on_error=str(part.get("on_error", "raise")),
        tries=int(part.get("tries", 1)),
        time_limit=part.get("time_limit"),
    )


def brief(label: str, *lines: Metrics) -> str:
    """`3 failed samples, 1 retry` of these epochs together; nothing where all went well."""
    sums = {kind: int(sum(line.get(f"reward/{label}/{kind}", 0) for line in lines)) for kind in KINDS}
    return ", ".join(_counted(count, *KINDS[kind]) for kind, count in sums.items() if count)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
