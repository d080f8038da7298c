"""What the measurements need of a library: how its tasks are sent, and how its workers are started."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder in which ``tests`` and ``localq`` are importable."""

QUEUE = "default"
RESULT_TIMEOUT = 60_000
"""Milliseconds after which a result that has not come is an error."""


@dataclass(slots=True)
class Contender:
    """One library, connected to a fresh and empty queue.

    It knows the functions of `tasks`, and keeps all their results.
    """

    name: str
    send: dict[str, Callable[..., Any]]
    """By the name of a task: what sends it, the library's own call; what that returns is for `result`."""
    result: Callable[[Any], Any]
    """Waits for the result of what was sent, and returns it."""
    over: Callable[[int], bool]
    """Whether nothing is waiting or running, when so many were sent since it was connected."""
    command: Callable[[int, int], list[str]]
    """The worker program, for so many processes of so many threads."""
    environment: dict[str, str]
    """That of the worker program."""
    close: Callable[[], None]
    send_bulk: Callable[[int], Any] | None = None
    """Sends so many no-ops in one call; None where the library has no such call."""
    servers: list[int] = field(default_factory=list)
    """Processes that it needs besides its workers."""
    threads: int = 1
    """How many of a process drain no-ops best."""
    for_long_tasks: dict[str, str] = field(default_factory=dict)
    """What to change in that environment where tasks take a millisecond and more."""
    sent: int = 0
    """How many messages went out; whoever uses `send` or `send_bulk` counts them."""

    def send_one(self, task: str, *args: Any) -> Any:
        """Send one message; what comes back is for `result`."""
        self.sent += 1
        return self.send[task](*args)

    def send_each(self, task: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        """Send messages one by one."""
        send = self.send[task]
        for args in arguments:
            send(*args)
        self.sent += len(arguments)

    def send_noops(self, count: int) -> None:
        """Send no-ops, in one call where there is such a call."""
        if self.send_bulk is None:
            self.send_each("noop", [()] * count)
        else:
            self.send_bulk(count)
            self.sent += count

    def is_over(self) -> bool:
        """Whether nothing is waiting or running."""
        return self.over(self.sent)


def environment_with(**variables: str) -> dict[str, str]:
    """The environment of a worker program."""
    paths = [ROOT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
