"""Events that one process leaves for another to find, each of which is delivered once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple


class Event(NamedTuple):
    """Something that was said under a key, with parameters that are JSON values."""

    key: str
    params: dict[str, Any]


class EventBackend(ABC):
    """Where events lie until somebody takes them. Used from any thread."""

    rereads_keys: ClassVar[bool] = False
    """Whether `wait_many` goes through `keys` anew each time that something was notified: then
    it may be given a view that changes while it waits."""

    @abstractmethod
    def wait_many(self, keys: Iterable[str], timeout: float) -> Event | None:
        """Take one event of these keys, waiting up to `timeout` milliseconds for it; None if none came."""

    @abstractmethod
    def poll(self, key: str) -> Event | None:
        """Take the event of that key if it is there, without waiting."""

    @abstractmethod
    def notify(self, events: Iterable[Event], ttl: int) -> None:
        """Leave events, which are forgotten after `ttl` milliseconds if nobody takes them."""

    def may_hold_any(self) -> bool:
        """Whether a `poll` could find anything: False saves the look."""
        return True
