"""What all rate limiters have in common: they let in, or raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RateLimitExceeded
from ..threading import shielded
from .backend import RateLimiterBackend

__all__ = ["RateLimitExceeded", "RateLimiter"]


class RateLimiter:
    """The base of rate limiters; a subclass has `_acquire` and `_release`.

    Parameters:
      backend: where it counts. All limiters of one key there share one limit.
      key: what is limited.
    """

    def __init__(self, backend: RateLimiterBackend, key: str) -> None:
        self.backend = backend
        self.key = key

    def _acquire(self) -> bool:
        """Take a place, if there is one; say whether."""
        raise NotImplementedError(f"{type(self).__name__} has no _acquire()")

    def _release(self) -> object:
        """Give a place back that was taken."""
        raise NotImplementedError(f"{type(self).__name__} has no _release()")

    @contextmanager
    def acquire(self, *, raise_on_failure: bool = True) -> Iterator[bool]:
        """A context with a place under the limit; its value says whether there was one.

        Raises:
          RateLimitExceeded: there was none, unless `raise_on_failure` is false. It does not wait.
        """
        held = _Held(self)
        try:
            with shielded():  # an interrupt in between would leave the place taken
                held.place = self._acquire()
            if raise_on_failure and not held.place:
                raise RateLimitExceeded(f"rate limit exceeded for key {self.key!r}")
            yield held.place
        finally:
            try:
                held.give_back()
            finally:  # again: an interrupt may have landed on the way there
                held.give_back()


class _Held:
    """A place that is given back once."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self.place = False

    def give_back(self) -> None:
        with shielded():
            if self.place:
                self.place = False
                self.limiter._release()
