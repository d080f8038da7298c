"""Functions in processes of their own, started at the same moment."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

context = multiprocessing.get_context("fork")


@dataclass(slots=True)
class Finished:
    """What they took and returned."""

    begin: float
    """When the first started, by the clock that all processes share."""
    end: float
    """When the last ended."""
    values: list[Any]

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return self.end - self.begin


def in_processes(prepared: list[Callable[[], Callable[[], Any]]]) -> Finished:
    """Fork a process for each, let it prepare, and call what comes back, in all of them at once."""
    start = context.Barrier(len(prepared))
    reports, processes = [], []
    try:
        for prepare in prepared:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(prepare, start, theirs), daemon=True)
            process.start()
            theirs.close()
            reports.append(ours)
            processes.append(process)
        times = [report.recv() for report in reports]
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.join()
    begins, ends, values = zip(*times, strict=True)
    return Finished(min(begins), max(ends), list(values))


def _child(prepare: Callable[[], Callable[[], Any]], start: Any, report: Any) -> None:
    function = prepare()
    start.wait(60)
    begin = time.monotonic()
    value = function()
    report.send((begin, time.monotonic(), value))
