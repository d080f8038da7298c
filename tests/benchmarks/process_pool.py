"""Python's own pool of processes: it stores nothing, and forgets all when its program dies."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor

from . import tasks
from .forks import context


def together(count: int, *, processes: int = 2) -> float:
    """Calls a second: one `submit` a task, while the workers run them; until the last result is in hand."""
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for future in [pool.submit(tasks.rest, 50) for _ in range(processes)]:  # until all of them are there
            future.result()
        begin = time.monotonic()
        futures = [pool.submit(tasks.noop) for _ in range(count)]
        for future in futures:
            future.result()
        return count / (time.monotonic() - begin)
