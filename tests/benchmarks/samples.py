"""What was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .spread import spread_of


@dataclass(slots=True)
class Samples:
    """By figure and column; a value a round, and every single time of the latencies."""

    taken: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    times: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(self, figure: str, column: str, value: float | None) -> None:
        """Note a value; None is none."""
        if value is not None:
            self.taken.setdefault(figure, {}).setdefault(column, []).append(value)

    def add_times(self, figure: str, column: str, nanoseconds: list[int]) -> None:
        """Note the times of one round, and what half of them and 99 of 100 took at most."""
        self.times.setdefault(figure, {}).setdefault(column, []).extend(nanoseconds)
        spread = spread_of(nanoseconds)
        self.add(f"{figure}_p50", column, spread.p50)
        self.add(f"{figure}_p99", column, spread.p99)

    def median(self, figure: str, column: str) -> float | None:
        """The median over the rounds, or None where nothing was measured."""
        values = self.taken.get(figure, {}).get(column)
        return median(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """For a file; the times in whole microseconds."""
        medians = {
            figure: {column: median(values) for column, values in columns.items()}
            for figure, columns in self.taken.items()
        }
        times = {
            figure: {column: [each // 1000 for each in values] for column, values in columns.items()}
            for figure, columns in self.times.items()
        }
        return {"samples": self.taken, "medians": medians, "microseconds": times}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Samples:
        """What `as_dict` made, to be drawn again."""
        times = {
            figure: {column: [each * 1000 for each in values] for column, values in columns.items()}
            for figure, columns in document["microseconds"].items()
        }
        return cls(document["samples"], times)
