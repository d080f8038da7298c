"""Deaths in a row: how soon a process that died is replaced, and when there is no hope left."""

from __future__ import annotations

from ..cells import has_run
from ..clock import clock
from .worker_process import WorkerProcess

SHORT_LIFE = 10_000
"""Milliseconds: who dies sooner than that, and has run no message, may be part of a series."""
PATIENCE = 3
"""How many of such deaths in a row are replaced at once."""
FIRST_BACKOFF, LONGEST_BACKOFF = 500, 30_000
LONGEST_SERIES = 8
"""How many of such deaths in a row, of each process of a pool, leave no hope."""


def does_well(worker: WorkerProcess) -> bool:
    """Whether it has run a message, or has been ready for long."""
    if worker.has_run or (worker.cells and has_run(worker.cells)):
        return True
    return worker.ready_at is not None and clock.monotonic() - worker.ready_at > SHORT_LIFE


class Series:
    """Counts processes that die before their first message, one after the other.

    Parameters:
      processes: how many run side by side.
    """

    def __init__(self, processes: int) -> None:
        self.deaths = 0
        self._processes = processes

    @property
    def is_hopeless(self) -> bool:
        """Whether the next one would most likely die in the same way."""
        return self.deaths >= LONGEST_SERIES * self._processes

    def end(self) -> None:
        """What is started from now on may do better."""
        self.deaths = 0

    def backoff_after(self, worker: WorkerProcess) -> int:
        """Milliseconds until the process that died is to be replaced."""
        # Who dies of its messages is replaced at once: the messages are charged, and there is an end
        # to that. Who dies without having run any would die again and again.
        if does_well(worker):
            self.end()
            return 0
        self.deaths += 1
        patience = PATIENCE if worker.ready_at is not None else 0
        rounds = (self.deaths - 1) // self._processes - patience
        return 0 if rounds < 0 else int(min(FIRST_BACKOFF * 2 ** min(rounds, 10), LONGEST_BACKOFF))
