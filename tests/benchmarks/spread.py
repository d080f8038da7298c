"""How times are spread, and the pauses between the tries."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

SHORTEST_GAP, LONGEST_GAP = 0.015, 0.045


def gaps() -> Iterator[float]:
    """Seconds between messages that are to find the workers asleep: the same for everybody."""
    chance = random.Random(1)
    while True:
        yield chance.uniform(SHORTEST_GAP, LONGEST_GAP)


@dataclass(slots=True)
class Spread:
    """Milliseconds that half of the tries, and 99 of 100, took at most."""

    p50: float
    p99: float


def spread_of(nanoseconds: list[int]) -> Spread:
    """The spread of times.

    >>> spread_of([3_000_000, 1_000_000, 2_000_000])
    Spread(p50=2.0, p99=3.0)
    """
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return Spread(ordered[round(last * 0.5)] / 1e6, ordered[round(last * 0.99)] / 1e6)
