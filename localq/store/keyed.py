"""What the SQLite store keeps under a key: values, counters, events and schedules; for places see `places`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence

from ..clock import Deadline
from . import statements as sql
from .base import Count, Event, Record, Schedule, Value
from .bell import WANTS_EVENT, WANTS_VALUE, Bells, Place, mask
from .places import PlacesSQLite
from .rows import whole

SAFETY_LOOK = 1000
"""Milliseconds after which a sleeper looks again: whoever set its value may have died before it rang."""
LOOK_BATCH = 500
"""Keys that one statement looks for."""


class KeyedSQLite(PlacesSQLite):
    """The verbs about keys; `SQLiteStore` adds those about messages and workers."""

    bells: Bells

    def _insert(self, connection: sqlite3.Connection, records: Sequence[Record], now: int) -> None:
        raise NotImplementedError

    def _ring(self, records: Iterable[Record]) -> None:
        raise NotImplementedError

    # -- values

    def set_values(self, values: Iterable[Value], *, now: int) -> None:
        values = list(values)
        with self.database.write as connection:
            self._keep(connection, values, now)
        for value in values:
            self.bells.ring_value(value.key)

    def _keep(self, connection: sqlite3.Connection, values: Sequence[Value], now: int) -> None:
        if values:
            rows = [(value.key, value.data, now + value.ttl, value.until_revived) for value in values]
            connection.executemany(sql.SET_VALUE, rows)

    def get_value(self, key: str, *, now: int) -> bytes | None:
        with self.database.read as connection:
            row = connection.execute(sql.GET_VALUE, (key, now)).fetchone()
        return None if row is None else row[0]

    def wait_values(
        self, keys: Collection[str], *, clock: Callable[[], int], timeout: float | None
    ) -> dict[str, bytes]:
        deadline = Deadline(timeout)
        place = Place(self.bells)
        try:
            sleeper = place.take()
            while True:
                wanted = list(keys)
                sleeper.announce(WANTS_VALUE, mask(wanted))
                found = self._get_values(wanted, clock())
                if found or not wanted or deadline.passed():
                    return found
                left = deadline.left()
                sleeper.wait(SAFETY_LOOK if left is None else min(left, SAFETY_LOOK))
        finally:
            try:
                place.give_back()
            finally:  # again: an interrupt may have landed on the way there
                place.give_back()

    def _get_values(self, keys: Sequence[str], now: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self.database.read as connection:
            for first in range(0, len(keys), LOOK_BATCH):
                batch = keys[first : first + LOOK_BATCH]
                found.update(connection.execute(sql.get_values(len(batch)), (*batch, now)).fetchall())
        return found

    def delete_values(self, keys: Iterable[str]) -> int:
        with self.database.write as connection:
            return sum(connection.execute(sql.DELETE_VALUE, (key,)).rowcount for key in keys)

    # -- counters

    def add(self, key: str, value: int, ttl: int, *, now: int) -> bool:
        with self.database.write as connection:
            if connection.execute(sql.GET_COUNTER, (key, now)).fetchone() is not None:
                return False
            connection.execute(sql.SET_COUNTER, (key, value, now + ttl))
            return True

    def incr(self, key: str, amount: int, maximum: int, ttl: int, *, now: int) -> bool:
        with self.database.write as connection:
            value = _counter(connection, key, now) + amount
            return value <= maximum and _set_counter(connection, key, value, now + ttl)

    def decr(self, key: str, amount: int, minimum: int, ttl: int, *, now: int) -> bool:
        with self.database.write as connection:
            value = _counter(connection, key, now) - amount
            return value >= minimum and _set_counter(connection, key, value, now + ttl)

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
        wanted = list(keys())  # the caller's code, so not inside the transaction
        with self.database.write as connection:
            (total,) = connection.execute(sql.sum_counters(len(wanted)), (*wanted, now)).fetchone()
            value = _counter(connection, key, now) + amount
            if total + amount > maximum or value > maximum:
                return False
            return _set_counter(connection, key, value, now + ttl)

    def _count(self, connection: sqlite3.Connection, count: Count, now: int) -> bool:
        """Take one step; say whether it was the one that reached the target."""
        step = {"key": count.key, "amount": count.amount, "now": now, "until": now + count.ttl}
        (value,) = connection.execute(sql.STEP_COUNTER, step).fetchone()
        if value != count.target:
            return False
        connection.execute(sql.DELETE_COUNTER, (count.key,))
        count.reached = True
        return True

    # -- events and schedules

    def put_events(self, events: Sequence[Event], *, now: int) -> None:
        with self.database.write as connection:
            self._put_events(connection, events, now)
        for event in events:
            self.bells.ring_event(event.topic)

    def wait_events(
        self, topics: Sequence[str], *, after: int, timeout: float, limit: int = 100
    ) -> list[tuple[int, Event]]:
        sleeper = self.bells.borrow()
        try:
            sleeper.announce(WANTS_EVENT, mask(topics))
            found = self.events(topics, after=after, limit=limit)
            if found or not sleeper.wait(timeout):
                return found
            return self.events(topics, after=after, limit=limit)
        finally:
            sleeper.withdraw()
            self.bells.give_back(sleeper)

    def _put_events(self, connection: sqlite3.Connection, events: Sequence[Event], now: int) -> None:
        if events:
            rows = [(event.topic, event.data, now + event.ttl) for event in events]
            connection.executemany(sql.PUT_EVENT, rows)

    def events(self, topics: Sequence[str], *, after: int, limit: int = 100) -> list[tuple[int, Event]]:
        with self.database.read as connection:
            if topics:
                rows = connection.execute(sql.events_of(len(topics)), (*topics, after, limit))
            else:
                rows = connection.execute(sql.EVENTS, (after, limit))
            return [(sequence, Event(topic, data)) for sequence, topic, data in rows.fetchall()]

    def put_schedule(self, schedule: Schedule) -> None:
        with self.database.write as connection:
            connection.execute(sql.PUT_SCHEDULE, (schedule.name, schedule.due_at, schedule.body))

    def due_schedules(self, *, now: int) -> list[Schedule]:
        with self.database.read as connection:
            return [Schedule(*row) for row in connection.execute(sql.DUE_SCHEDULES, (now,)).fetchall()]

    def advance_schedule(self, schedule: Schedule, due_at: int, puts: Sequence[Record], *, now: int) -> bool:
        with self.database.write as connection:
            moved = connection.execute(sql.ADVANCE_SCHEDULE, (due_at, schedule.name, schedule.due_at))
            if moved.rowcount != 1:
                return False
            self._insert(connection, puts, now)
        self._ring(puts)
        return True

    def delete_schedule(self, name: str) -> bool:
        with self.database.write as connection:
            return connection.execute(sql.DELETE_SCHEDULE, (name,)).rowcount == 1


def _counter(connection: sqlite3.Connection, key: str, now: int) -> int:
    row = connection.execute(sql.GET_COUNTER, (key, now)).fetchone()
    return 0 if row is None else whole(row[0])


def _set_counter(connection: sqlite3.Connection, key: str, value: int, until: int) -> bool:
    connection.execute(sql.SET_COUNTER, (key, value, until))
    return True
