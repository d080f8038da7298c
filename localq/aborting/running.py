"""The messages that run in this process and may be aborted, and what was asked of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from ..clock import clock
from ..threading import Interrupt, raise_thread_exception

NEXT_TRY = 20
"""Milliseconds until an actor is interrupted that is not to be interrupted right now."""


@dataclass(slots=True)
class Run:
    """One message that runs, on which thread, and when it is to be interrupted (monotonic ms)."""

    thread: int
    abort_at: float | None = None
    interrupted: bool = False


class Running:
    """Who is interrupted is decided under one lock, which a message also needs to end: so it
    is always the message that was meant, never the next one of its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}

    def add(self, message_id: str) -> None:
        """This thread begins that message."""
        # Without the lock, for speed: others go through a copy.
        self._runs[message_id] = Run(threading.get_ident())

    def remove(self, message_id: str) -> None:
        """It has ended."""
        if message_id in self._runs:
            with self._lock:
                self._runs.pop(message_id, None)

    def request(self, message_id: str, abort_timeout: float) -> None:
        """Interrupt that message in so many milliseconds, if it still runs then."""
        with self._lock:
            run = self._runs.get(message_id)
            if run is not None and not run.interrupted:
                run.abort_at = clock.monotonic() + abort_timeout

    def left(self, message_id: str | None) -> float | None:
        """Milliseconds until that message (None: the one of this thread) is interrupted; None for never."""
        with self._lock:
            for each, run in list(self._runs.items()):
                if each == message_id or (message_id is None and run.thread == threading.get_ident()):
                    return None if run.abort_at is None else run.abort_at - clock.monotonic()
        return None

    def interrupt_due(self, exception: type[Interrupt]) -> list[int]:
        """Interrupt those whose time has come; the threads that were."""
        interrupted = []
        with self._lock:
            now = clock.monotonic()
            for run in list(self._runs.values()):
                if run.abort_at is None or run.abort_at > now:
                    continue
                if raise_thread_exception(run.thread, exception):
                    run.abort_at, run.interrupted = None, True
                    interrupted.append(run.thread)
                else:  # its actor has not begun, or has just ended
                    run.abort_at = now + NEXT_TRY
        return interrupted

    def next_due(self) -> float | None:
        """Milliseconds until the next one is to be interrupted; None if none is."""
        with self._lock:
            times = [run.abort_at for run in list(self._runs.values()) if run.abort_at is not None]
        return max(0.0, min(times) - clock.monotonic()) if times else None

    def untouched(self) -> list[str]:
        """The ids of the messages of which nothing was asked yet."""
        with self._lock:
            return [each for each, run in list(self._runs.items()) if run.abort_at is None and not run.interrupted]


class Keys:
    """The event keys of the messages that run, as they are when somebody goes through them."""

    def __init__(self, running: Running, prefix: str) -> None:
        self._running = running
        self._prefix = prefix

    def __iter__(self) -> Iterator[str]:
        return iter([self._prefix + message_id for message_id in self._running.untouched()])
