"""Actors that are coroutines."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..asyncio import EventLoopThread, get_event_loop_thread, is_async, set_event_loop_thread, users
from ..logging import get_logger
from .middleware import Middleware

if TYPE_CHECKING:
    from ..actor import Actor
    from ..broker import Broker
    from ..worker import Worker

START_TIMEOUT = 1.0
"""Seconds for the event loop to come up."""

_starting = threading.Lock()


class AsyncIO(Middleware):
    """Runs an event loop in a thread of its own in each worker process, for ``async def`` actors. All
    workers of a process share it.

    Parameters:
      only_if_needed: start it only when the broker has such an actor: when the worker boots, or
        when one is declared while it runs.
    """

    def __init__(self, *, only_if_needed: bool = False) -> None:
        self.logger = get_logger(__name__, type(self))
        self.only_if_needed = only_if_needed
        self._without: list[Worker] = []
        """Workers that run and have not needed a loop yet."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        with _starting:
            self._without.append(worker)
            if not self.only_if_needed or any(is_async(actor.fn) for actor in broker.actors.values()):
                self._serve_all()

    def after_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        if self._without and is_async(actor.fn):
            with _starting:
                self._serve_all()

    def _serve_all(self) -> None:
        served, self._without = self._without, []
        try:
            if get_event_loop_thread() is None:
                thread = EventLoopThread(self.logger)
                set_event_loop_thread(thread)  # one that is late is there for the actors when it has come up
                thread.start(timeout=START_TIMEOUT)
        finally:
            users.update(served)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        users.discard(worker)
        if worker in self._without:
            self._without.remove(worker)
        thread = get_event_loop_thread()
        if thread is not None and not users:
            thread.stop()
            thread.join()
            set_event_loop_thread(None)
