"""Events in a store of messages: whoever waits is woken, whichever process it is in.

A store wakes who waits for one key, but who waits here waits for keys that change meanwhile.
So each `notify` also rings a bell of its own number, and all wait for the next number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ...clock import Deadline, clock
from ...store import Store, Value
from ..backend import Event, EventBackend

LATEST = "localq-events:latest"
BELL = "localq-events:bell:"
BELL_TTL = 10 * 60 * 1000
"""Milliseconds that a rung bell can be heard: longer than anybody looks away."""
LATEST_TTL = 10 * 365 * 24 * 3600 * 1000
"""The number of the last bell is one row for each store, and stays."""


class StoreBackend(EventBackend):
    """Keeps events in a store.

    Parameters:
      store: an open one; a broker's is ``broker.store``.
      namespace: what the keys of the events begin with.
    """

    rereads_keys = True

    def __init__(self, store: Store, namespace: str = "localq-aborts") -> None:
        self.store = store
        self.namespace = namespace
        self._heard: int | None = None
        """The last bell that a `wait_many` of this process has heard."""
        self._busy_until = 0.0

    def wait_many(self, keys: Iterable[str], timeout: float) -> Event | None:
        if iter(keys) is keys:
            keys = list(keys)
        deadline = Deadline(timeout)
        heard = self._catch_up()
        while True:
            for key in keys:
                if (event := self.poll(key)) is not None:
                    return event
            left = deadline.left()
            rung = self.store.wait_value(f"{BELL}{heard + 1}", clock=clock.wall, timeout=left or 0)
            if rung is None:
                return None
            heard += 1
            self._hear(heard, int(rung))

    def poll(self, key: str) -> Event | None:
        name = self._name(key)
        data = self.store.get_value(name, now=clock.wall())
        if data is None or not self.store.delete_values([name]):
            return None
        return Event(key, json.loads(data))

    def notify(self, events: Iterable[Event], ttl: int) -> None:
        values = [Value(self._name(key), json.dumps(params).encode(), ttl) for key, params in events]
        if not values:
            return
        self.store.set_values(values, now=clock.wall())
        # Only then the number: who hears a later one, of somebody that was faster, finds these too.
        number = self._latest() + 1
        while not self.store.add(f"{BELL}{number}", 1, BELL_TTL, now=clock.wall()):
            number += 1
        bell = str(ttl).encode()
        rung = [Value(LATEST, str(number).encode(), LATEST_TTL), Value(f"{BELL}{number}", bell, BELL_TTL)]
        self.store.set_values(rung, now=clock.wall())

    def may_hold_any(self) -> bool:
        """Only while events that this process has heard of can still lie there."""
        return self._heard is None or bool(self._busy_until and clock.monotonic() < self._busy_until)

    def _catch_up(self) -> int:
        latest = self._latest()
        # A slower notifier may have written a lower number after a higher one.
        if self._heard is None or latest > self._heard:
            rung = self.store.get_value(f"{BELL}{latest}", now=clock.wall())
            self._hear(latest, int(rung or 0))
        elif latest == 0:
            self._heard = 0
        assert self._heard is not None
        return self._heard

    def _hear(self, number: int, ttl: int) -> None:
        if ttl:
            self._busy_until = max(self._busy_until, clock.monotonic() + ttl)
        self._heard = number

    def _latest(self) -> int:
        return int(self.store.get_value(LATEST, now=clock.wall()) or 0)

    def _name(self, key: str) -> str:
        return f"{self.namespace}:{key}"
