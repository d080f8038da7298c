"""Events in memory: for tests."""

from __future__ import annotations

from ...store import MemoryStore
from ..backend import StoreBackend


class StubBackend(StoreBackend):
    """Keeps events in this process alone."""

    def __init__(self) -> None:
        memory = MemoryStore()
        super().__init__(lambda: memory)
