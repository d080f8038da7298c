"""Rate limits in an SQLite file, the queue's own or another."""

from __future__ import annotations

import os
from functools import cached_property

from ... import current
from ...store import Store, open_store, sqlite_url
from ..backend import StoreBackend


class SQLiteBackend(StoreBackend):
    """Counts in the file at `path`, for all processes of this machine; a broker on the same path
    shares it.

    Parameters:
      path: the file; made where there is none, when it is first used. By default the store of the
        broker that is the global one at that moment (of ``memory://``: this process's memory).
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(lambda: current.get_broker().store if self.url is None else self._opened)
        self.url = None if path is None else sqlite_url(path)

    @cached_property
    def _opened(self) -> Store:
        assert self.url is not None
        return open_store(self.url)
