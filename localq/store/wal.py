"""The write-ahead log beside the file: written back and cut off when nobody needs it.

SQLite writes it back by itself, at every 16 MB, and begins it anew when no reader is left
in it; but what it has once grown to stays on the disk. While a program keeps a reading
transaction open the log cannot begin anew, and grows with everything that is written.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from ..clock import clock
from ..logging import get_logger
from ..threading import shielded
from .transactions import translate

if TYPE_CHECKING:
    from .database import Database

BOUND = 256 * 1024 * 1024
"""Bytes that the log does not reach unless a reader holds it."""
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

    def cut(self) -> None:
        """Write it back into the file and cut it off; not, if somebody reads in it. Waits for nobody
        but the gate, and tells of a reader that lets it grow."""
        if self._write_back() or self.size <= BOUND:
            self._looks = 0
            return
        self._looks += 1
        if self._looks > 1 and self._next_warning <= clock.monotonic():  # one may be of ours, for a moment
            self._next_warning = clock.monotonic() + WARNING_INTERVAL
            _logger.warning(
                "A program keeps a reading transaction on %r open, so that its write-ahead log cannot be "
                "emptied; it has %d MB now, and grows until that transaction ends.",
                self._database.path, self.size // 1_000_000,
            )  # fmt: skip

    def _write_back(self) -> bool:
        """Whether nobody reads in it."""
        database = self._database
        with shielded(), database.gate, database.lock:
            connection = database.connection()
            try:
                busy, pages, written = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if busy or written < pages:
                    return False
                (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
                connection.execute("PRAGMA busy_timeout = 0")  # a reader is no reason to keep the gate shut
                try:
                    (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    connection.execute(f"PRAGMA busy_timeout = {patience:d}")
                return not busy
            except sqlite3.Error as error:
                raise translate(error, database.path) from error
