"""So many at a time."""

from __future__ import annotations

from .backend import RateLimiterBackend, StoreBackend
from .rate_limiter import RateLimiter


class ConcurrentRateLimiter(RateLimiter):
    """Lets up to `limit` in at the same time. With a limit of 1 it is a mutex over all processes.

    A place is free again when whoever is inside leaves, or as soon as its process has died. While
    that lives, the place stays taken, however long it works or is stopped. (Threads and coroutines
    of one process each take a place. A child that is forked inside has none: leaving there gives
    nothing back.)

    Parameters:
      backend, key: as `RateLimiter`.
      limit: how many at a time.
      ttl: for backends of your own, which only count and cannot see that a process lives: milliseconds
        after the last step of any of them when all places are free again. So long does the place of
        one that was killed stay taken there, and who works for longer may find others beside it.
    """

    def __init__(self, backend: RateLimiterBackend, key: str, *, limit: int = 1, ttl: int = 900_000) -> None:
        assert limit >= 1, f"a limit is at least 1, not {limit!r}"
        super().__init__(backend, key)
        self.limit = limit
        self.ttl = ttl

    # Not through verbs of the base of all backends: those that others wrote only have dramatiq's.

    def _acquire(self) -> bool:
        if isinstance(self.backend, StoreBackend):
            return self.backend.hold(self.key, self.limit)
        # A backend may know nothing of counters that were not added.
        return self.backend.add(self.key, 1, self.ttl) or self.backend.incr(self.key, 1, self.limit, self.ttl)

    def _release(self) -> object:
        if isinstance(self.backend, StoreBackend):
            self.backend.let_go(self.key)
            return None
        return self.backend.decr(self.key, 1, 0, self.ttl)
