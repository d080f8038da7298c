"""The write gate: one lock that every write transaction and every checkpoint goes through.

Two reasons. SQLite's own busy handler naps up to 100 ms between two tries, so
that under load a writer can starve for seconds. And SQLite 3.7.0 to 3.51.2 has
a race between a checkpoint and another connection's commit that can corrupt
the file (https://sqlite.org/wal.html, "The WAL-Reset Bug"); behind the gate
the two never meet.

The lock is the operating system's, on a file of its own, and is held for one
transaction only. Retrying without blocking, after naps that grow, passes it on
faster than a blocking `flock` under contention, and is bounded by construction.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from types import TracebackType

from ..clock import Deadline
from ..errors import StoreBusy, StoreError
from ..locks import try_lock, unlock

FIRST_NAP = 0.000_02
LONGEST_NAP = 0.000_5

# The file: a byte that Windows locks, then what the holder writes there.
SIZE = 4096
_HOLDER = 8
_POSITION = 9


class Gate:
    """A lock between all threads and processes that write to one file.

    Parameters:
      path: the lock's own file.
      timeout: milliseconds to wait for it; then `StoreBusy` names the holder, since a process
        that was stopped inside must not hang all others for ever.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor = -1
        self._words: memoryview | None = None
        self._map: mmap.mmap | None = None

    def __enter__(self) -> Gate:
        try:
            if not self._threads.acquire(timeout=self._timeout / 1000):
                raise self._busy("another thread of this process")
        except BaseException:
            if self._is_owned() and not self._depth:  # a Ctrl-C that came with the lock
                self._threads.release()
            raise
        if self._depth:
            self._threads.release()
            raise StoreError(
                "the store is in the middle of a write on this same thread: a signal handler "
                "(or a callback of SQLite) must not use it; set a flag there and act on it later"
            )
        self._depth = 1
        try:
            self._take()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Open the gate again; whoever is not inside may call it too, which changes nothing.

        So it can be called once more when a Ctrl-C interrupted it.
        """
        if self.is_inside:
            if self._descriptor >= 0:
                unlock(self._descriptor)
            self._depth = 0
            self._threads.release()

    @property
    def is_inside(self) -> bool:
        """Whether this thread is inside."""
        return self._is_owned() and self._depth > 0

    def _is_owned(self) -> bool:
        return bool(self._threads._is_owned())  # type: ignore[attr-defined]

    def _take(self) -> None:
        if self._words is None:
            self._open()
        if not try_lock(self._descriptor):
            self._wait()
        self._words[_HOLDER] = os.getpid()  # type: ignore[index]

    def _wait(self) -> None:
        deadline = Deadline(self._timeout)
        nap = FIRST_NAP
        while not try_lock(self._descriptor):
            if deadline.passed():
                raise self._busy(f"process {self.holder}")
            time.sleep(nap)
            nap = min(nap * 1.5, LONGEST_NAP)

    def _busy(self, who: str) -> StoreBusy:
        return StoreBusy(
            f"{who} has held the write gate {self.path!r} for more than "
            f"{self._timeout / 1000:g} s; if it hangs or was stopped, continue or end it "
            "(nothing was written; what was accepted before is safe)",
            holder=self.holder,
        )

    @property
    def holder(self) -> int | None:
        """The process that holds the gate, or held it last."""
        return self._words[_HOLDER] or None if self._words is not None else None

    def next_position(self, now: int, count: int) -> int:
        """The first of `count` numbers (microseconds) above all that were given before.

        They follow the clock but never run backwards, whatever the clock does, so that messages
        keep the order in which they were stored. Call it inside the gate.
        """
        words = self._words
        assert words is not None
        first = max(now * 1000, words[_POSITION] + 1)
        words[_POSITION] = first + count - 1
        return first

    def _open(self) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {self.path!r} ({error.strerror}); look at its rights") from error
        try:
            if os.fstat(descriptor).st_size < SIZE:
                os.ftruncate(descriptor, SIZE)
            self._map = mmap.mmap(descriptor, SIZE)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Let go of the file; the next use opens it again. Not while this thread is inside."""
        with self._threads:
            if not self._depth:
                self._let_go()

    def _let_go(self) -> None:
        if self._words is not None and self._map is not None:
            self._words.release()
            self._map.close()
            os.close(self._descriptor)
            self._words = self._map = None
            self._descriptor = -1

    # A fork must find no other thread inside. The child gets a gate of its own: a descriptor that it
    # shared with its parent would let both in at once, and one's leaving would let out the other.

    def before_fork(self) -> None:
        self._threads.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._threads = threading.RLock()
            self._depth = 0
            self._let_go()
        else:
            self._threads.release()
