"""Actors that run for too long are interrupted."""

from __future__ import annotations

import os
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

from .. import current
from ..clock import clock
from ..logging import get_logger
from ..threading import Interrupt, current_platform, raise_thread_exception, supported_platforms
from .middleware import Middleware, option

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy

DEFAULT_TIME_LIMIT = 10 * 60 * 1000
DEFAULT_GRACE = 5_000
LATE = 500
"""Milliseconds by which a look is too late for anything but a stop of the process."""
NEXT_TRY = 20
"""Milliseconds until an actor is interrupted that is not to be interrupted right now."""


class TimeLimitExceeded(Interrupt):
    """Raised in an actor that has run for longer than it may."""

    def __init__(self, message: str = "the actor ran for longer than its time limit") -> None:
        super().__init__(message)


class TimeLimit(Middleware):
    """Raises `TimeLimitExceeded` in actors that run for too long; they are then retried like
    any failure. It lands between two bytecodes, or, on a process's main thread (where a worker
    process with one thread runs its tasks), also in a blocking call. An actor that has not ended
    `time_limit_grace` later is ended with its process, if that belongs to a pool, and counts as failed in
    the same way; what else the process ran goes back to the queue.

    Parameters:
      time_limit: milliseconds on the monotonic clock, without the time that the process was stopped
        (SIGSTOP). Actors and messages may have another, as option ``time_limit``; ``float("inf")`` for
        none.
      interval: milliseconds between two looks while actors run: a stop of the process is seen by a look
        that comes late, and up to so much of it counts.
      time_limit_grace: milliseconds that an actor has to clean up after `TimeLimitExceeded`; also an option
        of that name.
    """

    def __init__(
        self, *, time_limit: int = DEFAULT_TIME_LIMIT, interval: int = 1000, time_limit_grace: int = DEFAULT_GRACE
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.time_limit = time_limit
        self.interval = interval
        self.time_limit_grace = time_limit_grace
        self._workers = 0
        self._forget()

    def _forget(self) -> None:
        self._deadlines: dict[int, float] = {}
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._wakes_at: float | None = None
        self._process = os.getpid()
        self._watcher: threading.Thread | None = None

    @property
    def actor_options(self) -> set[str]:
        return {"time_limit", "time_limit_grace"}

    def after_process_boot(self, broker: Broker) -> None:
        if current_platform in supported_platforms:
            self._start()
        else:
            warnings.warn(
                f"TimeLimit cannot kill threads on your current platform ({current_platform!r}).",
                category=RuntimeWarning,
                stacklevel=2,
            )

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:
        self._workers += 1

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        with self._condition:
            self._workers -= 1
            self._condition.notify()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        actor, cell = broker.actors.get(message.actor_name), current.thread.cell
        limit = option("time_limit", message, actor, self.time_limit)
        deadline = clock.monotonic() + limit
        if cell is not None:
            cell.limit(deadline + option("time_limit_grace", message, actor, self.time_limit_grace))
        self._broker = broker
        if self._watcher is None or self._process != os.getpid():
            self._start()
        with self._lock:
            self._deadlines[threading.get_ident()] = deadline
            # A usual limit lies behind the one that the watcher waits for: no need to wake it.
            if self._wakes_at is None or deadline < self._wakes_at:
                self._condition.notify()

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        with self._lock:
            self._deadlines.pop(threading.get_ident(), None)

    after_skip_message = after_process_message

    def _start(self) -> None:
        if self._process != os.getpid():
            self._forget()
        if self._watcher is None and current_platform in supported_platforms:
            self._watcher = threading.Thread(target=self._watch, name="localq time limits", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        with self._condition:
            while self._workers > 0 or self._deadlines:
                now = clock.monotonic()
                for thread, deadline in list(self._deadlines.items()):
                    if deadline <= now:
                        self._interrupt(thread)
                self._wakes_at = min(self._deadlines.values(), default=None)
                if self._wakes_at is None:
                    self._condition.wait()
                else:
                    self._wait(max(0, min(self._wakes_at - now, max(self.interval, 1))))
            self._watcher = None

    def _wait(self, millis: float) -> None:
        """Wait up to so long; whoever wakes up far too late was stopped meanwhile, or kept from running by
        a call into C, which differs in that it uses the processor."""
        began, worked = clock.monotonic(), time.process_time()
        self._condition.wait(millis / 1000)
        late = clock.monotonic() - began - millis - (time.process_time() - worked) * 1000
        if late > LATE:
            for thread in self._deadlines:
                self._deadlines[thread] += late

    def _interrupt(self, thread: int) -> None:
        # With the lock held: the thread cannot have gone on to another message meanwhile.
        if raise_thread_exception(thread, TimeLimitExceeded):
            self.logger.warning("Time limit exceeded. Raising exception in worker thread %r.", thread)
            del self._deadlines[thread]
            self._broker.store.wake()  # so that it also ends our own waits
        else:  # its actor has not begun, or has just ended
            self._deadlines[thread] = clock.monotonic() + NEXT_TRY
