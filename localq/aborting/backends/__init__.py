"""Where events can be kept."""

from __future__ import annotations

from .store import StoreBackend
from .stub import StubBackend

__all__ = ["StoreBackend", "StubBackend"]
