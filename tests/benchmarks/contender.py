"""What the measurements need of a library: its actors, and how its workers are started."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder in which ``tests`` and ``localq`` are importable."""

QUEUE = "default"
JOIN_TIMEOUT = 600_000
"""Milliseconds after which a queue that does not become empty is an error."""


@dataclass(slots=True)
class Contender:
    """One library, connected to a fresh and empty queue.

    The actors are those of `tasks`; all of them keep their results.
    """

    name: str
    noop: Any
    hold: Any
    mark: Any
    stamp: Any
    join: Callable[[], None]
    """Returns when nothing is waiting or running."""
    command: Callable[[int, int], list[str]]
    """The worker program, for so many processes of so many threads."""
    environment: dict[str, str]
    close: Callable[[], None]
    send_bulk: Callable[[int], Any] | None = None
    """Sends so many no-ops in one call; None where the library has no such call."""
    servers: list[int] = field(default_factory=list)
    """Processes that it needs besides its workers."""


def environment_with(**variables: str) -> dict[str, str]:
    """The environment of a worker program."""
    paths = [ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
