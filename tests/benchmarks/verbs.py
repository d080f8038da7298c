"""The verbs of a store, each as a call that leaves the store about as full as it was."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from localq.store import Claim, Outcome, Record, Selection, Value, WorkerRecord

from .contender import QUEUE
from .filled import DAY, LATER, Filled, now, record

BURST = 32
PAGE = 20
HELD, WAITING = "held", "waiting"

Timed = Callable[[], Any]


def put(ready: Filled) -> Timed:
    return lambda: ready.store.put([record()], now=now())


def put_delayed(ready: Filled) -> Timed:
    return lambda: ready.store.put([record(queue=LATER, eta=now() + DAY)], now=now())


def claim_and_finish(ready: Filled) -> Timed:
    ready.store.put([record()], now=now())
    return lambda: _run(ready, QUEUE, 1)


def claim_and_finish_burst(ready: Filled) -> Timed:
    ready.store.put([record() for _ in range(BURST)], now=now())
    return lambda: _run(ready, QUEUE, BURST)


def run_due(ready: Filled) -> Timed:
    ready.store.put([record(queue=LATER, eta=now() + 1)], now=now())
    return lambda: _run(ready, LATER, 1, now() + 2)


def wait_ready(ready: Filled) -> Timed:
    return lambda: _expect(ready.store.wait([QUEUE], now=now(), timeout=0), True)


def wait_for_nothing(ready: Filled) -> Timed:
    return lambda: _expect(ready.store.wait([LATER], now=now(), timeout=0), False)


def get_value(ready: Filled) -> Timed:
    key = next(_turns) % len(ready.keys)
    return lambda: ready.store.get_value(ready.keys[key], now=now())


def get_no_value(ready: Filled) -> Timed:
    return lambda: _expect(ready.store.get_value("f" * 32, now=now()), None)


def set_value(ready: Filled) -> Timed:
    key = ready.keys[next(_turns) % len(ready.keys)]
    return lambda: ready.store.set_values([Value(key, b"new", DAY)], now=now())


def delete_value(ready: Filled) -> Timed:
    key = "0" * 31 + "1"
    ready.store.set_values([Value(key, b"", DAY)], now=now())
    return lambda: _expect(ready.store.delete_values([key]), 1)


def counts(ready: Filled) -> Timed:
    return ready.store.counts


def browse(ready: Filled) -> Timed:
    after = ready.sequences[next(_turns) % len(ready.sequences)]
    return lambda: ready.store.browse(Selection(queues=[QUEUE], states=[WAITING]), limit=PAGE, after=after - PAGE)


def browse_dead(ready: Filled) -> Timed:
    return lambda: _expect(ready.store.browse(Selection(states=["dead"]), limit=PAGE), [])


def browse_id(ready: Filled) -> Timed:
    new = record()
    _replace(ready, new)
    return lambda: _expect(len(ready.store.browse(Selection(message_ids=[new.message_id]))), 1)


def hold_and_back(ready: Filled) -> Timed:
    new = record()
    _replace(ready, new)
    selection = Selection(message_ids=[new.message_id])

    def move() -> None:
        _expect(ready.store.move(selection, HELD, now=now()), 1)
        _expect(ready.store.move(selection, WAITING, now=now()), 1)

    return move


def purge_id(ready: Filled) -> Timed:
    new = record()
    ready.store.put([new], now=now())
    return lambda: _expect(ready.store.purge(Selection(message_ids=[new.message_id])), 1)


def sweep(ready: Filled) -> Timed:
    return lambda: _expect(ready.store.sweep(now=now()), 0)


def reap(ready: Filled) -> Timed:
    return lambda: _expect(ready.store.reap(now=now()), 0)


def join_and_leave(ready: Filled) -> Timed:
    worker = WorkerRecord(f"worker-{next(_turns)}", 1, [QUEUE], ["noop"])
    return lambda: ready.store.leave(ready.store.join(worker, now=now()), now=now())


VERBS: dict[str, Callable[[Filled], Timed]] = {
    each.__name__: each
    for each in (
        put, put_delayed, claim_and_finish, claim_and_finish_burst, run_due, wait_ready, wait_for_nothing,
        get_value, get_no_value, set_value, delete_value, counts, browse, browse_dead, browse_id, hold_and_back,
        purge_id, sweep, reap, join_and_leave,
    )
}  # fmt: skip
"""Each prepares one call, untimed, and returns it. What `put` adds stays: a few, beside what is there."""

_turns = itertools.count()


def nanoseconds(ready: Filled, verb: str, calls: int) -> list[int]:
    """What each of so many calls took."""
    times = []
    for _ in range(calls):
        timed = VERBS[verb](ready)
        begin = time.perf_counter_ns()
        timed()
        times.append(time.perf_counter_ns() - begin)
    return times


def _run(ready: Filled, queue: str, limit: int, at: int | None = None) -> None:
    """What a worker does: claim, and then finish, with a result of each."""
    claimed = ready.store.claim(Claim(ready.worker, [queue], limit), now=at or now())
    _expect(len(claimed), limit)
    ready.store.finish([_done(each) for each in claimed], now=now())


def _done(claimed: Record) -> Outcome:
    return Outcome(claimed, values=[Value(claimed.message_id.replace("-", ""), b"\x81\xa6result\xc0", DAY)])


def _replace(ready: Filled, new: Record) -> None:
    """Put a message, and take the oldest away."""
    ready.store.put([new], now=now())
    _run(ready, QUEUE, 1)


def _expect(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")
