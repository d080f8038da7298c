"""A store that holds much, beside one that holds a thousand of each."""

from __future__ import annotations

from statistics import median

from ..columns import OURS, THOUSAND
from ..filled import filled
from ..run import Run
from ..verbs import VERBS, nanoseconds

FEW = 1_000


def measure(run: Run) -> None:
    """Each verb on both, one right after the other; the median of its calls, in microseconds."""
    few = run.kept("few", lambda: filled(FEW))
    many = run.kept("many", lambda: filled(run.size.many))
    for verb in VERBS:
        for column, ready in ((THOUSAND, few), (OURS, many)):
            run.samples.add(f"verb_{verb}", column, median(nanoseconds(ready, verb, run.size.calls)) / 1000)
