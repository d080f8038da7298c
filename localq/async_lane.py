"""Where the messages of async actors run: beside the threads that claim them, many at a time.

A coroutine that waits needs no thread, but the hooks around it do: they may block, keep something
for their thread, and have interrupts raised in it. So each message has a thread of its own from its
first hook to its last, which sleeps while the event loop runs the coroutine. The threads are
started when they are first needed.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .clock import clock
from .errors import StoreError
from .store import Claim, Outcome, Record
from .store.base import ALONE
from .worker_thread import WorkerThread, released, take

if TYPE_CHECKING:
    from .worker import Worker


class AsyncLane:
    """The threads that a worker has for async actors.

    Parameters:
      worker: whose messages.
      size: how many run at the same time.
    """

    def __init__(self, worker: Worker, size: int) -> None:
        self.size = size
        self.threads: list[AsyncRunner] = []
        self.is_open = True
        self.filling = threading.Lock()
        """Held by the worker's thread that claims and hands over: so there is room for all it gets."""
        self._worker = worker
        self._changed = threading.Condition()
        self._resting: list[AsyncRunner] = []
        self._has_warned = False

    @property
    def room(self) -> int:
        """How many messages more could run now."""
        return self.size - len(self.threads) + len(self._resting)

    def run(self, record: Record) -> bool:
        """Run the message here; False if whoever claimed it is to run it: it is not an async actor's, or a
        suspect (which runs alone, so one thread is enough), or the lane is closed or gets no thread."""
        if not self._worker.is_async(record.actor) or record.lane == ALONE:
            return False
        with self._changed:
            runner = self._free_runner() if self.is_open else None
            if runner is not None:
                runner.messages.put(record)
        return runner is not None

    def _free_runner(self) -> AsyncRunner | None:
        if self._resting:
            return self._resting.pop()
        if not self.room:
            return None
        runner = AsyncRunner(self, self._worker, self._worker.worker_threads + len(self.threads))
        try:
            runner.start()
        except RuntimeError as error:  # the system gives this process no more of them
            if not self._has_warned:
                self._worker.logger.warning("Async actors run on the worker's threads, too: %s.", error)
            self._has_warned = True
            return None
        self.threads.append(runner)
        return runner

    def next_claim(self) -> Claim | None:
        """What a runner asks for whose message has ended. While the lane is full the worker's threads
        leave async actors alone, so it takes the next one itself; else those threads see to it."""
        worker = self._worker
        if self.room or not self.is_open or worker.has_suspect:
            return None
        return Claim(worker.id, worker.queues, 1, worker.left_to_threads())

    def rest(self, runner: AsyncRunner) -> None:
        """The runner has nothing to do any more."""
        with self._changed:
            was_full = not self.room
            self._resting.append(runner)
            self._changed.notify_all()
        if was_full and self.is_open:
            self._worker.broker.store.wake()  # threads that sleep have left async actors alone until now

    def close(self) -> None:
        """Take no further message, until it is opened again."""
        with self._changed:
            self.is_open = False

    def open(self) -> None:
        """Take messages again."""
        self.is_open = True

    def wait_until_idle(self) -> None:
        """Return when nothing runs."""
        with self._changed:
            self._changed.wait_for(lambda: self.room == self.size)


class AsyncRunner(WorkerThread):
    """A thread that runs the messages it is given, one after the other."""

    def __init__(self, lane: AsyncLane, worker: Worker, number: int) -> None:
        super().__init__(worker, number)
        self.messages: SimpleQueue[Record | None] = SimpleQueue()
        self._lane = lane

    def stop(self) -> None:
        super().stop()
        self.messages.put(None)

    def _work_or_sleep(self) -> None:
        record = self.messages.get()
        if record is None:
            return
        while record is not None and not self._stopping:
            self._run_one(record)
            record = self._write_and_claim()
        if record is not None:
            self._ended.append(released(record))
        self._lane.rest(self)

    def _write_and_claim(self) -> Record | None:
        """Write what became of a message; the next one to run, if this thread is to run one."""
        while self._ended and not self._stopping:
            try:
                claimed = self._write(take(self._ended), self._lane.next_claim())
                self._failures = 0
            except StoreError as error:
                self._pause_after(error)
                continue
            if claimed and self._lane.is_open:
                return claimed[0]
            self._ended.extend(map(released, claimed))
        return None

    def _finish(self, outcomes: list[Outcome], claim: Claim | None) -> list[Record]:
        return self.broker.store.finish(outcomes, now=clock.wall(), claim=claim)
