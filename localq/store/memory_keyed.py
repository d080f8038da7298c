"""The store in memory, its part for what has a key: values, counters, events and schedules."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ..threading import shielded
from .base import Count, Event, Record, Schedule, Store, Value
from .shelves import Expiring, Sleepers, check


class KeyedMemory(Store):
    """All under one lock, which nobody holds while it waits."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = Sleepers()
        self._happened = Sleepers()  # who waits for events sleeps through the rest
        self._wakes = 0
        self._last_event = 0
        self._values: Expiring[Value] = Expiring()
        self._counters: Expiring[int] = Expiring()
        self._holds: Counter[str] = Counter()
        self._events: Expiring[Event] = Expiring()
        self._schedules: dict[str, Schedule] = {}

    def _add(self, records: Iterable[Record], now: int) -> None:
        """Add messages, under the lock."""
        raise NotImplementedError

    # -- values

    def set_values(self, values: Iterable[Value], *, now: int) -> None:
        values = list(values)
        check(values)
        with shielded(), self._lock:
            self._keep(values, now)
            self._changed.wake()

    def get_value(self, key: str, *, now: int) -> bytes | None:
        with shielded(), self._lock:
            kept = self._values.get(key, now)
            return kept[1].data if kept else None

    def wait_values(
        self, keys: Collection[str], *, clock: Callable[[], int], timeout: float | None
    ) -> dict[str, bytes]:
        started = milliseconds()
        while True:
            with shielded(), self._lock:
                now = clock()
                wanted = list(keys)
                found = {key: kept[1].data for key in wanted if (kept := self._values.get(key, now))}
                left = math.inf if timeout is None else timeout - (milliseconds() - started)
                if found or not wanted or left <= 0:
                    return found
                alarm = self._changed.prepare()
            self._changed.sleep(alarm, left)

    def delete_values(self, keys: Iterable[str]) -> int:
        keys = list(keys)
        with shielded(), self._lock:
            return sum(self._values.drop(key) for key in keys)

    # -- counters

    def add(self, key: str, value: int, ttl: int, *, now: int) -> bool:
        with shielded(), self._lock:
            if self._counters.get(key, now) is not None:
                return False
            self._counters.keep(key, value, now + ttl)
            return True

    def incr(self, key: str, amount: int, maximum: int, ttl: int, *, now: int) -> bool:
        return self.incr_and_sum(key, lambda: [key], amount, maximum, ttl, now=now)

    def decr(self, key: str, amount: int, minimum: int, ttl: int, *, now: int) -> bool:
        with shielded(), self._lock:
            value = self._counter(key, now) - amount
            if value < minimum:
                return False
            self._counters.keep(key, value, now + ttl)
            return True

    def incr_and_sum(
        self,
        key: str,
        keys: Callable[[], Sequence[str]],
        amount: int,
        maximum: int,
        ttl: int,
        *,
        now: int,
    ) -> bool:
        summands = keys()  # the caller's code, so not under the lock
        with shielded(), self._lock:
            value = self._counter(key, now) + amount
            total = sum(self._counter(each, now) for each in summands) + amount
            if max(value, total) > maximum:
                return False
            self._counters.keep(key, value, now + ttl)
            return True

    # -- places under a limit: this process holds them all

    def hold(self, key: str, maximum: int) -> bool:
        with shielded(), self._lock:
            if self._holds[key] >= maximum:
                return False
            self._holds[key] += 1
            return True

    def let_go(self, key: str) -> None:
        with shielded(), self._lock:
            if self._holds[key] > 1:
                self._holds[key] -= 1
            else:
                del self._holds[key]  # of a Counter: no error where there is none

    # -- for tests

    def kept(self) -> dict[str, Any]:
        """A copy of all values, counters and places, by key, those included that have expired."""
        with shielded(), self._lock:
            values = {key: value.data for key, value in self._values.items()}
            return {**values, **dict(self._counters.items()), **self._holds}

    def forget_kept(self) -> None:
        """Forget them all."""
        with shielded(), self._lock:
            self._values, self._counters, self._holds = Expiring(), Expiring(), Counter()

    # -- events and schedules

    def put_events(self, events: Sequence[Event], *, now: int) -> None:
        check(events)
        with shielded(), self._lock:
            self._put_events(events, now)

    def wait_events(
        self, topics: Sequence[str], *, after: int, timeout: float, limit: int = 100
    ) -> list[tuple[int, Event]]:
        started, wakes = milliseconds(), self._wakes
        while True:
            with shielded(), self._lock:
                found = list(islice(self._events_after(after, frozenset(topics)), limit))
                left = timeout - (milliseconds() - started)
                if found or left <= 0 or wakes != self._wakes:
                    return found
                alarm = self._happened.prepare()
            self._happened.sleep(alarm, left)

    def events(self, topics: Sequence[str], *, after: int, limit: int = 100) -> list[tuple[int, Event]]:
        with shielded(), self._lock:
            return list(islice(self._events_after(after, frozenset(topics)), limit))

    def put_schedule(self, schedule: Schedule) -> None:
        check([schedule])
        with shielded(), self._lock:
            self._schedules[schedule.name] = replace(schedule)

    def due_schedules(self, *, now: int) -> list[Schedule]:
        with shielded(), self._lock:
            due = [replace(each) for each in self._schedules.values() if each.due_at <= now]
        return sorted(due, key=lambda schedule: (schedule.due_at, schedule.name))

    def advance_schedule(self, schedule: Schedule, due_at: int, puts: Sequence[Record], *, now: int) -> bool:
        check(puts)
        with shielded(), self._lock:
            kept = self._schedules.get(schedule.name)
            if kept is None or kept.due_at != schedule.due_at:
                return False
            kept.due_at = due_at
            self._add(puts, now)
            self._changed.wake()
            return True

    def delete_schedule(self, name: str) -> bool:
        with shielded(), self._lock:
            return self._schedules.pop(name, None) is not None

    # -- the steps of the verbs, all under the lock

    def _put_events(self, events: Iterable[Event], now: int) -> None:
        for event in events:
            self._last_event += 1
            self._events.keep(self._last_event, replace(event), now + event.ttl)
            self._happened.wake()

    def _count(self, count: Count, now: int) -> None:
        expires_at, value = self._counters.get(count.key, now) or (now + count.ttl, 0)
        value += count.amount
        if value == count.target:
            count.reached = True
            self._counters.drop(count.key)
            self._add(count.puts, now)
        else:
            self._counters.keep(count.key, value, expires_at)

    def _keep(self, values: Iterable[Value], now: int) -> None:
        for value in values:
            self._values.keep(value.key, replace(value), now + value.ttl)

    def _counter(self, key: str, now: int) -> int:
        kept = self._counters.get(key, now)
        return kept[1] if kept else 0

    def _events_after(self, after: int, topics: Collection[str]) -> Iterator[tuple[int, Event]]:
        oldest = next(iter(self._events), 0)
        for number in range(max(after + 1, oldest), self._last_event + 1):
            kept = self._events.get(number)
            if kept and (not topics or kept[1].topic in topics):
                yield number, replace(kept[1])


def milliseconds() -> float:
    return time.monotonic() * 1000
