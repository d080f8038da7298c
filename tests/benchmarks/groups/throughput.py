"""Sending, running, and both at once, of no-ops."""

from __future__ import annotations

from .. import measures, process_pool, raw_loop
from ..columns import POOL, RAW
from ..contender import Contender
from ..crew import crew
from ..run import Run


def measure(run: Run) -> None:
    """Sending alone first, then with two processes that work."""
    _send(run)
    _work(run)


def _send(run: Run) -> None:
    count, add = run.size.messages, run.samples.add
    add("enqueue_each", RAW, raw_loop.enqueue_each(count))
    add("enqueue_bulk", RAW, raw_loop.enqueue_bulk(count))

    def send(contender: Contender) -> None:
        count = run.messages(contender)
        add("enqueue_each", contender.name, measures.enqueue_each(contender, count))
        add("enqueue_bulk", contender.name, measures.enqueue_bulk(contender, count))

    run.in_turns(send)


def _work(run: Run) -> None:
    count, add = run.size.messages, run.samples.add
    add("drain", RAW, raw_loop.drain(count))
    add("together", RAW, raw_loop.together(count))
    add("together", POOL, process_pool.together(count))

    def work(contender: Contender) -> None:
        count = run.messages(contender)
        with crew(contender, threads=contender.threads) as workers:
            add("drain", contender.name, measures.drain_noops(contender, workers, count))
            add("together", contender.name, measures.together(contender, workers, count))

    run.in_turns(work)
