"""The functions that both contenders run."""

from __future__ import annotations

import os
import threading
import time

LOOK = 0.001
"""Seconds between two looks of a held worker for its release."""

RELEASE = "release"


def noop() -> None:
    """Nothing: what is measured is the way here and back."""


def hold(folder: str) -> None:
    """Say that this thread is there, and keep it until it is released."""
    with open(os.path.join(folder, f"held-{os.getpid()}-{threading.get_ident()}"), "wb"):
        pass
    while not os.path.exists(os.path.join(folder, RELEASE)):
        time.sleep(LOOK)


def mark(path: str) -> None:
    """Leave a file: all that was sent before has been started."""
    with open(path, "wb"):
        pass


def stamp() -> int:
    """When this runs, in nanoseconds of the clock that all processes share."""
    return time.monotonic_ns()
