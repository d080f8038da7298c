"""So many at a time."""

from __future__ import annotations

from .backend import RateLimiterBackend
from .rate_limiter import RateLimiter


class ConcurrentRateLimiter(RateLimiter):
    """Lets up to `limit` in at the same time. With a limit of 1 it is a mutex over all processes.

    Parameters:
      backend, key: as `RateLimiter`.
      limit: how many at a time.
      ttl: milliseconds after the last step of any of them when all places are free again: so long
        does the place of one that was killed stay taken.
    """

    def __init__(self, backend: RateLimiterBackend, key: str, *, limit: int = 1, ttl: int = 900_000) -> None:
        assert limit >= 1, f"a limit is at least 1, not {limit!r}"
        super().__init__(backend, key)
        self.limit = limit
        self.ttl = ttl

    def _acquire(self) -> bool:
        # A backend may know nothing of counters that were not added.
        return self.backend.add(self.key, 1, self.ttl) or self.backend.incr(self.key, 1, self.limit, self.ttl)

    def _release(self) -> object:
        return self.backend.decr(self.key, 1, 0, self.ttl)
