"""Events in an SQLite file, the queue's own or another."""

from __future__ import annotations

import os
from functools import cached_property

from ...store import Store, open_store, sqlite_url
from ..backend import StoreBackend


class SQLiteBackend(StoreBackend):
    """Keeps events in the file at `path`; a broker on the same path shares it.

    Parameters:
      path: the file; made where there is none, when it is first used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(lambda: self._opened)
        self.url = sqlite_url(path)

    @cached_property
    def _opened(self) -> Store:
        return open_store(self.url)
