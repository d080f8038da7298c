"""Where rate limiters can count."""

from __future__ import annotations

from .sqlite import SQLiteBackend
from .stub import StubBackend

__all__ = ["SQLiteBackend", "StubBackend"]
