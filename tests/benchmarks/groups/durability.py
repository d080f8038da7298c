"""Commits that wait for the disk: `durability=full`."""

from __future__ import annotations

import threading
import time

from .. import measures, raw_loop
from ..columns import ONE_THREAD, OURS, RAW
from ..contender import Contender
from ..run import Run

THREADS = 8


def measure(run: Run) -> None:
    """One row a commit, by the bare loop, by one thread of localq, and by several of one process."""
    rate = raw_loop.enqueue_each(run.size.full, full=True)
    for figure in ("full", "full_threads"):
        run.samples.add(figure, RAW, rate)
    with run.ours("?durability=full") as contender:
        contender.send_one("noop")  # opens the file
        alone = measures.enqueue_each(contender, run.size.full)
        run.samples.add("full", OURS, alone)
        run.samples.add("full_threads", ONE_THREAD, alone)
        run.samples.add("full_threads", OURS, _with_threads(contender, run.size.full))


def _with_threads(contender: Contender, count: int) -> float:
    """Messages a second, by threads that send at once."""
    start = threading.Barrier(THREADS + 1)
    send, each = contender.send["noop"], count // THREADS or 1

    def work() -> None:
        send()  # once, so that all of them are under way
        start.wait()
        for _ in range(each):
            send()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    begin = time.monotonic()
    for thread in threads:
        thread.join()
    return each * THREADS / (time.monotonic() - begin)
