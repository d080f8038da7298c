"""The thread of a worker that watches the time, for its bursts and for the store.

It sleeps without end in an idle process, unless that is the one that keeps house
for its pool: then it looks once a second.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .clock import clock
from .errors import StoreError, StoreReplaced
from .logging import get_logger
from .worker_thread import OVERRUN

if TYPE_CHECKING:
    from .worker import Worker

PATIENCE = 30.0
"""Seconds that `stop` waits for a look that waits for the gate itself."""
SWEEP_INTERVAL = 30_000
"""Milliseconds between two looks for what has expired."""
BREATH = 5
"""Milliseconds at least between two steps of cleaning up: the gate goes to whoever asks for it at the right moment,
and must not be taken again at once."""
RETRY_INTERVAL = 1000
"""Milliseconds until the rest of a burst is given back after all, when the store could not be used."""


class Timekeeper(threading.Thread):
    """Gives back the rest of a burst when one of its messages takes too long, and keeps house.

    Parameters:
      worker: whose threads it watches.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="localq timekeeper", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self._worker = worker
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._watches = False
        self._next_look = clock.monotonic()
        self._next_sweep = clock.monotonic()
        self._next_step = math.inf
        self._next_try = 0.0
        self._troubled: set[str] = set()

    def watch_bursts(self) -> None:
        """Look at the bursts from now on, until there is none."""
        if not self._watches:
            self._watches = True
            self._calls.put(True)

    def reap_now(self) -> None:
        """Keep house at once: another process of the pool has just died."""
        self._next_look = 0
        self._calls.put(True)

    def stop(self) -> None:
        """End the thread; returns when it looks at nothing any more."""
        self._calls.put(False)
        if self.is_alive() and self is not threading.current_thread():
            self.join(PATIENCE)

    def run(self) -> None:
        """Sleep until there is something to watch, look, and so on."""
        while self._sleep() and not self._worker.is_stranded:
            self._watches = any(thread.bursting for thread in self._threads())
            self._look_at_bursts()
            if self._next_look <= clock.monotonic():
                self._next_look = clock.monotonic() + self._worker.worker_timeout
                self._next_step = 0.0 if self._worker.housekeeper else math.inf
                self._try(self._keep_house)
            if self._next_step <= clock.monotonic():
                self._next_step = math.inf
                self._try(self._clean_up)

    def _sleep(self) -> bool:
        """Say whether to go on."""
        timeout = None
        if self._watches:
            timeout = OVERRUN / 2000
        elif self._worker.housekeeper:
            timeout = max(0, min(self._next_look, self._next_step) - clock.monotonic()) / 1000
        try:
            return self._calls.get(timeout=timeout)
        except Empty:
            return True

    def _threads(self) -> list[Any]:
        return [thread for thread in self._worker.workers if hasattr(thread, "give_back")]

    def _look_at_bursts(self) -> None:
        now = clock.monotonic()
        if now < self._next_try:
            return
        for thread in self._threads():
            overruns = thread.bursting and thread.started_at and now - thread.started_at > OVERRUN
            if overruns and not thread.give_back():
                self._next_try = clock.monotonic() + RETRY_INTERVAL

    def _keep_house(self) -> None:
        worker, store = self._worker, self._worker.broker.store
        now = clock.wall()
        store.reap(now=now, max_crashes=worker.max_crashes)
        # A bell is never the only hope: look whether somebody sleeps beside waiting messages, or
        # was about to lie down when it was paused.
        idle = [thread for thread in self._threads() if thread.idle]
        if any(thread.paused for thread in idle) or (
            idle and store.wait(worker.queues, now=now, timeout=0, skip=worker.left_alone)
        ):
            store.wake()

    def _clean_up(self) -> None:
        """Take one step, and say when to take the next."""
        store, started = self._worker.broker.store, clock.monotonic()
        pause = float(BREATH)
        if self._next_sweep <= started:
            goes_on = bool(store.sweep(now=clock.wall()))
            pause = max(pause, clock.monotonic() - started)  # others may be writing
            if not goes_on:
                self._next_sweep = clock.monotonic() + SWEEP_INTERVAL
        else:
            goes_on = store.shrink()
        if goes_on:
            self._next_step = clock.monotonic() + pause

    def _try(self, duty: Callable[[], None]) -> None:
        """Tell of trouble once, until that duty could be done again."""
        try:
            duty()
            self._troubled.discard(duty.__name__)
        except StoreReplaced as error:
            self._worker.strand(error)
        except StoreError as error:
            if duty.__name__ not in self._troubled:
                self.logger.error("Cannot keep house now: %s", error)
            self._troubled.add(duty.__name__)
