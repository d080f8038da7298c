"""The table: one line for each figure and each thing that it is divided by."""

from __future__ import annotations

from collections.abc import Sequence

from .columns import OURS
from .goals import Figure, Goal
from .samples import Samples

HEAD = ("medians", "", OURS, "divided by", "that", "ratio", "goal", "")
_WIDTHS = (48, 10, 9, 26, 9, 7, 7, 11)
_LEFT = (0, 1, 3, 7)
"""The columns of words; the others are numbers."""


def table(figures: Sequence[Figure], samples: Samples) -> str:
    """What was measured of these figures."""
    lines = [_line(HEAD), _line(["-" * width for width in _WIDTHS])]
    for figure in figures:
        lines += map(_line, _rows(figure, samples))
    return "\n".join(lines)


def _rows(figure: Figure, samples: Samples) -> list[Sequence[str]]:
    """The figure itself stands in the first one only; none, where it was not measured."""
    ours = samples.median(figure.name, OURS)
    if ours is None:
        return []
    beside = [cells for goal in figure.goals if (cells := _cells(figure, goal, ours, samples))]
    begins = [(figure.label, figure.unit, _number(ours, figure.digits))] + [("", "", "")] * len(beside)
    return [(*begin, *cells) for begin, cells in zip(begins, beside or [("",) * 5], strict=False)]


def _cells(figure: Figure, goal: Goal, ours: float, samples: Samples) -> Sequence[str] | None:
    """None where the divisor was not measured."""
    if goal.divisor is None:
        return ("(the figure itself)", "", "", str(goal), _mark(goal, ours))
    other = samples.median(figure.name, goal.divisor)
    if not other:
        return None
    ratio = ours / other
    return (goal.divisor, _number(other, figure.digits), f"{ratio:.3g}", str(goal), _mark(goal, ratio))


def _mark(goal: Goal, value: float) -> str:
    return {True: "reached", False: "NOT REACHED", None: ""}[goal.is_reached(value)]


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    padded = [
        f"{cell:{width}}" if place in _LEFT else f"{cell:>{width}}"
        for place, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    ]
    return "  ".join(padded).rstrip()
