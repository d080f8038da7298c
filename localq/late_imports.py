"""Modules that are imported when something first needs them, since each is dear at the start of a program."""

from __future__ import annotations

import importlib
import threading

LATE = ("asyncio", "decimal", "platformdirs", "sqlite3", "urllib.parse", "uuid", "zoneinfo")


def import_all_before_fork() -> None:
    """Have no other thread in the middle of one: the child would wait for ever for the import's lock.

    A program of one thread needs none of that.
    """
    if threading.active_count() > 1:
        for name in LATE:
            importlib.import_module(name)
