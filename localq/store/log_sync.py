"""Waiting for the disk after a commit: what ``durability="full"`` adds.

SQLite's own way (``synchronous=FULL``) is to wait within each commit, and so inside of the gate, where all others
wait too. Here a commit is made as with NORMAL, and its process has the log written to the disk once it has left
the gate: others commit meanwhile, and one wait serves all threads whose commits came before it. What is on the
disk is always a beginning of the log, so nothing is there without what came before it.
"""

from __future__ import annotations

import itertools
import threading

from ..errors import StoreError
from ..files import write_through


class LogSync:
    """Has the log of one file written to the disk, for all threads of this process.

    Parameters:
      path: the database's.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.RLock()  # a signal handler may find its own thread inside
        self._tickets = itertools.count(1)
        self._done = 0

    def wait(self) -> None:
        """Return when all that was committed before is on the disk.

        Raises:
          StoreError: the system could not write it there.
        """
        ticket = next(self._tickets)
        with self._lock:
            if self._done > ticket:  # somebody began to write after our commit
                return
            begun = next(self._tickets)
            try:
                write_through(self._path + "-wal")
            except FileNotFoundError:
                pass  # the last connection was closed meanwhile, and has written it back, to the disk
            except OSError as error:
                raise StoreError(
                    f"{self._path!r} was written, but the system could not bring it to the disk "
                    f"({error.strerror or error}): it may not survive a power cut; look at the disk and at the "
                    "system's log"
                ) from error
            self._done = begun
