"""Reading, and writing inside the gate: what a `with` block of the database is.

A thread has the one connection of its process while it is in one of them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import StoreBusy, StoreCorrupt, StoreError
from ..threading import shielded
from .gate import LONGEST_NAP_OF_ALL, Patience

if TYPE_CHECKING:
    from .database import Database


SMALLEST_ROOM = 100_000
"""Bytes: a disk with less is full, whatever words SQLite has for what came of it."""


class FairLock:
    """A lock whose holder cannot take it again before those who wait for it.

    Python's own goes to whoever asks at the right moment: a thread that reads in a loop would keep
    all others out for seconds. So who waits for the lock stands in a doorway that is as narrow. A
    signal handler may find its own thread in there, so that one must be let in again.
    """

    def __init__(self) -> None:
        self._doorway = threading.RLock()
        self._lock = threading.RLock()
        self.release = self._lock.release
        self.is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]

    def acquire(self) -> None:
        if self.is_owned():  # in a signal handler
            self._lock.acquire()
            return
        with self._doorway:
            self._lock.acquire()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


WAY_OUT = 12
"""Frames of the stack that leaving a transaction may take, and then some."""
PATIENCE = 1000
"""How often the way out is tried again where there is no memory for it."""


def _reserve_stack(frames: int = WAY_OUT) -> None:
    """Raise RecursionError here, where nothing is held yet, rather than on the way out."""
    if frames:
        _reserve_stack(frames - 1)


class Read:
    """The connection, for reading: every statement is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_open = False

    def refuse_to_nest(self) -> None:
        """In a signal handler that has interrupted a read of its own thread: SQLite would show it what was
        there when that read began, however long it waits, and let it write nothing."""
        if self._is_open and self._database.lock.is_owned():
            raise StoreError(
                "the store is in the middle of a read on this same thread: a signal handler must not use it; "
                "set a flag there and act on it later"
            )

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        _reserve_stack()
        self.refuse_to_nest()
        shielded().__enter__()
        database.lock.acquire()
        try:
            while database.open_connection is None:  # again, if somebody closed it in between
                self._open()
            connection = database.connection()
            self._is_open = True
            return connection
        except BaseException as error:
            self._leave(error)
            raise

    def _open(self) -> None:
        # Opening may write (recovery, or the schema), so it goes through the gate; and the gate
        # always comes before the lock.
        database = self._database
        database.lock.release()
        try:
            with database.write:
                pass
        finally:
            database.lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(exc)

    def _leave(self, error: BaseException | None) -> None:
        self._is_open = False
        self._database.lock.release()
        try:
            if isinstance(error, sqlite3.Error):
                raise translate(error, self._database.path, self._database.busy_timeout) from error
        finally:
            shielded().__exit__(None, None, None)


class Write:
    """The connection inside the gate, in one transaction that commits at the end of the block.

    A Ctrl-C may be raised on any line of it, as may a MemoryError or what somebody ends this thread
    by, and a gate that stayed shut would stop all others: each way out goes through `_let_go`, which
    can be called again where it was interrupted.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        _reserve_stack()
        self._database.read.refuse_to_nest()
        shielded().__enter__()
        inside_already = self._database.gate.is_inside  # in a signal handler: what is refused must not be undone
        try:
            return self._begin()
        except BaseException as error:
            self._leave(error, not inside_already)
            raise

    def _begin(self) -> sqlite3.Connection:
        # A program that is not localq and locks the file is waited for outside of the gate: who waits inside would
        # keep all others of ours out, who would then be told that it is this process that hangs.
        database = self._database
        patience = None
        while True:
            database.gate.__enter__()
            database.lock.acquire()
            try:
                connection = database.connection()
                connection.execute("BEGIN IMMEDIATE")
                if database.is_impatient:
                    database.wait_for_locks(True)
                return connection
            except sqlite3.OperationalError as error:
                if not is_lock(error):
                    raise
                patience = patience or Patience(database.busy_timeout)
                if not patience.left():
                    raise
                if database.open_connection is not None:
                    database.wait_for_locks(False)
            self._let_go()
            patience.nap(LONGEST_NAP_OF_ALL)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failure = exc
        is_written = False
        try:
            if exc is None:
                self._database.open_connection.execute("COMMIT")  # type: ignore[union-attr]
                is_written = True
                self._database.commits += 1
        except BaseException as error:
            failure = error
        self._leave(failure, True, is_written)
        if failure is not exc and failure is not None:
            raise failure  # a Ctrl-C in the middle of the commit

    def _leave(self, failure: BaseException | None, entered: bool, is_written: bool = False) -> None:
        """Let go of all; raise what SQLite said in our words, or a Ctrl-C that came meanwhile."""
        late: BaseException | None = None
        patience = PATIENCE
        while entered:
            try:
                if failure is not None and is_lasting(failure) and self._database.lock.is_owned():
                    self._database.close_connection()
                self._let_go()
                break
            except BaseException as interrupt:
                late = interrupt
                if isinstance(interrupt, Exception):
                    patience -= 1
                    if not patience or not isinstance(interrupt, MemoryError):
                        raise
        if is_written and self._database.log_sync is not None:
            try:
                self._database.log_sync.wait()
            except BaseException as error:
                late = late or error
        shielded().__exit__(None, failure or late, None)
        if isinstance(failure, sqlite3.Error):
            raise translate(failure, self._database.path, self._database.busy_timeout) from failure
        if late is not None:
            raise late

    def _let_go(self) -> None:
        database = self._database
        if database.lock.is_owned():
            connection = database.open_connection
            if connection is not None and connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error:  # a damaged file, say: to close ends the transaction too
                    database.close_connection()
            database.lock.release()
        database.gate.leave()


def is_lock(error: BaseException) -> bool:
    """Whether SQLite says that somebody else holds a lock."""
    text = str(error)
    return isinstance(error, sqlite3.OperationalError) and ("locked" in text or "busy" in text)


def is_lasting(error: BaseException) -> bool:
    """Whether SQLite says what a connection keeps for itself even when the cause is gone: it was opened when the
    file could not be written, or it has lost what it reads and writes."""
    text = str(error)
    return isinstance(error, sqlite3.OperationalError) and any(
        words in text for words in ("readonly", "read-only", "disk I/O", "unable to open")
    )


def translate(error: sqlite3.Error, path: str, busy_timeout: float = 0) -> Exception:
    """The `StoreError` that says what is wrong with the file, and what to do; or a ValueError where it is
    what should have been written that no file could keep."""
    text = str(error)
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)) or "binding" in text:
        return ValueError(f"{path!r} cannot keep this: {text}")
    if "not a database" in text:
        return StoreCorrupt(
            f"{path!r} is not an SQLite database; nothing was written; name another file, or, if it was a queue "
            "whose first page is damaged, stop all workers and restore a backup"
        )
    if "malformed" in text:
        return StoreCorrupt(
            f"{path!r} is damaged ({text}); stop all workers and restore a backup, or recover what is "
            "left with the sqlite3 shell's .recover"
        )
    if is_lock(error):
        return StoreBusy(
            f"another program, which is not localq, has held a lock on {path!r} ({text}) for more than "
            f"{busy_timeout / 1000:g} s; nothing was written; end its transaction, or close it, and try again"
        )
    if "readonly" in text or "read-only" in text:
        return StoreError(
            f"{path!r} cannot be written ({text}); give this user the right to write it, its folder and what lies "
            "beside it, or mount the file system for writing"
        )
    if "full" in text or ("disk I/O" in text and is_full(path)):
        return StoreError(f"the disk of {path!r} is full; nothing was written; free some space and try again")
    if "disk I/O" in text:
        return StoreError(
            f"the system could not read or write {path!r} ({text}); nothing was written; look at the disk and at "
            "the system's log"
        )
    if "unable to open" in text:
        return StoreError(
            f"cannot open {path!r} or what lies beside it ({text}); look at the folder's existence, rights and "
            "free space"
        )
    return StoreError(f"{path!r}: {text}")


def is_full(path: str) -> bool:
    """Whether its disk has no room, as far as the system says."""
    try:
        disk = os.statvfs(os.path.dirname(path))
    except (OSError, AttributeError):
        return False
    return disk.f_bavail * disk.f_frsize < SMALLEST_ROOM
