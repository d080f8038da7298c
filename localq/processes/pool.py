"""A pool of worker processes for as long as a block, a script or a program lasts."""

from __future__ import annotations

import os
import selectors
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from ..asyncio import in_a_thread
from ..broker import Broker, get_broker
from ..clock import Deadline
from ..errors import PoolError
from ..logging import get_logger
from ..threading import native_thread_count
from ..worker import ASYNC_CONCURRENCY
from . import application, child
from .config import PoolConfig, default_start_method
from .launch import STOP, Launched, launch
from .supervisor import supervise

START_TIMEOUT = 60_000
"""Milliseconds for the first worker processes to become ready."""
PATIENCE = 2_000
"""Milliseconds after which `stop` says what it is waiting for."""


class Pool:
    """Worker processes that run the messages of a broker, from `start` to `stop`; see `pool`."""

    def __init__(self, broker: Broker | None, config: PoolConfig) -> None:
        config.check()
        self._broker = broker
        self.config = config
        self._supervisor: Launched | None = None
        self._host = os.getpid()

    @property
    def broker(self) -> Broker:
        """Whose messages it runs."""
        return self._broker or get_broker()

    def __enter__(self) -> Pool:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Pool:
        # Here, not in a thread: a program of one thread can be forked.
        self._supervisor = self._launch()
        try:
            await self._await(self._wait_until_ready)
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._await(self.stop)

    async def _await(self, wait: Callable[[], None]) -> None:
        """Wait without blocking the event loop; who is cancelled meanwhile has the processes end at once."""
        import asyncio

        waiting = asyncio.ensure_future(in_a_thread(wait))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if self._supervisor is not None and not waiting.done():
                _order_to_end_at_once(self._supervisor)
            await asyncio.wait([waiting])
            raise

    def start(self) -> None:
        """Start the processes; returns when all are ready.

        Raises:
          PoolError: they cannot start, or cannot find the actors; the text says why.
        """
        self._supervisor = self._launch()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _launch(self) -> Launched:
        if self._supervisor is not None:
            raise PoolError("this pool is running already; stop it first, or make another")
        if application.importing_for_a_pool:
            raise PoolError(
                "a worker process came upon localq.pool(...) while it imported the program's main module; put "
                "the code that starts the pool under  if __name__ == '__main__':"
            )
        broker = self.broker
        if not broker.store.shared:
            raise PoolError(
                f"the messages at {broker.location.url!r} are in this process alone, where no worker process can "
                "see them; use sqlite:///jobs.db, or localq.Worker(broker) in this process"
            )
        config = self.config
        if config.start_method == "fork" and _is_safe_to_fork():
            child.preloaded = broker  # what is in memory here is in memory there
            try:
                return launch(supervise, config, "fork")
            finally:
                child.preloaded = None
        _check_that_actors_can_be_found(broker)
        config.main = application.preparation_of_main()
        config.modules = sorted({module for module in _modules_of(broker) if module != "__main__"})
        config.actors = sorted(broker.actors)
        config.url = broker.location.url
        return launch(supervise, config, "spawn")

    def _wait_until_ready(self) -> None:
        deadline = Deadline(START_TIMEOUT)
        while not deadline.passed():
            for report in self._reports(deadline):
                if report.get("ready"):
                    return
                why = report.get("traceback", "") + report.get("failed", "its supervisor ended")
                raise PoolError(f"the pool cannot start: {why}")
        raise PoolError(f"the pool cannot start: it was not ready after {START_TIMEOUT / 1000:g} s")

    def _reports(self, deadline: Deadline) -> list[dict[str, Any]]:
        assert self._supervisor is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._supervisor.report, selectors.EVENT_READ)
            selector.select((deadline.left() or 0) / 1000)
        reports = self._supervisor.read_reports()
        return [{}] if reports is None else reports

    def stop(self) -> None:
        """Stop claiming, let running messages come to their end (up to ``shutdown_timeout``), end all
        processes. What did not come to its end is waiting again. Stopping twice does no harm; a
        KeyboardInterrupt meanwhile kills the processes at once.

        Raises:
          PoolError: the pool had given up before, since its processes died one after the other.
        """
        if self._supervisor is None or self._host != os.getpid():
            return  # a child that the program forked may leave the block too: the pool is its parent's
        self._supervisor.order(STOP)
        try:
            failures = self._wait_for_end()
        except BaseException:
            self.kill()
            raise
        for failure in failures:
            raise PoolError(f"the pool gave up: {failure['failed']}")

    def _wait_for_end(self) -> list[dict[str, Any]]:
        """Returns why it had given up before, if it had."""
        supervisor = self._supervisor
        assert supervisor is not None
        patience = Deadline(PATIENCE)
        failures: list[dict[str, Any]] = []
        # Its end closes the pipe, which wakes this up; a zombie follows within moments.
        while (reports := supervisor.read_reports()) is not None:
            failures += [report for report in reports if "failed" in report]
            with selectors.DefaultSelector() as selector:
                selector.register(supervisor.report, selectors.EVENT_READ)
                left = patience.left()
                if not selector.select(None if left is None else left / 1000) and patience.passed():
                    get_logger(__name__).warning(
                        "The pool waits for running messages; Ctrl-C (again) ends them at once."
                    )
                    patience = Deadline(None)
        while supervisor.ended() is None:
            time.sleep(0.001)
        supervisor.close()
        self._supervisor = None
        return failures

    def kill(self) -> None:
        """End all processes at once. Nothing is lost: what they ran is waiting again."""
        if self._supervisor is not None:
            _order_to_end_at_once(self._supervisor)
            self._wait_for_end()

    @property
    def is_running(self) -> bool:
        """Whether its processes are there."""
        return self._supervisor is not None


def pool(
    broker: Broker | None = None,
    *,
    processes: int | None = None,
    threads: int = 1,
    async_concurrency: int = ASYNC_CONCURRENCY,
    queues: Iterable[str] = (),
    start_method: str | None = None,
    shutdown_timeout: int = 600_000,
    max_crashes: int = 3,
) -> Pool:
    """Worker processes for a ``with`` or ``async with`` block, or from ``start()`` to ``stop()``.

    They run the actors of this program, those in its main module included, and end with it,
    however it ends. On Linux they are forked from it where that is safe (it has one thread);
    elsewhere, and with ``start_method="spawn"``, they are fresh processes that import its main
    module: start the pool under ``if __name__ == "__main__":``.

    Parameters:
      broker: whose messages; the global one by default.
      processes: how many; one a core by default.
      threads: how many messages each runs at the same time; more for work that waits.
      async_concurrency: how many messages of async actors each runs besides; 0 to run them on the threads.
      queues: only these; by default all.
      start_method: "fork" or "spawn".
      shutdown_timeout: milliseconds that `stop` lets running messages go on.
      max_crashes: how often a message may end its process before it is a dead letter.

    Raises:
      PoolError: a value that cannot be; the text names all of them.
    """
    config = PoolConfig(
        processes=processes,
        threads=threads,
        async_concurrency=async_concurrency,
        queues=[queues] if isinstance(queues, str) else list(queues),
        start_method=start_method or default_start_method(),
        shutdown_timeout=shutdown_timeout,
        max_crashes=max_crashes,
    )
    return Pool(broker, config)


def _order_to_end_at_once(supervisor: Launched) -> None:
    for _ in range(2):  # as a second signal does, the second order kills
        supervisor.order(STOP)


def _is_safe_to_fork() -> bool:
    # A second thread may hold any lock at the moment of the fork, and the child would wait for it
    # for ever. A frozen program runs its whole self in the child.
    return native_thread_count() == 1 and not getattr(sys, "frozen", False)


def _modules_of(broker: Broker) -> set[str]:
    return {actor.fn.__module__ for actor in broker.actors.values() if getattr(actor.fn, "__module__", None)}


def _check_that_actors_can_be_found(broker: Broker) -> None:
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:
        return
    file = getattr(main, "__file__", None)
    if file is not None and os.path.exists(file):
        return
    lost = sorted(name for name, actor in broker.actors.items() if actor.fn.__module__ == "__main__")
    if lost:
        raise PoolError(
            f"fresh worker processes cannot find the actor {lost[0]!r}: it is defined in a main module that is "
            "no file (a notebook cell, 'python -c' or standard input); put it in a module and import that"
        )
