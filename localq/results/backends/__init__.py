"""Where results can be kept."""

from __future__ import annotations

from .sqlite import SQLiteBackend

__all__ = ["SQLiteBackend"]
