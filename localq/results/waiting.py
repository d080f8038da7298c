"""Waiting for results without blocking an event loop: one thread waits for all who do."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..clock import clock
from ..store import Store

if TYPE_CHECKING:
    import asyncio

LINGER = 5.0
"""Seconds that the thread stays when nobody waits any more."""


class Waiter:
    """Waits in a store, on a thread of its own, for the values that coroutines wait for.

    Parameters:
      store: where the values will be.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.process = os.getpid()
        self._changed = threading.Condition()
        self._futures: dict[str, list[asyncio.Future[bytes]]] = {}
        """By key. The store looks anew at what keys there are whenever it is woken."""
        self._thread: threading.Thread | None = None

    async def wait(self, key: str, timeout: float) -> bytes | None:
        """What is under the key, waited for; None after `timeout` milliseconds."""
        import asyncio

        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._add(key, future)
        try:
            # Not `wait_for`: before Python 3.12 it swallows a cancelling that comes together with the value,
            # and an actor that waits would go on after its time limit.
            done, _ = await asyncio.wait([future], timeout=timeout / 1000)
            return future.result() if done else None
        finally:
            future.cancel()
            self._remove(key, future)

    def _add(self, key: str, future: asyncio.Future[bytes]) -> None:
        with self._changed:
            self._futures.setdefault(key, []).append(future)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="localq results", daemon=True)
                self._thread.start()
            self._changed.notify()
        self.store.wake()

    def _remove(self, key: str, future: asyncio.Future[bytes]) -> None:
        with self._changed:
            waiting = self._futures.get(key, [])
            if future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._futures[key]

    def _run(self) -> None:
        while self._has_work():
            try:
                found = self.store.wait_values(self._futures, clock=clock.wall, timeout=None)
            except Exception as error:  # whoever waits is told, whatever it is
                self._fail(error)
            else:
                self._deliver(found)

    def _has_work(self) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._futures, LINGER):
                self._thread = None
            return self._thread is not None

    def _deliver(self, found: dict[str, bytes]) -> None:
        with self._changed:
            for key in found.keys() & self._futures.keys():
                for future in self._futures.pop(key):
                    _call_in_its_loop(future, future.set_result, found[key])

    def _fail(self, error: Exception) -> None:
        with self._changed:
            for future in itertools.chain.from_iterable(self._futures.values()):
                _call_in_its_loop(future, future.set_exception, error)
            self._futures.clear()


def _call_in_its_loop(future: asyncio.Future[bytes], end: Callable[[Any], None], what: Any) -> None:
    def end_if_it_waits() -> None:
        if not future.done():
            end(what)

    with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        future.get_loop().call_soon_threadsafe(end_if_it_waits)
