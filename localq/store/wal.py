"""The write-ahead log beside the file: written back and cut off when nobody needs it.

SQLite writes it back by itself, at every 16 MB, and begins it anew when no reader is left
in it; but what it has once grown to stays on the disk. While a program keeps a reading
transaction open the log cannot begin anew, and grows with everything that is written.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

from ..clock import clock
from ..files import write_through
from ..logging import get_logger
from ..threading import shielded
from .transactions import translate

if TYPE_CHECKING:
    from .database import Database

BOUND = 256 * 1024 * 1024
"""Bytes that the log does not reach unless a reader holds it."""
LARGE = 64 * 1024 * 1024
"""Bytes from which on it is cut down even while others write; and so many in one step."""
WARNING_INTERVAL = 3_600_000
"""Milliseconds between two warnings of that, at least."""

_logger = get_logger(__name__)


class WriteAheadLog:
    """The log of one file.

    Parameters:
      database: that file, as this process sees it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._path = database.path + "-wal"
        self._looks = 0
        """At how many in a row a reader was there, and the log too large."""
        self._next_warning = 0.0

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def cut(self) -> bool:
        """Write it back into the file and cut it off, the end first where it is large; not, if somebody
        reads in it. Say whether there is more to cut off at once.

        Waits for nobody but the gate, and tells of a reader that lets it grow.
        """
        is_large = self.size > LARGE
        if is_large:
            # Outside of the gate, since SQLite will ask for that inside.
            with suppress(OSError):
                write_through(self._path)
        if self._write_back(self.size):
            self._looks = 0
            return is_large
        if self.size > BOUND:
            self._warn()
        return False

    def _write_back(self, size: int) -> bool:
        """Write back, and cut off all or the last part; not, and False, if somebody reads in it."""
        database = self._database
        with shielded(), database.gate, database.lock:
            connection = database.connection()
            try:
                busy, pages, written = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if busy or written < pages:
                    return False
                database.wait_for_locks(False)  # a reader is no reason to keep the gate shut
                try:
                    return _cut_to(connection, size - LARGE) if size > LARGE else _empty(connection)
                finally:
                    database.wait_for_locks(True)
            except sqlite3.Error as error:
                raise translate(error, database.path) from error

    def _warn(self) -> None:
        self._looks += 1
        if self._looks > 1 and self._next_warning <= clock.monotonic():  # one may be of ours, for a moment
            self._next_warning = clock.monotonic() + WARNING_INTERVAL
            _logger.warning(
                "A program keeps a reading transaction on %r open, so that its write-ahead log cannot be "
                "emptied; it has %d MB now, and grows until that transaction ends.",
                self._database.path, self.size // 1_000_000,
            )  # fmt: skip


def _empty(connection: sqlite3.Connection) -> bool:
    (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def _cut_to(connection: sqlite3.Connection, size: int) -> bool:
    # Whoever writes first when the log begins anew cuts it to his limit. To cut off gigabytes takes a file
    # system seconds, so it is done here, part by part, and not by whoever happens to send a message.
    (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    if busy:
        return False
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA journal_size_limit = {size:d}")
    try:
        connection.execute(f"PRAGMA user_version = {version:d}")  # a write that changes nothing
    finally:
        connection.execute("PRAGMA journal_size_limit = -1")
    return True
