"""A worker: what the threads that run messages in one process have in common."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import uuid4

from .async_lane import AsyncLane
from .asyncio import get_event_loop_thread, is_async
from .broker import Broker
from .cells import Cells
from .clock import Deadline, clock
from .common import getenv_int
from .consumer import Consumer
from .errors import StoreError, StoreReplaced
from .logging import get_logger
from .names import dq_name, q_name
from .store import Record, WorkerRecord
from .store.base import ALONE
from .timekeeper import Timekeeper
from .worker_thread import WorkerThread, no_lock

SHORT = 2.0
"""Milliseconds that an actor's runs usually stay below if they are run in bursts."""
WORKER_TIMEOUT = 1000
"""Milliseconds between two looks for what a bell may have missed, where neither the worker nor the
environment's ``dramatiq_worker_timeout`` says."""
CONSUMER_RESTART_DELAY = 3000
CONSUMER_RESTART_DELAY_SECS = CONSUMER_RESTART_DELAY / 1000
"""The longest pause between two tries while the store cannot be used, where the environment's
``dramatiq_restart_delay`` (milliseconds) does not say."""
QUEUE_PREFETCH = DELAY_QUEUE_PREFETCH = 0
"""Without effect, since nothing is prefetched; for who sets them."""
ASYNC_CONCURRENCY = 100
"""How many messages of async actors a process runs at the same time."""
NEWS = 0.1
"""How much the last run counts in how long an actor usually takes. Not the slowest one alone: on a machine that is
busy, any run may be interrupted for some milliseconds by the system, and says nothing about the next."""


class Worker:
    """Runs the messages of a broker on threads of this process.

    Parameters:
      broker: whose messages.
      queues: only these; by default all that the broker knows when the worker starts.
      worker_timeout: milliseconds between two looks for what a bell may have missed.
      worker_threads: how many messages run at the same time.
      async_concurrency: how many messages of async actors run at the same time, besides; 0 to run them
        on the same threads.
      supervisor: the process that will see how this one ends, and `pool` what it calls its own.
      max_crashes: how often a message may end its process before it is a dead letter.
      housekeeper: whether it looks, once a `worker_timeout`, for dead workers, for what has expired
        and for sleepers that no bell reached. One process of a pool does.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        queues: Iterable[str] | None = None,
        worker_timeout: int | None = None,
        worker_threads: int = 8,
        async_concurrency: int = ASYNC_CONCURRENCY,
        supervisor: int = 0,
        pool: str = "",
        max_crashes: int = 3,
        housekeeper: bool = True,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.broker = broker
        if worker_timeout is None:
            worker_timeout = getenv_int("dramatiq_worker_timeout", WORKER_TIMEOUT)
        self.worker_timeout = worker_timeout
        self.queue_prefetch, self.delay_prefetch = QUEUE_PREFETCH, DELAY_QUEUE_PREFETCH
        self._restart_delay = getenv_int("dramatiq_restart_delay")
        self.worker_threads = worker_threads
        self.async_concurrency = async_concurrency
        self.max_crashes = max_crashes
        self.housekeeper = housekeeper
        self.workers: list[Any] = []
        self.lane: AsyncLane | None = None
        """Where async actors run, if this process has an event loop for them."""
        self.skip: frozenset[str] = frozenset()
        """Actors that only other workers declare: their messages are left to those."""
        self.interrupts_by_signal = False
        self.before_join: Callable[[str], None] = lambda path: None
        """Called with the path of its cells before the store hears of this worker."""
        self.consumer_whitelist = None if queues is None else {q_name(name) for name in queues}
        """The queues that it was limited to; dramatiq's name, which hooks read."""
        self._supervisor = supervisor
        self._pool = pool
        self._usual: dict[str, float] = {}
        self._alone: _Turnstile | None = None
        self._running = False
        self._consumers: dict[str, ConsumerThread] = {}
        self.id = 0
        self.is_stranded = False
        """Whether it has ended since the store is not there any more that it joined."""
        self.cells: Cells | None = None
        self.timekeeper: Timekeeper | None = None

    # -- starting and stopping

    def start(self) -> None:
        """Join the store and start the threads."""
        self.boot()
        for thread in self.workers:
            thread.start()
        self.broker.emit_after("worker_boot", self)

    def boot(self) -> None:
        """All of `start` but the threads: for a process that runs its one thread itself."""
        if self.broker.keeps_messages_elsewhere:
            self.logger.warning(
                "A %s keeps its messages elsewhere, and gives them to consumers of its own. Workers of localq "
                "do not ask those: none of its messages will run.",
                type(self.broker).__name__,
            )
        self.broker.emit_before("worker_boot", self)
        self._running = True
        self._alone = _Turnstile() if self.worker_threads > 1 else None
        self.lane = None
        self._open_lane()
        self._join()
        self.broker.on_declare.append(self._serve_more)
        self.workers = [WorkerThread(self, number) for number in range(self.worker_threads)]
        self.timekeeper = Timekeeper(self)
        self.timekeeper.start()

    @property
    def threads(self) -> list[Any]:
        """All that run messages."""
        return [*self.workers, *(self.lane.threads if self.lane is not None else ())]

    @property
    def has_ended(self) -> bool:
        """Whether none of its threads runs any more."""
        return all(_has_ended(thread, 0) for thread in self.threads)

    @property
    def queues(self) -> list[str]:
        """What it serves: all that are declared, those declared since it started included."""
        chosen = self.consumer_whitelist
        return sorted(set(map(q_name, self.broker.queues) if chosen is None else chosen))

    @property
    def consumers(self) -> dict[str, ConsumerThread]:
        """For each queue that it serves and that is declared, in both forms of its name: a consumer."""
        declared = {q_name(name) for name in self.broker.queues}
        for queue in declared.intersection(self.queues):
            for name in (queue, dq_name(queue)):
                self._consumers.setdefault(name, ConsumerThread(self.broker, name))
        return dict(self._consumers)

    @property
    def longest_pause(self) -> float:
        """Seconds of the longest pause between two tries while the store cannot be used."""
        return CONSUMER_RESTART_DELAY_SECS if self._restart_delay is None else self._restart_delay / 1000

    def _open_lane(self) -> None:
        if self.lane is None and self.async_concurrency and get_event_loop_thread() is not None:
            self._alone = self._alone or _Turnstile()
            self.lane = AsyncLane(self, self.async_concurrency)

    def _serve_more(self) -> None:
        self._open_lane()
        self.broker.store.wake()

    def _join(self) -> None:
        store = self.broker.store
        name = uuid4().hex
        path = store.worker_path(name)
        if path is not None:
            # Before the store hears of this worker: from then on a free lock means death.
            self.cells = Cells(path, self.worker_threads + self.async_concurrency, self._supervisor)
            self.before_join(path)
        actors = sorted(self.broker.get_declared_actors())
        record = WorkerRecord(name, os.getpid(), self.queues, actors, self.worker_threads, self._pool)
        self.id = store.join(record, now=clock.wall())
        store.reap(now=clock.wall(), max_crashes=self.max_crashes)

    def stop(self, timeout: int = 600_000) -> None:
        """Stop claiming, let what runs come to its end, give the rest back, leave.

        Parameters:
          timeout: milliseconds for what runs; what still runs then goes back to the queue, to be
            run by another, although its thread cannot be stopped.
        """
        if not self._running:
            return
        deadline = Deadline(timeout)
        self.broker.announce("worker_shutdown", self)
        self.begin_to_stop()
        for thread in self.threads:
            while not _has_ended(thread, 0.05) and not deadline.passed():
                self.broker.store.wake()  # again and again: it may have been about to lie down
        self.leave()
        self.broker.emit_after("worker_shutdown", self)

    def begin_to_stop(self) -> None:
        """Claim no more, and give back what has not started."""
        if self.lane is not None:
            self.lane.close()  # so that no thread of it is overlooked here
        for thread in self.threads:
            thread.stop()
        for thread in self.threads:
            if isinstance(thread, WorkerThread):
                thread.give_back()
        self.broker.store.wake()
        self.logger.info("Stopping: no further message is started.")

    def leave(self) -> None:
        """Sign off from the store: what still runs here goes back to its queue."""
        self._running = False
        if self._serve_more in self.broker.on_declare:
            self.broker.on_declare.remove(self._serve_more)
        if self.timekeeper is not None:
            self.timekeeper.stop()
        for thread in self.threads:
            if isinstance(thread, WorkerThread):
                thread.give_back()
        for consumer in self._consumers.values():
            consumer.close()
        try:
            self.broker.store.leave(self.id, now=clock.wall())
        except StoreError as error:
            if not self.is_stranded:
                self.logger.error("Cannot sign off; the next worker gives back what is left here: %s", error)
        if self.cells is not None:
            cells, self.cells = self.cells, None
            if self.has_ended:
                cells.close()
            else:
                cells.remove()  # a thread still writes in it, and nobody will read it

    def strand(self, error: StoreReplaced) -> None:
        """The store is not there any more that this worker joined: all that it had claimed is gone with it, so its
        threads end. Whoever has started it may start another one."""
        if self.is_stranded:
            return
        self.is_stranded = True
        self.logger.critical("This worker ends: %s", error)
        if self.lane is not None:
            self.lane.close()
        for thread in self.threads:
            thread.stop()
        self.broker.store.wake()

    def join(self) -> None:
        """Wait until its queues have nothing waiting, delayed or running, and the hooks after that ran."""
        for queue in self.queues:
            self.broker.wait_until_done(queue)
        for thread in self.threads:
            while getattr(thread, "telling", 0):
                time.sleep(0.001)

    def pause(self) -> None:
        """Let what runs come to its end and start nothing more; returns when all threads rest."""
        for thread in self.workers:
            thread.pause()
        if self.lane is not None:
            self.lane.close()
        self.broker.store.wake()
        for thread in self.workers:
            while not thread.paused_event.wait(0.05) and not _has_ended(thread, 0):
                self.broker.store.wake()  # again and again: it may have been about to lie down
        if self.lane is not None:
            self.lane.wait_until_idle()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self.lane is not None:
            self.lane.open()
        for thread in self.workers:
            thread.resume()

    # -- what its threads have in common

    def left_alone(self) -> frozenset[str]:
        """Actors whose messages its threads are not to claim now: those that are left to other workers,
        and async ones while there is no room for them."""
        if self.lane is None or self.lane.room:
            return self._left_to_others()
        return self._left_to_others() | self._actors(are_async=True)

    def left_to_threads(self) -> frozenset[str]:
        """Actors whose messages its lane is not to claim."""
        return self._left_to_others() | self._actors(are_async=False)

    def _left_to_others(self) -> frozenset[str]:
        # Not one that has been declared here since.
        return self.skip - self.broker.actors.keys() if self.skip else self.skip

    def _actors(self, *, are_async: bool) -> set[str]:
        declared = list(self.broker.actors.items())  # others may be declared meanwhile
        return {name for name, actor in declared if is_async(actor.fn) is are_async}

    def is_async(self, actor_name: str) -> bool:
        """Whether it is an actor that runs in the event loop."""
        actor = self.broker.actors.get(actor_name)
        return actor is not None and is_async(actor.fn)

    def leave_to_others(self, actor_name: str) -> bool:
        """Whether an actor unknown here is declared by another worker that lives: its messages are
        then left to that one from now on."""
        known = any(actor_name in worker.actors and worker.id != self.id for worker in self.broker.store.workers())
        if known:
            self.skip |= {actor_name}
        return known

    def is_short(self, actor_name: str) -> bool:
        """Whether the recent runs of an actor were short."""
        return self._usual.get(actor_name, SHORT) < SHORT

    def learn(self, actor_name: str, millis: float) -> float:
        """Remember how long a run took; returns how long the actor's usually take."""
        before = self._usual.get(actor_name, millis)
        usual = self._usual[actor_name] = before + (millis - before) * NEWS
        return usual

    def watch_bursts(self) -> None:
        """A thread has started on a burst: the timekeeper must have an eye on it."""
        if self.timekeeper is not None:
            self.timekeeper.watch_bursts()

    @property
    def has_suspect(self) -> bool:
        """Whether a suspect runs here, or waits until nothing else does."""
        return self._alone is not None and self._alone.is_taken

    def turn_for(self, record: Record) -> AbstractContextManager[Any]:
        """The right to run a message: a suspect runs while nothing else does in this process."""
        if self._alone is None:
            return no_lock
        return self._alone.enter(record.lane == ALONE)


class ConsumerThread:
    """What dramatiq has one of for each queue; here it only holds a consumer, made when it is asked for."""

    def __init__(self, broker: Broker, queue_name: str) -> None:
        self.broker = broker
        self.queue_name = queue_name
        self._consumer: Consumer | None = None

    @property
    def consumer(self) -> Consumer:
        """A consumer on the queue."""
        if self._consumer is None:
            self._consumer = self.broker.consume(self.queue_name)
        return self._consumer

    def close(self) -> None:
        """Close the consumer, if there is one."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


_WorkerThread, _ConsumerThread = WorkerThread, ConsumerThread  # older names, which packages take from here


def _has_ended(thread: Any, seconds: float) -> bool:
    if isinstance(thread, WorkerThread):
        return thread.ended.wait(seconds)
    thread.join(seconds)
    return not thread.is_alive()


class _Turnstile:
    """Lets many through together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self.is_taken = False
        """Whether somebody is alone, or waits to be."""

    @contextmanager
    def enter(self, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self.is_taken)
            if alone:
                self.is_taken = True
                self._changed.wait_for(lambda: not self._inside)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if alone:
                    self.is_taken = False
                self._changed.notify_all()
