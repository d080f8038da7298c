"""What lies beside the database by name, and to which file it belongs.

SQLite finds a write-ahead log by its name alone. Beside a file that was put in the place of another one, the log of
the former would be played into it, and destroy it. So who opens the file notes in the gate which log belongs to
which file; who opens it next puts a log aside that belongs to a file which is not there any more.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from ..errors import StoreCorrupt
from ..files import Identity, identity
from ..logging import get_logger
from .gate import Gate

NOWHERE: Identity = (0, 0)


class Leftovers:
    """The log and the index of the file at `path`. All is done inside the gate.

    Parameters:
      side: the folder for what is put aside.
      gate: where the note is.
    """

    def __init__(self, path: str, side: str, gate: Gate) -> None:
        self._path = path
        self._side = side
        self._gate = gate

    def clear_away(self, is_made: bool) -> None:
        """Before the file is opened: put aside what belongs to another one.

        Parameters:
          is_made: whether the file was made just now, so that nothing belongs to it yet.

        Raises:
          StoreCorrupt: the file is empty and its log is not. SQLite would delete the log.
        """
        database, log, index = self._gate.noted_files()
        is_another = log != NOWHERE and database != identity(self._path)
        if is_made or (is_another and log == identity(self._path + "-wal")):
            self._put_aside(self._path + "-wal")
        if is_made or (is_another and index == identity(self._path + "-shm")):
            with suppress(FileNotFoundError):
                os.unlink(self._path + "-shm")
        if not size_of(self._path) and size_of(self._path + "-wal"):
            raise emptied(self._path)

    def _put_aside(self, log: str) -> None:
        if not size_of(log):
            with suppress(FileNotFoundError):
                os.unlink(log)
            return
        where = os.path.join(self._side, f"wal-of-a-former-file-{time.time_ns()}")
        os.rename(log, where)
        get_logger(__name__).warning(
            "%r was replaced or deleted, but not the write-ahead log beside it: that belongs to the former file, "
            "and is %r now.",
            self._path,
            where,
        )

    def note(self) -> None:
        """After the file was opened: this log belongs to it."""
        files = (self._path, self._path + "-wal", self._path + "-shm")
        self._gate.note_files(*(identity(file) or NOWHERE for file in files))

    def forget(self) -> None:
        """After the file was closed: the numbers of files that are not there may be given to others."""
        with suppress(OSError):
            if identity(self._path + "-wal") is None:
                self._gate.note_files(NOWHERE, NOWHERE, NOWHERE)


def emptied(path: str) -> StoreCorrupt:
    """What is said of a file that somebody has cut off."""
    return StoreCorrupt(
        f"{path!r} is empty, but the write-ahead log beside it is not: it was emptied while it was in use; stop "
        "all workers and restore a backup, or delete all files of that name to begin anew"
    )


def size_of(path: str) -> int:
    """Its bytes; 0 if it is not there."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
