"""What each thread of a worker process runs: a file that outlives the process.

The worker holds the operating system's lock on it from before its first claim
to its death; that lock, and nothing else, says whether it lives. Inside, one
cell a thread tells which message it runs, since when, and until when it may.
The supervisor, who alone learns how a process ended, writes that here too.
Who wants a message to be ended for good writes into its cell when that is due
(`doom`), and the supervisor kills the process then, whatever it is doing.
Whoever gives the dead worker's messages back reads who was running them.
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from .locks import try_lock

HEADER = 16  # words; the first is the byte that Windows locks, so nobody reads it
_SUPERVISOR, _SUPERVISOR_BORN, _END, _STATUS, _THREADS = 1, 2, 3, 4, 5
CELL = 7  # words: sequence, claim, since, until, and of what is doomed: sequence, claim, due
_DOOM = 4  # where the last three begin
WORD = 8

UNKNOWN, CRASHED, ORDERED, DOOMED = 0, 1, 2, 3
"""How a process ended: nobody saw it, by itself, because its supervisor ended it, or because it did so
for a message that was doomed."""


@dataclass(slots=True, frozen=True)
class Running:
    """One message that a thread runs, and the one that is doomed in this cell: `since`, `until` and
    `due` in monotonic milliseconds."""

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


@dataclass(slots=True, frozen=True)
class Death:
    """How a worker ended, and what it was running then."""

    end: int
    status: int
    """As `subprocess` has it: the exit status, or minus the signal."""
    running: list[Running]


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
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try_lock(self._descriptor)
        os.ftruncate(self._descriptor, size)
        self._map = mmap.mmap(self._descriptor, size)
        self._words = memoryview(self._map).cast("q")
        self._words[_THREADS] = threads
        self._words[_SUPERVISOR] = supervisor
        self._words[_SUPERVISOR_BORN] = born(supervisor) if supervisor else 0
        _open_cells.add(self)

    def enter(self, thread: int, sequence: int, claim: int, until: int = 0) -> None:
        """The thread of that number runs this message from now on."""
        words, at = self._words, HEADER + thread * CELL
        words[at + 1] = claim
        words[at + 2] = time.monotonic_ns() // 1_000_000
        words[at + 3] = until
        words[at] = sequence

    def leave(self, thread: int) -> None:
        """It runs none any more."""
        self._words[HEADER + thread * CELL] = 0

    def close(self) -> None:
        """The worker leaves in order: free the lock and remove the file."""
        self.let_go()
        self.remove()

    def remove(self) -> None:
        """Remove the file alone."""
        Path(self.path).unlink(missing_ok=True)

    def let_go(self) -> None:
        """Close the descriptor alone: in a forked child, whose copy must not keep the lock."""
        _open_cells.discard(self)
        self._words.release()
        self._map.close()
        os.close(self._descriptor)


_open_cells: weakref.WeakSet[Cells] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for cells in list(_open_cells):
        cells.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def _words(path: str) -> memoryview:
    return memoryview(bytearray(Path(path).read_bytes())).cast("q")


def read_running(path: str) -> list[Running]:
    """What the threads of that worker run now; nothing if it has just left."""
    try:
        words = _words(path)
    except (FileNotFoundError, TypeError):
        return []
    return _running(words)


def _running(words: memoryview) -> list[Running]:
    starts = range(HEADER, len(words) - CELL + 1, CELL)
    return [Running(*words[at : at + CELL]) for at in starts if words[at]]


def doom(path: str, sequence: int, claim: int, due: int) -> bool:
    """Have the supervisor kill that worker's process if it still runs the message at `due` (monotonic
    milliseconds); False if it does not run it now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        words = memoryview(bytearray(os.read(descriptor, os.fstat(descriptor).st_size))).cast("q")
        for at in range(HEADER, len(words) - CELL + 1, CELL):
            if (words[at], words[at + 1]) == (sequence, claim):
                order = b"".join(word.to_bytes(WORD, "little") for word in (sequence, claim, due))
                os.lseek(descriptor, (at + _DOOM) * WORD, os.SEEK_SET)
                os.write(descriptor, order)
                return True
        return False
    finally:
        os.close(descriptor)


def is_overdue(path: str) -> bool:
    """Whether that worker runs a message that is doomed, and whose time has come."""
    now = time.monotonic_ns() // 1_000_000
    return any(running.is_doomed and running.due <= now for running in read_running(path))


def has_run(path: str) -> bool:
    """Whether that worker ever ran a message."""
    try:
        words = _words(path)
    except (FileNotFoundError, TypeError):
        return False
    return any(words[at + 2] for at in range(HEADER, len(words) - CELL + 1, CELL))


def write_end(path: str, end: int, status: int) -> None:
    """For the supervisor: note how the process of that file ended. A file that is gone needs none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
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
    A missing file means dead.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Death(UNKNOWN, 0, [])
    try:
        if not try_lock(descriptor):
            return None
        # Read through the descriptor: another reaper may be removing the file.
        words = memoryview(bytearray(os.read(descriptor, os.fstat(descriptor).st_size))).cast("q")
    finally:
        os.close(descriptor)  # which frees the lock
    if len(words) < HEADER:  # died while it made the file: it had claimed nothing
        return Death(UNKNOWN, 0, [])
    if words[_END] == UNKNOWN and is_alive(words[_SUPERVISOR], words[_SUPERVISOR_BORN]):
        return None
    return Death(words[_END], words[_STATUS], _running(words))


def born(pid: int) -> int:
    """When that process started, in the system's own unit; 0 where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # Field 22 (proc(5)), counted behind the name, which may hold blanks and brackets.
    state, started = (fields := stat.rpartition(b")")[2].split())[0], int(fields[19])
    return 0 if state in b"ZX" else started


def is_alive(pid: int, started: int) -> bool:
    """Whether the process `pid` that started then still lives; a zombie does not."""
    if not pid:
        return False
    if started:
        return born(pid) == started
    if os.name == "nt":
        return False  # os.kill(pid, 0) would end it there: better a crash that charges nobody
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
