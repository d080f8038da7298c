"""Where the messages of async actors run: beside the threads that claim them, many at a time.

A coroutine that waits needs no thread, but the hooks around it do: they may block, keep something
for their thread, and have interrupts raised in it. So each message has a thread of its own from its
first hook to its last, which sleeps while the event loop runs the coroutine. The threads are
started when they are first needed.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .errors import StoreError
from .store import Record
from .worker_thread import Ended, WorkerThread, take

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
        self._worker = worker
        self._changed = threading.Condition()
        self._resting: list[AsyncRunner] = []
        self.ended: deque[Ended] = deque()
        self.writing = threading.Lock()
        """Held by the one runner that writes that."""

    def run(self, record: Record) -> bool:
        """Run the message; False if there is no room for it."""
        with self._changed:
            runner = self._resting.pop() if self._resting else self._start_another()
        if runner is not None:
            runner.messages.put(record)
        return runner is not None

    def _start_another(self) -> AsyncRunner | None:
        if len(self.threads) == self.size:
            return None
        runner = AsyncRunner(self, self._worker, self._worker.worker_threads + len(self.threads))
        try:
            runner.start()
        except RuntimeError as error:  # the system gives this process no more of them
            self.size = len(self.threads)
            self._worker.logger.warning("No more than %d async actors run at a time: %s.", self.size, error)
            return None
        self.threads.append(runner)
        return runner

    @property
    def room(self) -> int:
        """How many messages more could run now."""
        return self.size - len(self.threads) + len(self._resting)

    def rest(self, runner: AsyncRunner) -> None:
        """The runner has nothing to do any more."""
        with self._changed:
            was_full = not self.room
            self._resting.append(runner)
            self._changed.notify_all()
        if was_full:
            self._worker.broker.store.wake()  # threads that sleep have left async actors alone until now

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
        self._ended = lane.ended

    def stop(self) -> None:
        super().stop()
        self.messages.put(None)

    def _work_or_sleep(self) -> None:
        record = self.messages.get()
        if record is None:
            return
        self._run_one(record)
        self._write_what_ended()
        self._lane.rest(self)

    def _write_what_ended(self) -> None:
        # Who finds somebody writing leaves it to that one, who looks again before it rests: what ends
        # meanwhile is written together.
        writing = self._lane.writing
        while self._ended and not self._stopping and writing.acquire(blocking=False):
            try:
                self._write(take(self._ended))
                self._failures = 0
            except StoreError as error:
                self._pause_after(error)
            finally:
                writing.release()
