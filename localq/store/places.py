"""Places under a limit, in the SQLite store: taken by a process, and free again when it lets go or dies."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress

from ..errors import StoreError, StoreReplaced
from ..logging import get_logger
from . import statements as sql
from .base import Store
from .database import Database
from .holders import Holder, dead_in, is_dead

PAUSE = 1.0
"""Seconds between two tries to give back a place, while the store cannot be written."""

_logger = get_logger(__name__)


class PlacesSQLite(Store):
    """The verbs about places; `SQLiteStore` has all."""

    database: Database
    _holder: Holder | None = None
    """This process, once it has taken a place."""

    @property
    def _holders(self) -> str:
        return os.path.join(self.database.side, "holders")

    def hold(self, key: str, maximum: int) -> bool:
        holder = self._holder
        if holder is None or not holder.is_ours:
            self._forget_dead_holders()  # where no pool keeps house, each new process does
        elif holder.owed:
            self._give_back_owed(holder)
        with self.database.write as connection:
            place = {"key": key, "holder": self._make_holder().name, "maximum": maximum}
            if connection.execute(sql.HOLD, place).rowcount == 1:
                return True
            return self._free_places(connection, key) and connection.execute(sql.HOLD, place).rowcount == 1

    def _make_holder(self) -> Holder:
        if self._holder is None or not self._holder.is_ours:
            self._holder = Holder(self._holders)
        return self._holder

    def _free_places(self, connection: sqlite3.Connection, key: str) -> bool:
        """Take from dead processes what they held; say whether there was any."""
        names = [name for (name,) in connection.execute(sql.HOLDERS, (key,)).fetchall()]
        dead = [(key, name) for name in names if is_dead(os.path.join(self._holders, name))]
        connection.executemany(sql.LET_GO, dead)
        return bool(dead)

    def let_go(self, key: str) -> None:
        holder = self._holder
        if holder is None or not holder.is_ours:
            return
        holder.owed.append(key)
        try:
            self._give_back_owed(holder)
        except StoreError as error:
            _logger.warning("A place under the limit %r stays taken until it can be given back: %s", key, error)
            self._try_again_later(holder)

    def _give_back_owed(self, holder: Holder) -> None:
        given: list[str] = []
        try:
            with self.database.write as connection:
                while holder.owed:
                    given.append(holder.owed.popleft())
                    place = (given[-1], holder.name)
                    if connection.execute(sql.LET_GO_OF_ONE, place).rowcount == 0:
                        connection.execute(sql.LET_GO, place)
        except StoreReplaced:
            holder.owed.clear()  # what it held has gone with the file
        except BaseException:
            holder.owed.extend(given)
            raise

    def _try_again_later(self, holder: Holder) -> None:
        """Nobody else can: while this process lives, its places count as taken."""
        if not holder.is_trying_again:
            holder.is_trying_again = True
            again = threading.Timer(PAUSE, self._try_again, (holder,))
            again.daemon = True
            with suppress(RuntimeError):  # the interpreter shuts down, and the process is about to end
                again.start()

    def _try_again(self, holder: Holder) -> None:
        holder.is_trying_again = False
        try:
            if holder.is_ours and holder.owed:
                self._give_back_owed(holder)
        except StoreError:
            self._try_again_later(holder)

    def _forget_dead_holders(self) -> None:
        if dead_in(self._holders):
            with self.database.write as connection:
                dead = dead_in(self._holders)  # again: nobody in here is just about to make one
                names = [(os.path.basename(path),) for path in dead]
                connection.executemany(sql.FORGET_HOLDER, names)
            for path in dead:  # not before: where the file is, the housekeeper finds the rows
                with suppress(OSError):
                    os.unlink(path)

    def _close_holder(self) -> None:
        """Remove this process's file, unless some thread is still inside of a limit."""
        holder = self._holder
        if holder is not None and holder.is_ours:
            with suppress(StoreError):
                self._give_back_owed(holder)
                with self.database.read as connection:
                    (holds_any,) = connection.execute(sql.HOLDS_ANY, (holder.name,)).fetchone()
                if not holds_any:
                    self._holder = None
                    holder.close()
