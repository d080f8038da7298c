"""Time: the clock that everything reads, deadlines, and the backoff between tries.

The public API counts in milliseconds, and so does everything here.
"""

from __future__ import annotations

import threading
import time
from random import uniform


class Clock:
    """What time it is, in milliseconds, and how to wait for a later one.

    A test puts another clock in the place of `clock` to own the time.
    """

    def wall(self) -> int:
        """Whole milliseconds since the epoch: what an eta is compared with."""
        return int(time.time() * 1000)  # not time_ns: who tests with a time of their own replaces this one

    def monotonic(self) -> float:
        """Milliseconds, with their fraction, of a clock that never jumps: what a limit is measured with."""
        return time.monotonic() * 1000

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait up to `timeout` milliseconds (None: for ever) for `event`; say whether it came."""
        return event.wait(None if timeout is None else timeout / 1000)


clock = Clock()


class Deadline:
    """A moment on the monotonic clock, or never.

    Parameters:
      timeout: milliseconds from now; None is a deadline that never comes.
    """

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else clock.monotonic() + timeout

    def left(self) -> float | None:
        """Milliseconds until then, not below 0; None for never."""
        return None if self._at is None else max(0.0, self._at - clock.monotonic())

    def passed(self) -> bool:
        """Whether the moment has come."""
        return self._at is not None and clock.monotonic() >= self._at


def current_millis() -> int:
    """Milliseconds since the epoch, a whole number."""
    return clock.wall()


def compute_backoff(
    attempts: int,
    *,
    factor: int = 5,
    jitter: bool = True,
    max_backoff: int = 2000,
    max_exponent: int = 32,
) -> tuple[int, int]:
    """How long to wait after the given number of tries: it doubles each time.

    Parameters:
      attempts: tries so far, 0 for the first wait.
      factor: milliseconds of the first wait.
      jitter: whether to draw the wait from its upper half, so that many do not return together.
      max_backoff: milliseconds that no wait exceeds.
      max_exponent: where the doubling ends.

    Returns:
      The number of tries plus one, and the wait in milliseconds.

    >>> compute_backoff(3, factor=100, jitter=False)
    (4, 800)
    >>> compute_backoff(9, factor=100, jitter=False)
    (10, 2000)
    """
    wait = min(factor * 2 ** min(attempts, max_exponent), max_backoff)
    if jitter:
        wait = round(uniform(wait / 2, wait))
    return attempts + 1, wait
