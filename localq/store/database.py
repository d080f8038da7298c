"""The file and the one connection that a process has to it.

One connection a process, behind a lock, rather than one a thread: writers of
all threads queue at the gate anyway, reads take microseconds, and there is one
thing to close before a fork. Nobody but SQLite ever opens the database file:
on POSIX, closing any other descriptor of it drops every lock that SQLite holds
in the process (https://sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from ..errors import StoreCorrupt, StoreError, StoreReplaced, UnsafeLocation
from ..files import (
    Identity,
    identity,
    is_still,
    make_private,
    refused,
)
from ..late_imports import import_all_before_fork
from .folder import prepare_folder
from .gate import Gate
from .leftovers import Leftovers, emptied, size_of
from .log_sync import LogSync
from .transactions import FairLock, Read, Write

APPLICATION_ID = 0x6C6F6371  # "locq"
MIGRATIONS: dict[int, str] = {
    1: """
ALTER TABLE value ADD COLUMN until_revived TEXT;
CREATE INDEX value_of_the_dead ON value (until_revived) WHERE until_revived IS NOT NULL""",
    2: """
ALTER TABLE message ADD COLUMN traceback TEXT;
CREATE TABLE hold (
  key TEXT NOT NULL, holder TEXT NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (key, holder)
) WITHOUT ROWID;
CREATE INDEX hold_by_holder ON hold (holder);
CREATE INDEX cancelled ON message (died_at) WHERE state = 'cancelled'""",
    3: """
DROP INDEX aside;
CREATE INDEX aside ON message (state, queue)
  WHERE state <> 'waiting' AND state <> 'delayed' AND state <> 'running' AND state <> 'dead'""",
}
"""By version: the statements that make a file of the next version of it."""
SCHEMA_VERSION = 4

OLDEST_SQLITE = (3, 35, 0)  # RETURNING

LONGEST_LOCK = 100
"""Milliseconds that SQLite itself waits for others: for who recovers after a crash, say. A writer waits for the
rest of `busy_timeout` outside of the gate."""
TRIES = 3
"""How often it is opened at most, if it is replaced meanwhile."""
LOOK_INTERVAL = 0.1
"""Seconds between two looks whether the file is still there: a look costs more than a thousandth of a write."""


class Database:
    """One queue file, as this process sees it.

    Parameters:
      path: absolute path of the file; it is made, 0600, where there is none.
      full: whether every commit waits for the disk.
      gate_timeout: milliseconds that a writer waits for the gate.
      busy_timeout: milliseconds that a writer waits for a program which is not localq.
      on_network: whether it may be on a network file system.
    """

    def __init__(
        self, path: str, *, full: bool, gate_timeout: float, busy_timeout: float, on_network: bool = False
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(
                f"localq needs SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer, and this Python "
                f"is linked to {sqlite3.sqlite_version}; use a Python with a newer one"
            )
        self.path = path
        self.side = path + ".localq"
        self.log_sync = LogSync(path) if full else None
        self.busy_timeout = busy_timeout
        self.longest_lock = min(busy_timeout, LONGEST_LOCK)
        prepare_folder(path, self.side, on_network)
        self.gate = Gate(os.path.join(self.side, "gate"), gate_timeout)
        self._leftovers = Leftovers(path, self.side, self.gate)
        self.lock = FairLock()
        self.open_connection: sqlite3.Connection | None = None
        self._owner = os.getpid()
        self.is_impatient = False
        self._identity: Identity | None = None
        self._next_look = 0.0
        self.is_replaced = False
        """Whether it was deleted or replaced while it was in use: then it is refused until it is opened anew."""
        self.commits = 0
        self.forget_in_child: Callable[[], None] = lambda: None
        self.write = Write(self)
        self.read = Read(self)
        with opening:  # before anything is open, so that no fork overlooks it
            _open_databases.add(self)
        try:
            with self.write:
                pass
        except BaseException:
            self.close()
            raise

    def connection(self) -> sqlite3.Connection:
        """The connection, made if need be. Call it with the lock held."""
        if self.is_replaced:
            raise self._replaced()
        if self.open_connection is None:
            self.open_connection = self._connect()
        elif self._owner != os.getpid():
            raise StoreError(
                f"this process was forked while {self.path!r} could not be closed (the gate was held), "
                "so it cannot use it safely; start a fresh process instead"
            )
        if time.monotonic() >= self._next_look:
            self._look_for_the_file()
        return self.open_connection

    def look_at_next_use(self) -> None:
        """Look whether the file is still there, even if somebody has just done so: another process of the pool may
        have died of that."""
        self._next_look = 0.0

    def _look_for_the_file(self) -> None:
        # The system lets a connection go on writing into a file that was deleted or replaced: what is accepted
        # would vanish in silence. And who lost the gate's file keeps nobody out any more.
        self._next_look = time.monotonic() + LOOK_INTERVAL
        if not is_still(self.path, self._identity) or self.gate.is_replaced:
            raise self._replaced()
        if not size_of(self.path):
            self._next_look = 0.0  # each time, as long as it is so
            raise emptied(self.path)

    def _replaced(self) -> StoreReplaced:
        self.is_replaced = True
        return StoreReplaced(
            f"{self.path!r}, or {os.path.basename(self.side)!r} beside it, was deleted or replaced while it was in "
            "use; nothing was written; close the broker and use it again, or restart this program, to go on with "
            "what is there now"
        )

    def wait_for_locks(self, patiently: bool) -> None:
        """Whether SQLite is to wait a moment for another program, or say at once that it holds a lock: who waits
        for long waits outside of the gate."""
        assert self.open_connection is not None
        self.is_impatient = not patiently
        self.open_connection.execute(f"PRAGMA busy_timeout = {self.longest_lock if patiently else 0}")

    def _connect(self) -> sqlite3.Connection:
        if self._identity is not None and not is_still(self.path, self._identity):
            raise self._replaced()
        for _ in range(TRIES):
            known, connection = self._open()
            if is_still(self.path, known):
                break
            connection.close()  # it was replaced meanwhile, or copied: a layer of a container, at its first use
        else:
            raise self._replaced()
        self._leftovers.note()
        self._identity = known
        self._owner = os.getpid()
        self.is_impatient = False
        return connection

    def _open(self) -> tuple[Identity | None, sqlite3.Connection]:
        """The file that was there, and a connection to it or to what has come in its place meanwhile."""
        try:
            is_made = _create(self.path)
            if not os.access(self.path, os.R_OK | os.W_OK):
                # Read-only, SQLite would open it all the same, and leave a log that nobody may write behind.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            known = identity(self.path)
            self._leftovers.clear_away(is_made)
        except OSError as error:
            raise refused(self.path, error) from error
        connection = sqlite3.connect(
            self.path,
            timeout=self.longest_lock / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return known, connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        connection.text_factory = _text
        is_new = self._is_new(connection)  # or it is refused, before anything of it is touched
        make_private(self.path)
        if is_new:
            execute("PRAGMA page_size = 2048")  # a commit of one message writes three pages, whatever is on them
            execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise UnsafeLocation(
                f"{self.path!r} cannot use SQLite's write-ahead log (its mode stays {mode!r}), which "
                "several processes need; put it on a local disk"
            )
        execute("PRAGMA synchronous = NORMAL")  # FULL would wait for the disk inside of the gate: see log_sync.py
        execute("PRAGMA wal_autocheckpoint = 8000")
        execute("PRAGMA journal_size_limit = -1")  # it is cut down in steps: see wal.py
        execute("PRAGMA mmap_size = 0")
        execute("PRAGMA temp_store = MEMORY")
        self._bring_up_to_date(connection, is_new)

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether the file has no tables yet. One that is not for us is refused."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION_ID and not (empty and application == 0):
            raise StoreCorrupt(
                f"{self.path!r} is a database of another program, not a queue of localq; "
                "nothing in it was touched; name another file"
            )
        if version > SCHEMA_VERSION:
            raise StoreCorrupt(
                f"{self.path!r} has schema {version}, made by a newer localq; this one knows up to "
                f"{SCHEMA_VERSION}; nothing in it was touched; upgrade localq, or name another file"
            )
        return bool(empty)

    def _bring_up_to_date(self, connection: sqlite3.Connection, is_new: bool) -> None:
        if is_new:
            schema = files(__package__).joinpath("schema.sql").read_text("utf-8")
            self._apply(connection, schema)
            return
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < SCHEMA_VERSION:
            self._back_up(connection, version)
            self._apply(connection, ";".join(MIGRATIONS[old] for old in range(version, SCHEMA_VERSION)))

    def _apply(self, connection: sqlite3.Connection, script: str) -> None:
        # One transaction: a file is of the old version or of this one, whenever the process dies.
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _back_up(self, connection: sqlite3.Connection, version: int) -> None:
        path = os.path.join(self.side, f"before-schema-{version + 1}.db")
        Path(path).unlink(missing_ok=True)
        _create(path)
        target = sqlite3.connect(path)
        try:
            connection.backup(target)
        finally:
            target.close()

    def changes(self) -> tuple[int, int]:
        """A pair that differs after any commit, of this process or of another."""
        with self.read as connection:
            return connection.execute("PRAGMA data_version").fetchone()[0], self.commits

    def close(self) -> None:
        """Close the connection, and the gate's file; the next use opens both again."""
        if self.open_connection is not None and self._owner == os.getpid():
            try:
                with self.gate, self.lock:  # the last one to close checkpoints
                    self.close_connection()
            except StoreReplaced:  # there is no gate any more, and nobody to keep out
                with self.lock:
                    self.close_connection()
        self.gate.close()

    def close_connection(self) -> None:
        """Close it, in the gate if that is still there. SQLite leaves alone what lies beside a file that was
        replaced (it looks for that itself): it has the old name, but may belong to the new file."""
        connection, self.open_connection = self.open_connection, None
        if connection is not None:
            connection.close()
            if self.gate.is_inside:
                self._leftovers.forget()

    # SQLite keeps a table of its locks for the whole process. A child that inherited an open
    # connection would hold no locks, even on connections of its own, and acknowledged commits
    # would vanish. So a fork waits for what runs, closes all, and both sides open again.

    def before_fork(self) -> None:
        self.gate.before_fork()
        self.lock.acquire()
        if self.open_connection is not None and self._owner == os.getpid():
            try:
                with self.gate:
                    self.close_connection()
            except StoreError:
                pass  # the child is told when it uses the store: see connection()
        self.gate.close()

    def after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self.lock = FairLock()
            self.log_sync = LogSync(self.path) if self.log_sync is not None else None
            self.forget_in_child()
        else:
            self.lock.release()
        self.gate.after_fork(in_child=in_child)


def _create(path: str) -> bool:
    """Make it, private; say whether it was not there yet."""
    # O_EXCL: a file that is there is never opened here (see the top of this file).
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    make_private(path)
    return True


def _text(raw: bytes) -> str:
    # Whoever writes into the file by other means may leave what is no text: it must not keep others from
    # reading the rest.
    return raw.decode("utf-8", "backslashreplace")


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking: list[Database] = []


opening = threading.RLock()
"""Held while a store is opened, and while a process forks: the child must find it free."""


def _before_fork() -> None:
    import_all_before_fork()
    opening.acquire()
    _forking[:] = _open_databases
    for database in _forking:
        database.before_fork()


def _after_fork(in_child: bool) -> None:
    for database in _forking:
        database.after_fork(in_child=in_child)
    _forking.clear()
    if in_child:
        opening._at_fork_reinit()  # type: ignore[attr-defined]  # as the standard library does with its own
    else:
        opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(False),
        after_in_child=lambda: _after_fork(True),
    )
