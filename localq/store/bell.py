"""Bells: waking a process that sleeps until there is something for it.

Every sleeping thread has a slot in a small table that all processes map into
memory, and a FIFO of its own. The slot says whether its owner is asleep and
what for. A sender looks into the table after its commit, which costs next to
nothing when nobody sleeps, and writes one byte to the FIFO of one sleeper that
wants what came (of all that do, for a value). One shared FIFO does worse: a
byte wakes any two of four, and unread bytes pile up into a storm.

A sleeper announces itself, looks at the store once more, and only then waits,
so that nothing falls between. A bell is never the only hope: waits are bounded
and the housekeeper looks for sleepers that were forgotten.

Where the system has no FIFO (Windows), or gives none now (a full disk), or all
slots are taken, a sleeper naps and looks whether the file has changed.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable
from zlib import crc32

from ..clock import Deadline
from ..files import make_private, map_file, open_own, refused
from ..locks import NO_LINK, try_lock
from ..threading import shielded

SLOTS = 512
AWAKE, WANTS_MESSAGE, WANTS_SOME_MESSAGE, WANTS_VALUE, WANTS_EVENT = b"\0", b"m", b"s", b"v", b"e"
"""What a sleeper does, or sleeps for: a message of its queues, or one of some actors only, ..."""

FIRST_NAP = 0.000_5
LONGEST_NAP = 0.02

_has_fifo = hasattr(os, "mkfifo")
_SIZE = SLOTS * 9  # a byte a slot for its state, then eight for what it wants


def mask(names: Iterable[str]) -> int:
    """A word with one bit a name. Two names may share one: that costs a look in vain, no more."""
    word = 0
    for name in names:
        word |= 1 << (crc32(name.encode("utf-8", "surrogatepass")) & 63)
    return word


class Sleeper:
    """One thread's place to sleep: announce, look once more, wait, withdraw."""

    def announce(self, state: bytes, wants: int) -> None:
        raise NotImplementedError

    def wait(self, timeout: float | None) -> bool:
        """Sleep up to `timeout` milliseconds (None: for ever); say whether a bell rang."""
        raise NotImplementedError

    def withdraw(self) -> None:
        raise NotImplementedError

    def ring(self) -> None:
        """End the wait; called by another thread of the same process."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Bells:
    """All sleepers of one store, in whatever process they are.

    Parameters:
      folder: where the table and the FIFOs are; it exists.
      changed: makes a function that says whether the store has changed since it was last asked;
        for sleepers without a FIFO.
    """

    def __init__(self, folder: str, changed: Callable[[], Callable[[], bool]]) -> None:
        self._folder = folder
        self._changed = changed
        self._lock = threading.RLock()  # a signal handler may find its own thread inside
        self._free: list[Sleeper] = []
        self._busy: set[Sleeper] = set()
        self._table = _Table(os.path.join(folder, "table")) if _has_fifo else None

    def ring(self, name: str, count: int = 1) -> None:
        """There are `count` new messages in that queue: wake as many of those who want them, and first
        those who want any: whoever leaves some actors alone may have come in vain."""
        left = self._wake(WANTS_MESSAGE, name, count)
        self._wake(WANTS_SOME_MESSAGE, name, left)

    def pass_on(self, name: str) -> None:
        """There may be messages in that queue that somebody else leaves alone, or leaves for now: wake one
        who wants any."""
        self._wake(WANTS_MESSAGE, name, 1)

    def ring_value(self, key: str) -> None:
        """There is something under that key: wake all who wait for it."""
        self._wake(WANTS_VALUE, key, SLOTS)

    def ring_event(self, topic: str) -> None:
        """There is a new event of that topic: wake all who wait for it."""
        self._wake(WANTS_EVENT, topic, SLOTS)

    def _wake(self, state: bytes, name: str, count: int) -> int:
        """Wake up to `count` sleepers; say how many that are too few."""
        table = self._table
        if table is None:
            return 0
        slot = table.states.find(state, 0, SLOTS)
        if slot >= 0:
            wants = mask((name,))
            with shielded():  # an interrupt in there would leave a file open
                while slot >= 0 and count > 0:
                    if table.wants[slot] & wants:
                        table.states[slot] = AWAKE[0]  # so that the next sender wakes another
                        count -= _write_byte(self._path(slot))
                    slot = table.states.find(state, slot + 1, SLOTS)
        return count

    def forget_the_dead(self) -> None:
        """Ring no more for those who died asleep. Others would find that out only when they ring."""
        table = self._table
        if table is None:
            return
        for slot, state in enumerate(table.states[:SLOTS]):
            if state != AWAKE[0]:
                with contextlib.suppress(OSError):  # no right now, or no descriptor left
                    lock = _lock_file(self._path(slot) + ".lock")
                    if lock is not None:
                        table.states[slot] = AWAKE[0]
                        os.close(lock)

    def borrow(self) -> Sleeper:
        """A place to sleep, to be given back."""
        with self._lock:
            sleeper = self._free.pop() if self._free else self._make()
            self._busy.add(sleeper)
            return sleeper

    def give_back(self, sleeper: Sleeper) -> None:
        with self._lock:
            self._busy.discard(sleeper)
            if self._table is None or isinstance(sleeper, _FifoSleeper):
                self._free.append(sleeper)  # who naps looks for a slot of its own the next time

    def wake_own(self) -> None:
        """End every wait of this process."""
        with self._lock:
            for sleeper in self._busy:
                sleeper.ring()

    def _path(self, slot: int) -> str:
        return os.path.join(self._folder, str(slot))

    def _make(self) -> Sleeper:
        if self._table is not None:
            with contextlib.suppress(OSError):  # no right, no descriptor left
                for slot in range(SLOTS):
                    lock = _lock_file(self._path(slot) + ".lock")
                    if lock is not None and (sleeper := self._make_in(slot, lock)) is not None:
                        return sleeper
        return _NappingSleeper(self._changed())

    def _make_in(self, slot: int, lock: int) -> Sleeper | None:
        assert self._table is not None
        try:
            return _FifoSleeper(self._table, slot, self._path(slot), lock)
        except OSError:  # no room on the disk, or something else is in the place of its FIFO
            os.close(lock)
            return None

    def close(self) -> None:
        """Let go of all files. Nobody of this process sleeps any more."""
        with self._lock:
            for sleeper in (*self._free, *self._busy):
                sleeper.close()
            self._free.clear()
            self._busy.clear()
            if self._table is not None:
                self._table.close()
                self._table = None

    def forget_in_child(self) -> None:
        """After a fork, in the child: the slots are the parent's, and so are their locks."""
        self._lock = threading.RLock()
        for sleeper in (*self._free, *self._busy):
            if isinstance(sleeper, _FifoSleeper):
                sleeper.let_go()
        self._free.clear()
        self._busy.clear()


class Place:
    """A sleeper that is given back once, for a thread that may be interrupted: one that was not given back
    would keep its slot and its files as long as the process lives."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._sleeper: Sleeper | None = None

    def take(self) -> Sleeper:
        with shielded():
            self._sleeper = sleeper = self._bells.borrow()
        return sleeper

    def give_back(self) -> None:
        with shielded():
            sleeper, self._sleeper = self._sleeper, None
            if sleeper is not None:
                sleeper.withdraw()
                self._bells.give_back(sleeper)


class _Table:
    def __init__(self, path: str) -> None:
        try:
            descriptor, self.states = map_file(path, _SIZE)
        except OSError as error:
            raise refused(path, error) from error
        os.close(descriptor)
        self._view = memoryview(self.states)[SLOTS:]
        self.wants = self._view.cast("Q")

    def close(self) -> None:
        self.wants.release()
        self._view.release()
        self.states.close()


def _lock_file(path: str) -> int | None:
    try:
        descriptor = open_own(path)
    except OSError:  # there is something else in its place, or no descriptor left
        return None
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _open_fifo(path: str) -> int:
    """A FIFO, open for both ends, so that it never reports that the last writer has gone."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)  # a file, say, would be ready to be read all the time
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
        make_private(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | NO_LINK)


def _write_byte(path: str) -> int:
    """Ring; say whether somebody is there to hear it (1) or not (0)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | NO_LINK)
    except OSError:  # its owner is dead (ENXIO), or gone with its folder
        return 0
    try:
        os.write(descriptor, b"!")
    except BlockingIOError:  # so full of bytes that it will wake anyway
        return 1
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return 1


class _FifoSleeper(Sleeper):
    def __init__(self, table: _Table, slot: int, path: str, lock: int) -> None:
        self._table, self._slot, self._lock = table, slot, lock
        self._fifo = _open_fifo(path)
        self._poll = select.poll()
        self._poll.register(self._fifo, select.POLLIN)
        self.withdraw()  # the slot may be that of a sleeper that died
        self._drain()

    def announce(self, state: bytes, wants: int) -> None:
        self._table.wants[self._slot] = wants
        self._table.states[self._slot] = state[0]

    def wait(self, timeout: float | None) -> bool:
        return bool(self._poll.poll(timeout)) and self._drain()

    def _drain(self) -> bool:
        try:
            return bool(os.read(self._fifo, 4096))
        except BlockingIOError:
            return False

    def withdraw(self) -> None:
        self._table.states[self._slot] = AWAKE[0]

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._fifo, b"!")

    def close(self) -> None:
        self.withdraw()
        self.let_go()

    def let_go(self) -> None:
        os.close(self._fifo)
        os.close(self._lock)


class _NappingSleeper(Sleeper):
    def __init__(self, changed: Callable[[], bool]) -> None:
        self._changed = changed
        self._rung = threading.Event()

    def announce(self, state: bytes, wants: int) -> None:
        self._changed()

    def wait(self, timeout: float | None) -> bool:
        deadline = Deadline(timeout)
        nap = FIRST_NAP
        while not deadline.passed():
            if self._rung.wait(nap) or self._changed():
                return True
            nap = min(nap * 1.5, LONGEST_NAP)
        return False

    def withdraw(self) -> None:
        self._rung.clear()

    def ring(self) -> None:
        self._rung.set()

    def close(self) -> None:
        pass
