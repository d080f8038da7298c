"""So many in each interval of the clock."""

from __future__ import annotations

from ..clock import clock
from .backend import RateLimiterBackend
from .rate_limiter import RateLimiter


class BucketRateLimiter(RateLimiter):
    """Lets up to `limit` in during each interval of `bucket` milliseconds.

    Cheap. At the end of one interval and the beginning of the next twice as many can come close
    together; `WindowRateLimiter` bounds that too.

    Parameters:
      backend, key: as `RateLimiter`.
      limit: how many in each interval.
      bucket: milliseconds of an interval. The first began with the epoch.
    """

    def __init__(self, backend: RateLimiterBackend, key: str, *, limit: int = 1, bucket: int = 1000) -> None:
        assert limit >= 1, f"a limit is at least 1, not {limit!r}"
        assert bucket >= 1, f"a bucket is at least 1 millisecond, not {bucket!r}"
        super().__init__(backend, key)
        self.limit = limit
        self.bucket = bucket

    def _acquire(self) -> bool:
        now = clock.wall()
        key = f"{self.key}@{now - now % self.bucket}"
        return self.backend.add(key, 1, self.bucket) or self.backend.incr(key, 1, self.limit, self.bucket)

    def _release(self) -> object:
        return None
