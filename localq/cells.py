"""What each thread of a worker process runs: a file that outlives the process.

The worker holds the operating system's lock on it from before its first claim
to its death; that lock, and nothing else, says whether it lives. Inside, one
cell a thread tells which message it runs, since when, and until when it may.
The supervisor, who alone learns how a process ended, writes that here too.
Who wants a message to be ended for good writes into its cell when that is due
(`doom`), and the supervisor kills the process then, whatever it is doing; so it
does for one that has run past its limit. Behind the cells the interpreter writes
where each thread was when the process crashed. Whoever gives the dead worker's
messages back reads all that.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import stat
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .files import map_open_file, refused
from .locks import NO_LINK, try_lock
from .process_table import born, is_alive

HEADER = 16  # words; the first is the byte that Windows locks, so nobody reads it
_SUPERVISOR, _SUPERVISOR_BORN, _END, _STATUS, _THREADS = 1, 2, 3, 4, 5
CELL = 7  # words: sequence, claim, since, until, and of what is doomed: sequence, claim, due
_DOOM = 4  # where the last three begin
WORD = 8
LONGEST = 2**24
"""Bytes that such a file never reaches."""

STACK_SIGNAL = getattr(signal, "SIGQUIT", None)
"""Has a worker process write where each of its threads is; None where there is no such signal."""
LONGEST_STACK = 16_384
"""Characters of that which are kept."""
TELLING = ("Fatal Python error", "Current thread", "in _call_actor", "in run_forever")
"""What stands in the part about a thread that ran a task, or crashed; the others are ours."""

UNKNOWN, CRASHED, ORDERED, DOOMED = 0, 1, 2, 3
"""How a process ended: nobody saw it, by itself, because its supervisor ended it, or because it did so
for a message that was doomed."""


@dataclass(slots=True, frozen=True)
class Running:
    """One message that a thread runs, and the one that is doomed in this cell: `since`, `until` (0: for
    ever) and `due` in monotonic milliseconds."""

    sequence: int
    claim: int
    since: int
    until: int
    doomed_sequence: int
    doomed_claim: int
    due: int

    @property
    def is_doomed(self) -> bool:
        """Whether it is this very message that is to be ended."""
        return self.due > 0 and (self.doomed_sequence, self.doomed_claim) == (self.sequence, self.claim)

    @property
    def is_past_its_limit(self) -> bool:
        """Of one that was doomed: whether that was for its time limit."""
        return 0 < self.until <= self.due

    def time_left(self, now: float, asleep: float) -> float:
        """Milliseconds until it is to be ended by force; infinite if it never is. Its own limit is not
        charged for the `asleep` milliseconds that its process was stopped."""
        limit = self.until + asleep if self.until else float("inf")
        return min(limit, self.due if self.is_doomed else limit) - now


@dataclass(slots=True, frozen=True)
class Death:
    """How a worker ended, and what it was running then."""

    end: int
    status: int
    """As `subprocess` has it: the exit status, or minus the signal."""
    running: list[Running]
    stack: str = ""
    """Where its threads were, as the interpreter wrote it."""


class Cell:
    """The cell of one thread."""

    __slots__ = ("_at", "_words")

    def __init__(self, words: memoryview, at: int) -> None:
        self._words = words
        self._at = at

    def enter(self, sequence: int, claim: int) -> None:
        """The thread runs this message from now on."""
        words, at = self._words, self._at
        words[at + 1] = claim
        words[at + 2] = time.monotonic_ns() // 1_000_000
        words[at + 3] = 0
        words[at] = sequence

    def limit(self, until: float) -> None:
        """What it runs may run until then, in monotonic milliseconds; 0 for ever."""
        self._words[self._at + 3] = int(min(until, _FOR_EVER))

    def leave(self) -> None:
        """It runs none any more."""
        self._words[self._at] = 0


_FOR_EVER = 2**62


class Cells:
    """The file of this process. Made by the worker itself, after the fork.

    Parameters:
      path: a new file, of a name that nobody used before.
      threads: how many cells.
      supervisor: the process that will learn how this one ends; 0 for none.
    """

    def __init__(self, path: str, threads: int, supervisor: int = 0) -> None:
        self.path = path
        size = (HEADER + threads * CELL) * WORD
        self._descriptor = _made_and_locked(path)
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(self._descriptor, 0o600)  # whatever the umask
            self._map = map_open_file(self._descriptor, size)
        except OSError as error:
            os.close(self._descriptor)
            self.remove()
            raise refused(path, error) from error
        self._words = memoryview(self._map).cast("q")
        self._words[_THREADS] = threads
        self._words[_SUPERVISOR] = supervisor
        self._words[_SUPERVISOR_BORN] = born(supervisor) if supervisor else 0
        self._keeps_stacks = self._had_faulthandler = False
        _open_cells.add(self)

    def of_thread(self, number: int) -> Cell:
        """The cell of the thread of that number."""
        return Cell(self._words, HEADER + number * CELL)

    def keep_stacks(self) -> None:
        """Have the interpreter write behind the cells where each thread is, if this process crashes or
        gets `STACK_SIGNAL`: at once, even if a call into C keeps the interpreter's lock."""
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._had_faulthandler = faulthandler.is_enabled()
        faulthandler.enable(self._descriptor)
        if STACK_SIGNAL is not None:
            faulthandler.register(STACK_SIGNAL, self._descriptor)
        self._keeps_stacks = True

    def _keep_no_stacks(self) -> None:
        if self._keeps_stacks:
            self._keeps_stacks = False
            if STACK_SIGNAL is not None:
                faulthandler.unregister(STACK_SIGNAL)
            faulthandler.disable()
            if self._had_faulthandler and sys.stderr is not None:
                faulthandler.enable()

    def close(self) -> None:
        """The worker leaves in order: free the lock and remove the file."""
        self.let_go()
        self.remove()

    def remove(self) -> None:
        """Remove the file alone."""
        with suppress(OSError):  # gone, or not to be removed now
            os.unlink(self.path)

    def let_go(self) -> None:
        """Close the descriptor alone: in a forked child, whose copy must not keep the lock."""
        _open_cells.discard(self)
        self._keep_no_stacks()
        self._words.release()
        self._map.close()
        os.close(self._descriptor)


def _made_and_locked(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | NO_LINK
    try:
        descriptor = os.open(path, flags | os.O_EXCL, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise refused(path, error) from error
    while not (try_lock(descriptor) and _is_at(path, descriptor)):
        # Before it is locked it looks like one that a dead worker has left, and somebody removes it.
        os.close(descriptor)
        descriptor = os.open(path, flags, 0o600)
    return descriptor


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


_open_cells: weakref.WeakSet[Cells] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for cells in list(_open_cells):
        cells.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


class _File:
    """What is in such a file, as far as it goes: its worker may have died while it made it."""

    def __init__(self, data: bytes) -> None:
        self.words = memoryview(data[: len(data) // WORD * WORD]).cast("q")
        known = len(self.words) > _THREADS
        end = HEADER + self.words[_THREADS] * CELL if known else 0
        self._starts = range(HEADER, min(end, len(self.words)) - CELL + 1, CELL)
        self._stack = data[end * WORD :] if known else b""

    @property
    def running(self) -> list[Running]:
        return [Running(*self.words[at : at + CELL]) for at in self._starts if self.words[at]]

    @property
    def has_run(self) -> bool:
        return any(self.words[at + 2] for at in self._starts)

    @property
    def stack(self) -> str:
        # The interpreter begins with the youngest thread, and tasks run in the oldest.
        parts = self._stack.decode("utf-8", "replace").strip().split("\n\n")
        parts.sort(key=lambda part: not any(sign in part for sign in TELLING))
        return "\n\n".join(parts)[:LONGEST_STACK]

    def place_of(self, sequence: int, claim: int) -> int | None:
        """The first word of the cell in which that message runs."""
        wanted = (sequence, claim)
        return next((at for at in self._starts if (self.words[at], self.words[at + 1]) == wanted), None)


def _open(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | NO_LINK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is no file", path)
    return descriptor


def _read_open(descriptor: int) -> _File:
    size = os.fstat(descriptor).st_size
    return _File(os.read(descriptor, size) if size <= LONGEST else b"")


def _read(path: str) -> _File:
    """What is in the file; nothing where the worker has just left."""
    try:
        descriptor = _open(path)
    except OSError:
        return _File(b"")
    try:
        return _read_open(descriptor)
    finally:
        os.close(descriptor)


def read_running(path: str) -> list[Running]:
    """What the threads of that worker run now; nothing if it has just left."""
    return _read(path).running


def has_run(path: str) -> bool:
    """Whether that worker ever ran a message."""
    return _read(path).has_run


def read_stack(path: str) -> str:
    """Where the threads of that worker were when it crashed; empty if the interpreter did not say."""
    return _read(path).stack


def doom(path: str, sequence: int, claim: int, due: int) -> bool:
    """Have the supervisor kill that worker's process if it still runs the message at `due` (monotonic
    milliseconds); False if it does not run it now."""
    try:
        descriptor = _open(path)
    except OSError:
        return False
    try:
        at = _read_open(descriptor).place_of(sequence, claim)
        if at is None:
            return False
        order = b"".join(word.to_bytes(WORD, "little") for word in (sequence, claim, due))
        os.lseek(descriptor, (at + _DOOM) * WORD, os.SEEK_SET)
        os.write(descriptor, order)
        return True
    finally:
        os.close(descriptor)


def write_end(path: str, end: int, status: int) -> None:
    """For the supervisor: note how the process of that file ended. A file that is gone needs none, and one that
    cannot be written now must not end the pool: then the crash charges nobody."""
    try:
        descriptor = _open(path)
    except OSError:
        return
    try:
        os.lseek(descriptor, _END * WORD, os.SEEK_SET)
        os.write(descriptor, end.to_bytes(WORD, "little") + status.to_bytes(WORD, "little", signed=True))
    finally:
        os.close(descriptor)


def read_death(path: str) -> Death | None:
    """How the worker of that file ended, or None while it lives.

    Also None while its supervisor has not written yet how it ended but lives to do so: without
    that the message which crashed the worker could not be told from its innocent neighbours.
    A missing file means dead, and so does whatever else stands in its place.
    """
    try:
        descriptor = _open(path)
    except (FileNotFoundError, IsADirectoryError):
        return Death(UNKNOWN, 0, [])
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return Death(UNKNOWN, 0, [])
        return None  # no descriptor is left, say, which tells nothing about the worker
    try:
        if not try_lock(descriptor):
            return None
        # Read through the descriptor: another reaper may be removing the file.
        file = _read_open(descriptor)
    finally:
        os.close(descriptor)  # which frees the lock
    words = file.words
    if len(words) < HEADER:  # died while it made the file: it had claimed nothing
        return Death(UNKNOWN, 0, [])
    if words[_END] == UNKNOWN and is_alive(words[_SUPERVISOR], words[_SUPERVISOR_BORN]):
        return None
    return Death(words[_END], words[_STATUS], file.running, file.stack)


def remove_stray(path: str, is_joined: Callable[[], bool]) -> None:
    """Remove the file of a worker that died before it joined, or that another reaper was about to remove
    when it died itself.

    `is_joined` is asked once the worker cannot join any more.
    """
    try:
        descriptor = _open(path)
    except OSError:
        return
    try:
        if try_lock(descriptor) and _is_at(path, descriptor) and not is_joined():
            with suppress(OSError):  # where a file that is open cannot be removed
                os.unlink(path)
    finally:
        os.close(descriptor)
