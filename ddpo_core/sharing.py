"""Which process holds which samples of an epoch, and how all of them come together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


@dataclass(frozen=True)
class Sharing:
    """An epoch's samples, dealt out: process r of n holds every n-th group of one prompt from the r-th on."""

    accelerator: Accelerator
    samples: int  # of an epoch, over all processes

    def indices(self, group_size: int, process: int | None = None) -> list[int]:
        """The samples of an epoch that a process holds (this one), `group_size` in a row of one prompt."""
        process = self.accelerator.process_index if process is None else process
        processes = self.accelerator.num_processes
        return [i for i in range(self.samples) if i // group_size % processes == process]

    def interleave(self, group_size: int, mine: list[T]) -> list[T]:
        """Every process's items in the epoch's order."""
        gathered = self.gather(mine)
        holders = range(self.accelerator.num_processes)
        places = [i for process in holders for i in self.indices(group_size, process)]
        return [item for _, item in sorted(zip(places, gathered, strict=True), key=lambda pair: pair[0])]

    def gather(self, mine: list[T]) -> list[T]:
        """Every process's items, process after process."""
        if self.accelerator.num_processes == 1:
            return mine
        gathered: list[T] = gather_object(mine)
        return gathered
