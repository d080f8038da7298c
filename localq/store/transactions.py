"""Reading, and writing inside the gate: what a `with` block of the database is.

A thread has the one connection of its process while it is in one of them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import StoreBusy, StoreCorrupt, StoreError
from ..threading import shielded

if TYPE_CHECKING:
    from .database import Database


class FairLock:
    """A lock whose holder cannot take it again before those who wait for it.

    Python's own goes to whoever asks at the right moment: a thread that reads in a loop would keep
    all others out for seconds. So who waits for the lock stands in a doorway that is as narrow.
    """

    def __init__(self) -> None:
        self._doorway = threading.Lock()
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


class Read:
    """The connection, for reading: every statement is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        shielded().__enter__()
        database.lock.acquire()
        try:
            while database.open_connection is None:  # again, if somebody closed it in between
                self._open()
            return database.connection()
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
        self._database.lock.release()
        try:
            if isinstance(error, sqlite3.Error):
                raise translate(error, self._database.path) from error
        finally:
            shielded().__exit__(None, None, None)


class Write:
    """The connection inside the gate, in one transaction that commits at the end of the block.

    A Ctrl-C may be raised on any line of it, and a gate that stayed shut would stop all others:
    each way out goes through `_let_go`, which can be called again where it was interrupted.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        shielded().__enter__()
        inside_already = database.gate.is_inside  # in a signal handler: what is refused must not be undone
        try:
            database.gate.__enter__()
            database.lock.acquire()
            connection = database.connection()
            connection.execute("BEGIN IMMEDIATE")
            return connection
        except BaseException as error:
            self._leave(error, not inside_already)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failure = exc
        try:
            if exc is None:
                self._database.open_connection.execute("COMMIT")  # type: ignore[union-attr]
                self._database.commits += 1
        except BaseException as error:
            failure = error
        self._leave(failure, True)
        if failure is not exc and failure is not None:
            raise failure  # a Ctrl-C in the middle of the commit

    def _leave(self, failure: BaseException | None, entered: bool) -> None:
        """Let go of all; raise what SQLite said in our words, or a Ctrl-C that came meanwhile."""
        late: BaseException | None = None
        while entered:
            try:
                self._let_go()
                break
            except KeyboardInterrupt as interrupt:
                late = interrupt
        shielded().__exit__(None, failure or late, None)
        if isinstance(failure, sqlite3.Error):
            raise translate(failure, self._database.path) from failure
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


def translate(error: sqlite3.Error, path: str) -> StoreError:
    """The `StoreError` that says what is wrong with the file, and what to do."""
    text = str(error)
    if "not a database" in text:
        return StoreCorrupt(f"{path!r} is not an SQLite database; nothing was written; name another file")
    if "malformed" in text:
        return StoreCorrupt(
            f"{path!r} is damaged ({text}); stop all workers and restore a backup, or recover what is "
            "left with the sqlite3 shell's .recover"
        )
    if "locked" in text or "busy" in text:
        return StoreBusy(f"another program holds a lock on {path!r} ({text}); close it and try again")
    if "readonly" in text or "read-only" in text:
        return StoreError(f"{path!r} cannot be written ({text}); give this user the right to write it")
    if "full" in text:
        return StoreError(f"the disk of {path!r} is full; nothing was written; free some space and try again")
    if "unable to open" in text:
        return StoreError(f"cannot open {path!r} ({text}); look at the folder's existence and rights")
    return StoreError(f"{path!r}: {text}")
