"""The functions that all contenders run."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

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


def rest(milliseconds: float) -> None:
    """Sleep, as a task does that waits for something."""
    time.sleep(milliseconds / 1000)


def compute(milliseconds: float) -> None:
    """Use up so much of a core. What others take of it meanwhile does not count."""
    end = time.thread_time_ns() + round(milliseconds * 1e6)
    while time.thread_time_ns() < end:
        pass


def swallow(data: bytes) -> None:
    """Nothing, with something large to carry."""


def say() -> None:
    """One line into the log."""
    _logger.info("A line.")


_logger = logging.getLogger(__name__)

ALL: tuple[Callable[..., Any], ...] = (noop, hold, mark, stamp, rest, compute, swallow, say)
