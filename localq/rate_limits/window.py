"""So many in any stretch of time."""

from __future__ import annotations

from ..clock import clock
from .backend import RateLimiterBackend
from .rate_limiter import RateLimiter


class WindowRateLimiter(RateLimiter):
    """Lets up to `limit` in during the last `window` seconds, whenever one looks.

    It keeps a counter for each second of the window, and adds them up at each try.

    Parameters:
      backend, key: as `RateLimiter`.
      limit: how many in each window.
      window: whole **seconds**, unlike other times of this library.
    """

    def __init__(self, backend: RateLimiterBackend, key: str, *, limit: int = 1, window: int = 1) -> None:
        assert limit >= 1, f"a limit is at least 1, not {limit!r}"
        assert window >= 1, f"a window is at least 1 second, not {window!r}"
        super().__init__(backend, key)
        self.limit = limit
        self.window = window
        self.window_millis = window * 1000

    def _keys(self) -> list[str]:
        second = clock.wall() // 1000
        return [f"{self.key}@{second - ago}" for ago in range(self.window)]

    def _acquire(self) -> bool:
        return self.backend.incr_and_sum(self._keys()[0], self._keys, 1, self.limit, self.window_millis)

    def _release(self) -> object:
        return None
