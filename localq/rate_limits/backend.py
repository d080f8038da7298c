"""Where rate limiters and barriers count, and how those who wait are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..clock import clock
from ..store import Store, Value


class RateLimiterBackend:
    """Counters with bounds, and events to wait for.

    The first four are atomic over all that use the same place. `ttl` and `timeout` are
    milliseconds; a counter is forgotten when its `ttl` is over, which each step renews.
    """

    def add(self, key: str, value: int, ttl: int) -> bool:
        """Create a counter unless it is there; say whether it was created."""
        raise NotImplementedError(f"{type(self).__name__} has no add()")

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        """Add to a counter (0 if missing) unless it would pass `maximum`; say whether it was done."""
        raise NotImplementedError(f"{type(self).__name__} has no incr()")

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        """Take from a counter (0 if missing) unless it would fall below `minimum`; say whether."""
        raise NotImplementedError(f"{type(self).__name__} has no decr()")

    def incr_and_sum(
        self, key: str, keys: Callable[[], Sequence[str]], amount: int, maximum: int, ttl: int
    ) -> bool:
        """As `incr`, but the sum over `keys()` and the amount may not pass `maximum` either."""
        raise NotImplementedError(f"{type(self).__name__} has no incr_and_sum()")

    def wait(self, key: str, timeout: int | None) -> bool:
        """Wait until `wait_notify` was called for the key, up to `timeout` (None: for ever); say
        whether it was."""
        raise NotImplementedError(f"{type(self).__name__} has no wait()")

    def wait_notify(self, key: str, ttl: int) -> None:
        """Let all who wait for the key go on, and for `ttl` all who come later."""


class StoreBackend(RateLimiterBackend):
    """Counts in a store of messages. Who waits is woken when the event comes.

    Parameters:
      open_store: gives the store; called when it is first needed.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def store(self) -> Store:
        """The store that counts."""
        return self._open_store()

    def add(self, key: str, value: int, ttl: int) -> bool:
        return self.store.add(key, value, ttl, now=clock.wall())

    def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
        return self.store.incr(key, amount, maximum, ttl, now=clock.wall())

    def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
        return self.store.decr(key, amount, minimum, ttl, now=clock.wall())

    def incr_and_sum(
        self, key: str, keys: Callable[[], Sequence[str]], amount: int, maximum: int, ttl: int
    ) -> bool:
        return self.store.incr_and_sum(key, keys, amount, maximum, ttl, now=clock.wall())

    def hold(self, key: str, maximum: int) -> bool:
        """Take a place under the key, unless so many are taken; say whether. It is taken until `let_go`
        or until this process has died."""
        return self.store.hold(key, maximum)

    def let_go(self, key: str) -> None:
        """Give back a place that this process has taken."""
        self.store.let_go(key)

    def wait(self, key: str, timeout: int | None) -> bool:
        return self.store.wait_value(_event(key), clock=clock.wall, timeout=timeout) is not None

    def wait_notify(self, key: str, ttl: int) -> None:
        self.store.set_values([Value(_event(key), b"", ttl)], now=clock.wall())


def _event(key: str) -> str:
    # Results lie among the values too, and under keys that users can choose.
    return f"rate-limits:{key}"
