"""Local SGD: one single-threaded process per core, weights averaged every few seconds.

Two such processes beat two OpenMP threads as soon as anything else runs on the machine, since no one spins
at a barrier in every operator. All clocks are wall clocks: a training stage lasts the minutes it was given,
on any machine.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor


def run_workers(work: Callable[..., None], workers: int, *arguments: object) -> None:
    """Calls `work(rank, workers, *arguments)` in that many fresh processes; raises the first failure."""
    # read by the OpenMP runtime of the children when they start
    os.environ["OMP_NUM_THREADS"] = "1"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_start, args=(workers, port, work, arguments), nprocs=workers)


def _start(rank: int, workers: int, port: int, work: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    try:
        work(rank, workers, *arguments)
        dist.barrier()
    finally:
        dist.destroy_process_group()


class Clock:
    """The shared time of one stage: how much of its budget is used, earlier runs of it included."""

    def __init__(self, minutes: float, used_before: float = 0.0) -> None:
        """`used_before`: the fraction of the budget that earlier, interrupted runs have used."""
        start = torch.tensor([time.time()], dtype=torch.float64)
        dist.broadcast(start, 0)
        self.seconds = minutes * 60
        self._start = start.item() - used_before * self.seconds

    def fraction(self) -> float:
        """Used share of the budget; past 1 when it is over."""
        return (time.time() - self._start) / self.seconds

    def elapsed(self) -> float:
        """Used seconds of the budget."""
        return time.time() - self._start


class Averager:
    """Averages weights and Adam moments over the workers every `every` seconds of the shared clock.

    Rounds stand at fixed times, so every worker comes to each of them exactly once and none waits for ever.
    """

    def __init__(
        self, parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer, clock: Clock, every: float
    ) -> None:
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._clock = clock
        self._every = every
        self._last_round = max(1, int(clock.seconds / every))
        self._round = int(clock.elapsed() / every)
        self._steps = 0
        for parameter in self._parameters:
            dist.broadcast(parameter.data, 0)

    @property
    def finished(self) -> bool:
        """Whether the last round of this stage has taken place."""
        return self._round >= self._last_round

    def step(self) -> bool:
        """Counts an optimiser step; True if a round took place, so that all workers now agree in weights."""
        self._steps += 1
        if self._clock.elapsed() < (self._round + 1) * self._every:
            return False
        self._round += 1
        self._average()
        self._steps = 0
        return True

    def _average(self) -> None:
        total = torch.tensor([float(self._steps)])
        dist.all_reduce(total)
        tensors = [parameter.data for parameter in self._parameters]
        for parameter in self._parameters:
            state = self._optimizer.state.get(parameter, {})
            tensors += [state[name] for name in ("exp_avg", "exp_avg_sq") if name in state]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * (self._steps / total.item())
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def save_atomically(content: object, path: Path) -> None:
    """`torch.save` that leaves either the old file or the new one, never half of it."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.rename(path)
