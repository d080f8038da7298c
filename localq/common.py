"""Small functions that dramatiq keeps in one place, for who imports them from there."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any, overload

from .clock import Deadline, compute_backoff, current_millis
from .errors import QueueJoinTimeout
from .names import dq_name, q_name, xq_name

__all__ = [
    "compute_backoff",
    "current_millis",
    "dq_name",
    "getenv_int",
    "iter_queue",
    "join_all",
    "join_queue",
    "q_name",
    "xq_name",
]


@overload
def getenv_int(name: str) -> int | None: ...
@overload
def getenv_int(name: str, default: int) -> int: ...
def getenv_int(name: str, default: int | None = None) -> int | None:
    """A whole number from the environment, or `default` where there is none.

    Raises:
      ValueError: the variable holds something else.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name} is a whole number, not {text!r}") from None


def iter_queue(source: queue.Queue[Any]) -> Iterator[Any]:
    """Take what is in a queue, until it is empty."""
    while True:
        try:
            yield source.get_nowait()
        except queue.Empty:
            return


def join_queue(source: queue.Queue[Any], timeout: float | None = None) -> None:
    """Wait until all that was put into a queue is done.

    Raises:
      QueueJoinTimeout: it is not after `timeout` seconds.
    """
    deadline = Deadline(None if timeout is None else timeout * 1000)
    while left := source.unfinished_tasks:  # polled: the stub broker's queues are no real ones
        if deadline.passed():
            raise QueueJoinTimeout(f"after {timeout} s the queue still has {left} unfinished tasks")
        time.sleep(0.001)


def join_all(joinables: Iterable[Any], timeout: float) -> None:
    """Join threads, or what else can be joined, for at most `timeout` milliseconds in all."""
    deadline = Deadline(timeout)
    for joinable in joinables:
        joinable.join(timeout=(deadline.left() or 0) / 1000)
