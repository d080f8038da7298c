"""The samples, and the table that is made of their medians."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from . import actors, peer

OURS, RAW, PEER = actors.NAME, "raw loop", peer.NAME


@dataclass(slots=True, frozen=True)
class Row:
    """One line: `name` is its key, `digits` are those after the point."""

    name: str
    label: str
    unit: str
    digits: int = 0


ROWS = (
    Row("enqueue_each", "enqueue one by one", "messages/s"),
    Row("enqueue_bulk", "enqueue in bulk (one call)", "messages/s"),
    Row("drain", "drain: 2 processes x 1 thread", "messages/s"),
    Row("drain_8", "  the same, dramatiq with 8 threads", "messages/s"),
    Row("drain_best", "  the same, and a prefetch of 100", "messages/s"),
    Row("together", "1 sender and 2 workers at once", "messages/s"),
    Row("pick_up_p50", "send to start, workers asleep: p50", "ms", 3),
    Row("pick_up_p99", "                               p99", "ms", 3),
    Row("round_trip_p50", "send to result in hand: p50", "ms", 3),
    Row("round_trip_p99", "                        p99", "ms", 3),
    Row("idle_cpu", "idle pool: of one core", "%", 2),
    Row("idle_wake_ups", "idle pool: wake-ups", "1/s", 1),
    Row("memory", "idle pool: memory (PSS)", "MB", 1),
)


@dataclass(slots=True)
class Samples:
    """What was measured, by row and contender; a value a round."""

    taken: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, contender: str, value: float | None) -> None:
        """Note a value; None is none."""
        if value is not None:
            self.taken.setdefault(row, {}).setdefault(contender, []).append(value)

    def median(self, row: str, contender: str) -> float | None:
        """The median over the rounds, or None where nothing was measured."""
        values = self.taken.get(row, {}).get(contender)
        return median(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """For a file: every row with its unit, samples and medians."""
        return {
            row.name: {
                "label": row.label.strip(),
                "unit": row.unit,
                "samples": self.taken[row.name],
                "medians": {name: median(values) for name, values in self.taken[row.name].items()},
            }
            for row in ROWS
            if row.name in self.taken
        }


def table(samples: Samples) -> str:
    """The medians side by side, and ours divided by the others'."""
    head = ("", "", OURS, RAW, "ours/raw", PEER, "ours/theirs")
    lines = [_line(head), _line(["-" * width for width in _WIDTHS])]
    lines += [_line(_cells(row, samples)) for row in ROWS if row.name in samples.taken]
    return "\n".join(lines)


_WIDTHS = (37, 10, 10, 10, 9, 16, 11)


def _cells(row: Row, samples: Samples) -> list[str]:
    ours, raw, theirs = (samples.median(row.name, name) for name in (OURS, RAW, PEER))
    shown = [_number(value, row.digits) for value in (ours, raw, theirs)]
    return [row.label, row.unit, shown[0], shown[1], _ratio(ours, raw), shown[2], _ratio(ours, theirs)]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _ratio(ours: float | None, other: float | None) -> str:
    return f"{ours / other:.3g}" if ours is not None and other else ""


def _line(cells: Any) -> str:
    label, unit, *numbers = cells
    columns = [f"{cell:>{width}}" for cell, width in zip(numbers, _WIDTHS[2:], strict=True)]
    return "  ".join([f"{label:{_WIDTHS[0]}}", f"{unit:{_WIDTHS[1]}}", *columns]).rstrip()
