"""Events by which an abort can be told to workers, for those whose messages and aborts lie apart."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..clock import Deadline, clock
from ..store import Store, Value


class Event(NamedTuple):
    """Something that happened, under a key, and what is to be known of it: JSON values by name."""

    key: str
    params: dict[str, Any]


class EventBackend(ABC):
    """Carries events from those who tell them to one who waits for their key."""

    @abstractmethod
    def wait_many(self, keys: Iterable[str], timeout: int) -> Event | None:
        """The first event under any of the keys, waited for up to `timeout` milliseconds; None if none
        comes. Nobody else gets that event."""

    @abstractmethod
    def poll(self, key: str) -> Event | None:
        """The event under the key, if it is there. Nobody else gets it."""

    @abstractmethod
    def notify(self, events: Iterable[Event], ttl: int) -> None:
        """Tell events; one that nobody asks for within `ttl` milliseconds is forgotten."""


class StoreBackend(EventBackend):
    """Events in a store of messages. Who waits is woken when one comes.

    Parameters:
      open_store: gives the store; called when it is first needed.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def store(self) -> Store:
        """The store that keeps the events."""
        return self._open_store()

    def wait_many(self, keys: Iterable[str], timeout: int) -> Event | None:
        names = {_name(key): key for key in keys}
        deadline = Deadline(timeout)
        while True:
            found = self.store.wait_values(list(names), clock=clock.wall, timeout=deadline.left())
            for name in (name for name in names if name in found):
                if self._take(name):
                    return Event(names[name], json.loads(found[name]))
            if deadline.passed() or not names:
                return None

    def poll(self, key: str) -> Event | None:
        data = self.store.get_value(_name(key), now=clock.wall())
        return Event(key, json.loads(data)) if data is not None and self._take(_name(key)) else None

    def _take(self, name: str) -> bool:
        return self.store.delete_values([name]) == 1

    def notify(self, events: Iterable[Event], ttl: int) -> None:
        values = [Value(_name(key), json.dumps(params).encode(), ttl) for key, params in events]
        self.store.set_values(values, now=clock.wall())


def _name(key: str) -> str:
    # Results lie among the values too, and under keys that users can choose.
    return f"abort-events:{key}"
