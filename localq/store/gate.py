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

from ..errors import StoreBusy, StoreError, StoreReplaced
from ..files import Identity, is_still, map_file, refused
from ..locks import try_lock, unlock
from ..process_table import describe_process

FIRST_NAP = 0.000_02
LONGEST_NAP = 0.000_5
LONGEST_NAP_OF_ALL = 0.05
"""Seconds. Who has waited for long naps longer: a hundredth of what it has waited, so that it burns next to nothing
while somebody is stopped inside."""
LONGEST_SLICE = 1.0
"""Seconds that are counted at most between two looks at the clock."""

# The file: a byte that Windows locks, then what the holder writes there.
SIZE = 4096
_HOLDER = 8
_POSITION = 9
_FILES = 10  # three of two words each


class Patience:
    """How long somebody waits, of which only the time counts in which this process was awake.

    Who was stopped itself (SIGSTOP, a debugger) for longer than that has not waited for anybody.

    Parameters:
      timeout: milliseconds.
    """

    def __init__(self, timeout: float) -> None:
        self._left = self._all = timeout / 1000
        self._seen = time.monotonic()
        self._nap = FIRST_NAP

    def left(self) -> float:
        """Seconds that are left, not below 0."""
        now = time.monotonic()
        self._left = max(0.0, self._left - min(now - self._seen, LONGEST_SLICE))
        self._seen = now
        return self._left

    def nap(self, longest: float = LONGEST_NAP) -> None:
        """Sleep a little: longer each time, up to `longest` seconds or a hundredth of what was waited."""
        time.sleep(self._nap)
        waited = self._all - self._left
        self._nap = min(self._nap * 1.5, max(longest, waited / 100), LONGEST_NAP_OF_ALL)

FARTHEST = 2**62
"""No position comes near to it, in microseconds: what is beyond is damage, and is not counted on from."""


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
        self._is_taken = False
        """Whether the thread inside has the lock of the system too, and not only a place to wait for it."""
        self._identity: Identity | None = None
        self._words: memoryview | None = None
        self._map: mmap.mmap | None = None

    def __enter__(self) -> Gate:
        patience = None
        try:
            if not self._threads.acquire(blocking=False):
                patience = Patience(self._timeout)
                while not self._threads.acquire(timeout=min(patience.left(), LONGEST_SLICE / 2)):
                    if not patience.left():
                        raise self._busy()
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
            self._take(patience)
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
        if self._depth and self._is_owned():
            self._is_taken = False
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

    def _take(self, patience: Patience | None) -> None:
        if self._words is None:
            self._open()
        if not try_lock(self._descriptor):
            self._wait(patience or Patience(self._timeout))
        self._is_taken = True
        self._words[_HOLDER] = os.getpid()  # type: ignore[index]

    def _wait(self, patience: Patience) -> None:
        while not try_lock(self._descriptor):
            if not patience.left():
                raise self._busy()
            patience.nap()

    def _busy(self) -> StoreBusy:
        # A thread of this process that waits for the gate itself keeps nobody out: it is not the holder.
        holder = os.getpid() if self._is_taken else self.holder
        return StoreBusy(
            f"{'another thread of this process' if self._is_taken else describe_process(holder)} has held the "
            f"write gate {self.path!r} for more than {self._timeout / 1000:g} s; if it hangs or was stopped, "
            "continue or end it (nothing was written; what was accepted before is safe)",
            holder=holder,
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
        last = words[_POSITION]
        first = max(now * 1000, last + 1 if last < FARTHEST else 0)
        words[_POSITION] = first + count - 1
        return first

    def noted_files(self) -> list[Identity]:
        """What `note_files` was told last: three files that belong together. Call it inside the gate."""
        words = self._words
        assert words is not None
        return [(_unsigned(words[at]), _unsigned(words[at + 1])) for at in range(_FILES, _FILES + 6, 2)]

    def note_files(self, *files: Identity) -> None:
        """Remember three files. Call it inside the gate."""
        words = self._words
        assert words is not None
        for at, number in enumerate((number for file in files for number in file), _FILES):
            words[at] = _signed(number)

    def _open(self) -> None:
        try:
            self._descriptor, self._map = map_file(self.path, SIZE)
        except FileNotFoundError as error:
            raise StoreReplaced(
                f"{os.path.dirname(self.path)!r} was deleted while it was in use; nothing was written; close the "
                "broker and use it again, or restart this program"
            ) from error
        except OSError as error:
            raise refused(self.path, error) from error
        status = os.fstat(self._descriptor)
        self._identity = status.st_dev, status.st_ino
        self._words = memoryview(self._map).cast("q")

    @property
    def is_replaced(self) -> bool:
        """Whether its file, if it is open, is not the one at its path any more: what others take is not ours."""
        return self._words is not None and not is_still(self.path, self._identity)

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
            self._is_taken = False
            self._let_go()
        else:
            self._threads.release()


def _signed(number: int) -> int:
    return (number & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)


def _unsigned(number: int) -> int:
    return number & (1 << 64) - 1
