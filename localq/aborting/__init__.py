"""Aborting messages: those that wait never run, those that run are interrupted."""

from __future__ import annotations

from ..threading import Abort
from .backend import Event, EventBackend, StoreBackend
from .middleware import Abortable, abort, abort_requested
from .running import AbortMode

__all__ = [
    "Abort",
    "AbortMode",
    "Abortable",
    "Event",
    "EventBackend",
    "StoreBackend",
    "abort",
    "abort_requested",
]
