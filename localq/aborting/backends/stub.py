"""Events in the memory of one process, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from ...clock import Deadline, clock
from ..backend import Event, EventBackend


class StubBackend(EventBackend):
    """Keeps events in this process alone."""

    rereads_keys = True

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.events: dict[str, tuple[dict[str, Any], float]] = {}
        """For each key its parameters, and until when they are kept (monotonic milliseconds)."""

    def wait_many(self, keys: Iterable[str], timeout: float) -> Event | None:
        if not hasattr(keys, "__getitem__") and iter(keys) is keys:
            keys = list(keys)
        deadline = Deadline(timeout)
        with self.condition:
            while True:
                for key in keys:
                    if (event := self._take(key)) is not None:
                        return event
                if deadline.passed():
                    return None
                self.condition.wait((deadline.left() or 0) / 1000)

    def poll(self, key: str) -> Event | None:
        with self.condition:
            return self._take(key)

    def notify(self, events: Iterable[Event], ttl: int) -> None:
        now = clock.monotonic()
        with self.condition:
            self.events = {key: kept for key, kept in self.events.items() if kept[1] > now}
            for key, params in events:
                self.events[key] = (params, now + ttl)
            self.condition.notify_all()

    def _take(self, key: str) -> Event | None:
        params, until = self.events.pop(key, ({}, 0.0))
        return Event(key, params) if until > clock.monotonic() else None
