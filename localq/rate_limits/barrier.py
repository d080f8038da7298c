"""Waiting until a number of parties have arrived."""

from __future__ import annotations

from .backend import RateLimiterBackend


class Barrier:
    """Lets nobody pass until all parties are there.

    A key serves once: the next barrier needs another (a UUID, for example).

    Parameters:
      backend: where the parties are counted.
      key: the name of the barrier.
      ttl: milliseconds after the last arrival when it is forgotten.
    """

    def __init__(self, backend: RateLimiterBackend, key: str, *, ttl: int = 900_000) -> None:
        self.backend = backend
        self.key = key
        self.key_events = f"{key}@events"
        self.ttl = ttl

    def create(self, parties: int) -> bool:
        """Make the barrier for so many parties; say whether it was not there yet."""
        assert parties > 0, f"a barrier is for at least one party, not for {parties!r}"
        return self.backend.add(self.key, parties, self.ttl)

    def wait(self, *, block: bool = True, timeout: int | None = None) -> bool:
        """Arrive, and say whether all parties are there.

        Parameters:
          block: whether to wait for them.
          timeout: milliseconds to wait; None for no end.
        """
        if not self.backend.decr(self.key, 1, 1, self.ttl):
            self.backend.wait_notify(self.key_events, self.ttl)
            return True
        return block and self.backend.wait(self.key_events, timeout)
