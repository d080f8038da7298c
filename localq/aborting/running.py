"""What the threads of this process run, and which of that is to be aborted."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from logging import Logger
from threading import Lock, get_ident

from ..clock import clock
from ..threading import Abort, raise_thread_exception

NEXT_TRY = 20
"""Milliseconds until an actor is interrupted that is not to be interrupted right now."""


class AbortMode(Enum):
    """How far an abort goes."""

    ABORT = "abort"
    """A message that waits never runs; one that runs is interrupted."""
    CANCEL = "cancel"
    """A message that waits never runs; one that runs is left alone."""
    KILL = "kill"
    """As ABORT; and where that does not end it within a second or so, its pool kills the process that runs
    it. What else that process ran goes back to the queue, uncharged."""


@dataclass(slots=True)
class Request:
    """That a message be aborted: `due` is when it is interrupted, `expires` when nobody wants that any
    more, both in monotonic milliseconds."""

    mode: AbortMode
    due: float
    expires: float


_current: ContextVar[str | None] = ContextVar("localq_abortable", default=None)
"""The message that runs here, or ran here last; a coroutine has it from the thread that waits for it."""


class Running:
    """The messages that run in this process and may be aborted, by thread.

    Starting a message takes no lock. A thread is entered before it looks for a request, and a request
    is kept before the threads are looked through: one of the two sees the other.

    Parameters:
      logger: where it is told that a message was interrupted.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self.process = os.getpid()
        # Held while one is interrupted: so its thread cannot go on to another message meanwhile.
        self._lock = Lock()
        self._threads: dict[int, str] = {}
        self._requests: dict[str, Request] = {}

    def begin(self, message_id: str) -> bool:
        """This thread runs that message; say whether somebody wants to abort it."""
        self._threads[get_ident()] = message_id
        _current.set(message_id)
        return message_id in self._requests

    def end(self) -> None:
        """This thread runs none any more, or one that may not be aborted."""
        with self._lock:
            self._threads.pop(get_ident(), None)

    def forget(self, message_id: str) -> None:
        """A request for that message means nothing any more."""
        with self._lock:
            self._requests.pop(message_id, None)

    def not_requested(self) -> list[str]:
        """The messages that run and that nobody wants to abort yet."""
        return [each for each in list(self._threads.values()) if self._mode_of(each) is not AbortMode.ABORT]

    def _mode_of(self, message_id: str) -> AbortMode | None:
        request = self._requests.get(message_id)
        return None if request is None else request.mode

    def request(self, message_id: str, mode: AbortMode, *, timeout: float, ttl: float) -> None:
        """Abort that message if it runs here, `timeout` milliseconds from now; or within `ttl`, as soon
        as it is about to. Of two requests the one that is due first counts."""
        now = clock.monotonic()
        request = Request(mode, now + timeout, now + max(ttl, timeout))
        with self._lock:
            known = self._requests.get(message_id)
            if known is not None and known.mode is AbortMode.ABORT:
                if mode is AbortMode.CANCEL:
                    return
                request.due = min(request.due, known.due)
            self._requests[message_id] = request

    def time_left(self, message_id: str | None) -> float | None:
        """Milliseconds until that message (None: the one that runs here) is interrupted; None if it is
        not to be, or does not run in this process."""
        message_id = _current.get() if message_id is None else message_id
        request = self._requests.get(message_id) if message_id is not None else None
        if request is None or request.mode is not AbortMode.ABORT or message_id not in list(self._threads.values()):
            return None
        return request.due - clock.monotonic()

    def interrupt_due(self) -> bool:
        """Interrupt what is to be interrupted by now; say whether any was."""
        now, interrupted = clock.monotonic(), False
        with self._lock:
            self._forget_expired(now)
            for thread, message_id in list(self._threads.items()) if self._requests else ():
                request = self._requests.get(message_id)
                if request is None or request.mode is not AbortMode.ABORT or request.due > now:
                    continue
                if raise_thread_exception(thread, Abort):
                    self._logger.info("Message %s is aborted. Interrupting worker thread %r.", message_id, thread)
                    del self._threads[thread]
                    interrupted = True
                else:  # its actor has not begun, or has just ended
                    request.due = now + NEXT_TRY
        return interrupted

    def _forget_expired(self, now: float) -> None:
        running = set(self._threads.values())
        for message_id, request in list(self._requests.items()):
            if request.expires <= now and message_id not in running:
                del self._requests[message_id]

    def time_to_sleep(self, longest: float) -> float:
        """Milliseconds until something is to be interrupted here, `longest` at most."""
        with self._lock:
            running = set(self._threads.values())
            due = [
                request.due
                for message_id, request in self._requests.items()
                if request.mode is AbortMode.ABORT and message_id in running
            ]
        return max(0.0, min(longest, min(due, default=float("inf")) - clock.monotonic()))
