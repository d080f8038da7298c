"""The thread of a worker process that hears of aborts, and interrupts what is to be aborted."""

from __future__ import annotations

import json
import threading
from logging import Logger
from typing import TYPE_CHECKING, Any

from ..clock import clock
from ..errors import StoreError, StoreReplaced, text_of
from ..store import Event as StoreEvent
from ..store import Store, Value
from .backend import EventBackend
from .running import AbortMode, Running

if TYPE_CHECKING:
    from ..broker import Broker

TOPIC = "aborts"
LONG_SLEEP = 30_000
"""Milliseconds until a watcher looks although no bell has rung."""
PAUSE = 1.0
"""Seconds until it tries again after it could not hear."""


class Watcher(threading.Thread):
    """Hears, interrupts, sleeps.

    Parameters:
      broker: whose messages run here.
      running: which of them do.
      logger: where trouble is told.
    """

    def __init__(self, broker: Broker, running: Running, logger: Logger) -> None:
        super().__init__(name="localq aborts", daemon=True)
        self._broker = broker
        self._running = running
        self._logger = logger
        self._stopped = threading.Event()
        self._troubled = False

    def run(self) -> None:
        while not self._stopped.is_set():
            if not self._broker.is_open:  # it was closed under a running worker: do not open it again
                self._stopped.wait(PAUSE)
                continue
            try:
                self.hear(self._running.time_to_sleep(LONG_SLEEP))
                if self._running.interrupt_due():
                    self._broker.store.wake()  # so that it also ends our own waits
                self._troubled = False
            except StoreReplaced:  # the worker says so, and ends
                self._stopped.wait(PAUSE)
            except Exception as error:  # a backend of the user's may raise anything, and later aborts must be heard
                if self._broker.is_open and not self._stopped.is_set() and not self._troubled:
                    self._troubled = True
                    trace = not isinstance(error, StoreError)
                    self._logger.error("Cannot hear of aborts; trying again: %s", text_of(error), exc_info=trace)
                self._stopped.wait(PAUSE)

    def hear(self, timeout: float) -> None:
        """Take note of requests, waiting up to `timeout` milliseconds for some."""
        raise NotImplementedError

    def begin(self) -> None:
        """A message begins."""

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()


class StoreWatcher(Watcher):
    """Hears of aborts from the broker's own store: each is an event that every process reads."""

    def __init__(self, broker: Broker, running: Running, logger: Logger) -> None:
        super().__init__(broker, running, logger)
        self._heard = 0

    def hear(self, timeout: float) -> None:
        events = self._broker.store.wait_events([TOPIC], after=self._heard, timeout=timeout)
        for number, event in events:
            self._heard = number
            try:
                self._note(json.loads(event.data))
            except (ValueError, TypeError, KeyError, RecursionError):
                self._logger.warning("The event %d is no abort of ours; it is passed over.", number)

    def _note(self, request: dict[str, Any]) -> None:
        # The millisecond in which it was asked for does not count: nothing is interrupted early.
        since = max(0, clock.wall() - request["at"] - 1)
        if since < request["ttl"]:
            mode, timeout = AbortMode(request["mode"]), max(0, request["timeout"] - since)
            self._running.request(request["id"], mode, timeout=timeout, ttl=request["ttl"] - since)

    def stop(self) -> None:
        super().stop()
        while self.is_alive():
            if self._broker.is_open:
                self._broker.store.wake()  # again and again: it may have been about to lie down
            self.join(0.05)


class BackendWatcher(Watcher):
    """Hears of aborts from a backend, by the keys of what runs here."""

    def __init__(
        self, broker: Broker, running: Running, logger: Logger, backend: EventBackend, longest: int, ttl: int
    ) -> None:
        super().__init__(broker, running, logger)
        self._backend = backend
        self._longest = longest
        self._ttl = ttl
        self._begun = threading.Event()

    def hear(self, timeout: float) -> None:
        timeout = min(timeout, self._longest)
        self._begun.clear()
        keys = {key_of(each, AbortMode.ABORT): each for each in self._running.not_requested()}
        if not keys:
            self._begun.wait(timeout / 1000)
            return
        event = self._backend.wait_many(list(keys), int(timeout))
        if event is not None:
            wait = event.params.get("abort_timeout", 0)
            self._running.request(keys[event.key], AbortMode.ABORT, timeout=wait, ttl=self._ttl)

    def begin(self) -> None:
        self._begun.set()

    def stop(self) -> None:
        super().stop()
        self._begun.set()


def key_of(message_id: str, mode: AbortMode) -> str:
    """Under which key a backend keeps that a message be aborted, or only cancelled."""
    return f"{mode.value}:{message_id}"


def _flag_of(message_id: str) -> str:
    return f"aborted:{message_id}"


def announce(store: Store, message_id: str, mode: AbortMode, *, timeout: int, ttl: int) -> None:
    """Tell all processes that a message of that store is to be aborted; forgotten when it is brought
    back to life."""
    now = clock.wall()
    request = {"id": message_id, "mode": mode.value, "timeout": timeout, "at": now, "ttl": ttl}
    store.set_values([Value(_flag_of(message_id), b"", ttl, message_id)], now=now)
    store.put_events([StoreEvent(TOPIC, json.dumps(request).encode(), ttl)], now=now)


def is_announced(store: Store, message_id: str) -> bool:
    """Whether that message is still to be aborted."""
    return store.get_value(_flag_of(message_id), now=clock.wall()) is not None
