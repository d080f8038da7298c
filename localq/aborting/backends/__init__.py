"""Where events can be kept."""

from __future__ import annotations

from ..backend import StoreBackend
from .sqlite import SQLiteBackend
from .stub import StubBackend

__all__ = ["SQLiteBackend", "StoreBackend", "StubBackend"]
