"""Rate limits in memory: for tests."""

from __future__ import annotations

from typing import Any

from ...store import MemoryStore
from ..backend import StoreBackend


class StubBackend(StoreBackend):
    """Counts in this process alone."""

    def __init__(self) -> None:
        super().__init__(lambda: self._memory)
        self._memory = MemoryStore()

    @property
    def db(self) -> dict[str, Any]:
        """A copy of what is kept, by key. Set it to ``{}`` to forget everything."""
        return self._memory.kept()

    @db.setter
    def db(self, empty: dict[str, Any]) -> None:
        if empty:
            raise ValueError("db can only be emptied: set it to {}")
        self._memory.forget_kept()
