"""A call of a reward that may fail, hang or take too long: its tries, the pauses between them, its time.

    raised, or took longer than its time → a pause, each twice as long → made again, `tries` times in all

A Python thread cannot be stopped. A call with a limit runs in a daemon thread; one that takes too long is
abandoned there. Nobody waits for its answer, and no later call begins beside it, since a reward need not be
thread-safe: it waits for the reward as long as its own limit allows. A reward that is `thread_safe` is asked
again at once. A program that ends over an abandoned call should leave by `os._exit`: torch aborts a process
whose threads are taken from under it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ddpo_core.errors import EnvironmentFault, UsageError, WrongScores

T = TypeVar("T")

FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 30.0
NEVER: Future[None] = Future()  # what is waited for where nobody will say stop

_abandoned: weakref.WeakSet[Future[Any]] = weakref.WeakSet()


class TookTooLong(Exception):
    """A call was not over when its time was; says which."""


class Stopped(Exception):
    """Nobody wants the answer any more."""


@dataclass(frozen=True)
class Unfinished:
    """The calls of one reward that were abandoned; the reward is busy while they run."""

    calls: list[Future[Any]] = field(default_factory=list)

    def running(self) -> list[Future[Any]]:
        """Those that are not over yet."""
        self.calls[:] = [call for call in self.calls if not call.done()]
        return list(self.calls)

    def add(self, call: Future[Any]) -> None:
        """Give a call up."""
        self.calls.append(call)
        _abandoned.add(call)

    def afterwards(self, action: Callable[[], object]) -> None:
        """Do it once the reward is not busy any more: now, or in the background."""
        running = self.running()
        if not running:
            action()
            return
        in_daemon(lambda: (wait(running), action()))


@dataclass(frozen=True)
class Patience:
    """How much a reward is given to answer a call."""

    tries: int = 1  # in all
    time_limit: float | None = None  # seconds of each try
    thread_safe: bool = False  # it may be asked again while an abandoned call still runs


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a call came to: a value, or the error of its last try."""

    value: T | None
    error: Exception | None
    retries: int  # tries after the first
    timeouts: int  # tries that took too long


def ask(
    judge: Callable[[], T], patience: Patience, unfinished: Unfinished, stopped: Future[None]
) -> Answer[T]:
    """Call `judge` until it answers or its tries are used up.

    Raises at once what no other try mends: `UsageError`, `EnvironmentFault` and `WrongScores`; and `Stopped`
    once `stopped` is done.
    """
    error: Exception | None = None
    timeouts = 0
    for retries in range(patience.tries):
        if retries:
            rest(retries, stopped)
        try:
            return Answer(within(judge, patience, unfinished, stopped), None, retries, timeouts)
        except (UsageError, EnvironmentFault, WrongScores, Stopped):
            raise
        except Exception as caught:
            error = caught
            timeouts += isinstance(caught, TookTooLong)
    return Answer(None, error, patience.tries - 1, timeouts)


def rest(retries: int, stopped: Future[None]) -> None:
    """The pause before the n-th retry."""
    wait([stopped], timeout=min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (retries - 1)))
    if stopped.done():
        raise Stopped


def within(judge: Callable[[], T], patience: Patience, unfinished: Unfinished, stopped: Future[None]) -> T:
    """One try. Raises what `judge` raises, or `TookTooLong` where it has no answer in time."""
    limit = patience.time_limit
    if limit is None:
        return judge()
    end = time.monotonic() + limit
    if not patience.thread_safe:
        wait_until_free(unfinished, end, stopped)
        if unfinished.running():
            raise TookTooLong(f"it is still busy with an earlier call that took longer than {limit:g} s")
    call = in_daemon(judge)
    either: list[Future[Any]] = [call, stopped]
    wait(either, timeout=max(0.0, end - time.monotonic()), return_when=FIRST_COMPLETED)
    if call.done():
        return call.result()
    unfinished.add(call)
    if stopped.done():
        raise Stopped
    raise TookTooLong(f"a call took longer than {limit:g} s")


def wait_until_free(unfinished: Unfinished, end: float, stopped: Future[None]) -> None:
    """Wait for abandoned calls to be over, at most to `end` of the monotonic clock."""
    while (running := unfinished.running()) and (left := end - time.monotonic()) > 0:
        either: list[Future[Any]] = [*running, stopped]
        wait(either, timeout=left, return_when=FIRST_COMPLETED)
        if stopped.done():
            raise Stopped


def in_daemon(function: Callable[[], T]) -> Future[T]:
    """Run it in a thread that the end of the program does not wait for."""
    call: Future[T] = Future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            call.set_exception(error)
        else:
            call.set_result(result)

    threading.Thread(target=run, name="reward-call", daemon=True).start()
    return call


def abandoned() -> bool:
    """Whether an abandoned call of any reward is still running."""
    return any(not call.done() for call in _abandoned)
