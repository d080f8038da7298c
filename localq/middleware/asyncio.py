"""Actors that are coroutines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..asyncio import EventLoopThread, get_event_loop_thread, is_async, set_event_loop_thread
from ..logging import get_logger
from .middleware import Middleware

if TYPE_CHECKING:
    from ..broker import Broker
    from ..worker import Worker

START_TIMEOUT = 1.0
"""Seconds for the event loop to come up."""


class AsyncIO(Middleware):
    """Runs an event loop in a thread of its own in each worker process, for ``async def`` actors.

    Parameters:
      only_if_needed: start it only where the broker has such an actor when the worker boots.
    """

    def __init__(self, *, only_if_needed: bool = False) -> None:
        self.logger = get_logger(__name__, type(self))
        self.only_if_needed = only_if_needed

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        if self.only_if_needed and not any(is_async(actor.fn) for actor in broker.actors.values()):
            return
        thread = EventLoopThread(self.logger)
        set_event_loop_thread(thread)  # one that is late is there for the actors when it has come up
        thread.start(timeout=START_TIMEOUT)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        thread = get_event_loop_thread()
        if thread is not None:
            thread.stop()
            thread.join()
            set_event_loop_thread(None)
