"""Keeping a queue's file small: what has expired goes, and so do free pages and the write-ahead log.

All of it happens in short steps, between which whoever calls takes a breath: so that others get at the gate.
"""

from __future__ import annotations

import itertools
import sqlite3
from typing import TYPE_CHECKING, Any

from ..clock import Deadline, clock
from ..errors import StoreBusy, StoreError, StoreReplaced
from ..logging import get_logger
from . import statements as sql
from .base import DEAD_LETTER_TTL
from .wal import LARGE, WriteAheadLog

if TYPE_CHECKING:
    from .database import Database

FULL = 1
"""SQLite's mode in which each commit gives back all pages that are free."""
STEP = 10
"""Milliseconds that one step of the housekeeping may keep writers waiting, about."""
SWEEP_BATCH = 200
SWEEP_BYTES = 2_000_000
"""What one step removes at most; but one value or body, however large."""
KEPT_PAGES = 1000
"""Free pages that stay in the file, to be used again, if they are given back one by one."""
AT_ONCE, FEW = 50_000, 5_000
"""So many free pages can be given back in one step, where no more than so few others are in their way."""

_logger = get_logger(__name__)


class Upkeep:
    """The upkeep of one file; `Store.sweep` and `Store.shrink` describe its steps.

    Parameters:
      database: that file, as this process sees it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wal = WriteAheadLog(database)
        self._batch = SWEEP_BATCH
        self._seen = (0, 0)
        self._shrinks = False

    def sweep(self, now: int) -> int:
        """Remove a small batch of what has expired; say how much that was."""
        values = {"now": now, "dead": now - DEAD_LETTER_TTL, "batch": self._batch}
        with self._database.write as connection:
            started = clock.monotonic()
            swept = connection.execute(sql.BURY_NOBODYS, values).rowcount
            for statement, places in sql.SWEEP:
                keys = _light_enough(connection.execute(statement, values).fetchall())
                for table, column in places if keys else ():
                    connection.execute(sql.delete(table, column, len(keys)), keys)
                swept += len(keys)
                if swept and clock.monotonic() - started > STEP:
                    break
            took = clock.monotonic() - started
        self._batch = max(10, self._batch // 2) if took > STEP else min(SWEEP_BATCH, self._batch * 2)
        return swept

    def shrink(self) -> bool:
        """Give back some of what is not needed of the disk; say whether there is more to do at once."""
        # While others write the free pages will be used again, so there is one step a second then.
        goes_on, self._shrinks = self._shrinks, False
        is_quiet = self._database.changes() == self._seen
        if goes_on and not is_quiet:
            return False
        self._shrinks = self._give_pages_back(is_quiet)
        if not self._shrinks and ((is_quiet and self._wal.size) or self._wal.size > LARGE):
            self._shrinks = self._wal.cut()
        self._seen = self._database.changes()
        return self._shrinks

    def _give_pages_back(self, is_quiet: bool) -> bool:
        """Make the file smaller, if much of it is free; say whether it was."""
        database = self._database
        with database.read as connection:
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
        is_empty = bool(free > KEPT_PAGES and free * 4 > pages)
        at_once = is_empty and is_quiet and free <= AT_ONCE and pages - free <= FEW
        if at_once:
            with database.write as connection:
                connection.execute("PRAGMA auto_vacuum = FULL")  # which does it at the end of this block
        elif is_empty:
            with database.write as connection:
                _give_some_pages_back(connection)
        if at_once or mode == FULL:  # the latter if somebody died right here
            with database.write as connection:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        return is_empty

    def end(self) -> None:
        """This process closes the file. Others may have it open for long; the last one to close removes the
        log in any case."""
        if self._database.open_connection is not None:
            try:
                self._wal.cut()
            except StoreBusy:
                raise
            except StoreReplaced:
                pass  # there is no log of ours any more
            except StoreError as error:  # the file is closed all the same
                _logger.warning("The write-ahead log stays as it is: %s", error)


def _light_enough(found: list[tuple[Any, int]]) -> list[Any]:
    """The keys of the first ones, of (key, bytes): as many as one step may remove."""
    sizes = itertools.accumulate(size for _, size in found)
    light = sum(total <= SWEEP_BYTES for total in sizes)
    return [key for key, _ in found[: max(light, 1)]]


def _give_some_pages_back(connection: sqlite3.Connection) -> None:
    """As many as can be in one step: each is looked for in the list of all that are free."""
    deadline = Deadline(STEP)
    while not deadline.passed():
        # Page by page: Python takes one step of a statement that returns no columns, whatever its number.
        connection.execute("PRAGMA incremental_vacuum(1)")
