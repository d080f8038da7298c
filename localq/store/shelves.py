"""What the memory store is built of: keys of which the least is at hand, and things that expire."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from threading import TIMEOUT_MAX, Lock
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from ..errors import StoreError
from .base import CANCELLED, DEAD, DONE, RELEASE, RETRY, Count, Event, Outcome, Record, Schedule, Value

T = TypeVar("T")
Key = tuple[Any, ...]


class Heap:
    """Keys, of which the least is always at hand.

    Any key may be removed: its entry stays behind until it surfaces, or until most entries
    are such leftovers. So each call costs O(log n), spread over many.
    """

    __slots__ = ("_entries", "_present")

    def __init__(self) -> None:
        self._entries: list[Key] = []
        self._present: set[Key] = set()

    def __len__(self) -> int:
        return len(self._present)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._present)

    def add(self, key: Key) -> None:
        heapq.heappush(self._entries, key)
        self._present.add(key)

    def remove(self, key: Key) -> None:
        self._present.remove(key)
        if len(self._entries) > 2 * len(self._present) + 64:
            self._entries = sorted(self._present)

    def first(self) -> Key | None:
        while self._entries and self._entries[0] not in self._present:
            heapq.heappop(self._entries)
        return self._entries[0] if self._entries else None

    def up_to(self, bound: float = math.inf) -> Iterator[Key]:
        """The keys from the least on; whoever asks for the next has removed the one before."""
        while (key := self.first()) is not None and key[0] <= bound:
            yield key


class Sleepers:
    """Threads that wait for something to happen; `prepare` and `wake` are called under the store's lock.

    An interrupt may land anywhere in a sleep, and leaves nothing behind: each sleeps on a lock that nobody
    else keeps. (A Condition gives the store's lock back in the end, and may be interrupted just then.)
    """

    __slots__ = ("_alarms",)

    def __init__(self) -> None:
        self._alarms: WeakSet[Lock] = WeakSet()

    def prepare(self) -> Lock:
        """What `sleep` waits for: from here on no call of `wake` is missed."""
        alarm = Lock()
        alarm.acquire()
        self._alarms.add(alarm)
        return alarm

    @staticmethod
    def sleep(alarm: Lock, timeout: float) -> None:
        """Wait for the alarm, up to so many milliseconds; without the store's lock."""
        alarm.acquire(timeout=min(max(0.0, timeout / 1000), TIMEOUT_MAX))

    def wake(self) -> None:
        """Let all go on who have prepared for a sleep."""
        if self._alarms:
            for alarm in self._alarms:
                alarm.release()
            self._alarms.clear()


class Expiring(Generic[T]):
    """What is kept under keys, each until a time of its own (milliseconds since the epoch)."""

    __slots__ = ("_by_expiry", "_kept")

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[int, T]] = {}
        self._by_expiry = Heap()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)

    def items(self) -> Iterator[tuple[Any, T]]:
        return ((key, what) for key, (_, what) in self._kept.items())

    def get(self, key: Any, now: float = -math.inf) -> tuple[int, T] | None:
        """When it expires, and what it is; None if it is not there or has expired by `now`."""
        kept = self._kept.get(key)
        return kept if kept is not None and kept[0] > now else None

    def keep(self, key: Any, what: T, expires_at: int) -> None:
        self.drop(key)
        self._kept[key] = (expires_at, what)
        self._by_expiry.add((expires_at, key))

    def drop(self, key: Any) -> bool:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._by_expiry.remove((kept[0], key))
        return kept is not None

    def drop_all(self, doomed: Callable[[T], bool]) -> None:
        for key in [key for key, what in self.items() if doomed(what)]:
            self.drop(key)

    def sweep(self, now: int, limit: int) -> int:
        return sum(self.drop(key) for _, key in islice(self._by_expiry.up_to(now), limit))


@dataclass(slots=True)
class Shelf:
    """The messages of one actor in one queue that are to be run."""

    suspects: Heap = field(default_factory=Heap)
    waiting: Heap = field(default_factory=Heap)
    delayed: Heap = field(default_factory=Heap)

    def __len__(self) -> int:
        return len(self.suspects) + len(self.waiting) + len(self.delayed)

    def due(self) -> float:
        """When there is something to claim, in milliseconds: 0 if it is here, infinity if never."""
        if self.suspects or self.waiting:
            return 0
        first = self.delayed.first()
        return first[0] / 1000 if first else math.inf


_SHAPES: dict[type, dict[str, type | tuple[type, ...]]] = {
    Record: {
        "message_id": str,
        "queue": str,
        "actor": str,
        "body": bytes,
        "priority": int,
        "eta": (int, type(None)),
        "created_at": int,
    },
    Value: {"key": str, "data": bytes, "ttl": int, "until_revived": (str, type(None))},
    Count: {"key": str, "target": int, "ttl": int, "amount": int},
    Event: {"topic": str, "data": bytes, "ttl": int},
    Schedule: {"name": str, "due_at": int, "body": bytes},
}


def check(given: Iterable[Any]) -> None:
    """Raise what a file would raise for a field of the wrong type, and before anything is done."""
    for each in given:
        for name, shape in _SHAPES[type(each)].items():
            value = getattr(each, name)
            if not isinstance(value, shape):
                raise TypeError(
                    f"{type(each).__name__}.{name} is of type {type(value).__name__}, which no "
                    "store can keep there; encode the message before it is put"
                )


def check_outcome(outcome: Outcome) -> None:
    retry = [] if outcome.retry is None else [outcome.retry]
    if outcome.kind not in (DONE, RETRY, RELEASE, DEAD, CANCELLED) or (outcome.kind == RETRY and not retry):
        raise StoreError(f"{outcome.kind!r} is no ending, or one that lacks its record to retry")
    check([*retry, *outcome.puts, *outcome.values, *outcome.counts, *outcome.events])
    for count in outcome.counts:
        check(count.puts)
