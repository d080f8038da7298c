"""Ending a message from outside: one that waits never runs, one that runs is interrupted."""

from __future__ import annotations

from .backend import Event, EventBackend
from .middleware import Abort, Abortable, AbortMode, abort, abort_requested

__all__ = [
    "Abort",
    "AbortMode",
    "Abortable",
    "Event",
    "EventBackend",
    "abort",
    "abort_requested",
]
