"""A file that holds much already."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from localq.message import generate_unique_id
from localq.store import Record, Store, Value, WorkerRecord, open_store

from .contender import QUEUE

LATER = "later"
"""The queue of the delayed messages."""
ACTOR = "noop"
BODY = bytes(120)
DAY = 24 * 3600 * 1000
CHUNK = 10_000
SOME = 1_000


@dataclass(slots=True)
class Filled:
    """A store with so many waiting messages, as many delayed ones, and as many results."""

    store: Store
    worker: int
    """The number by which it claims."""
    sequences: list[int] = field(default_factory=list)
    """Of some of the waiting messages, from the middle: the oldest are claimed first."""
    keys: list[str] = field(default_factory=list)
    """Of some of the results."""


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def record(**fields: Any) -> Record:
    """A small message."""
    return Record(generate_unique_id(), fields.pop("queue", QUEUE), ACTOR, BODY, created_at=now(), **fields)


@contextmanager
def filled(count: int) -> Iterator[Filled]:
    """A file with that much in it, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="localq-filled-") as folder:
        store = open_store(f"sqlite:///{folder}/jobs.db")
        try:
            filler = WorkerRecord("filler", os.getpid(), [QUEUE, LATER], [ACTOR])
            ready = Filled(store, store.join(filler, now=now()))
            _fill(ready, count)
            yield ready
        finally:
            store.close()


def _fill(ready: Filled, count: int) -> None:
    tomorrow = now() + DAY
    in_chunks(count, lambda places: ready.store.put([record() for _ in places], now=now()))
    in_chunks(
        count,
        lambda places: ready.store.put([record(queue=LATER, eta=tomorrow + place) for place in places], now=now()),
    )
    names = [generate_unique_id().replace("-", "") for _ in range(count)]
    in_chunks(
        count,
        lambda places: ready.store.set_values([Value(names[place], b"\x81\xa6result\xc0", DAY) for place in places],
                                              now=now()),
    )  # fmt: skip
    step = max(1, count // SOME)
    ready.keys = names[::step]
    ready.sequences = list(range(count // 2, count * 3 // 4, max(1, count // 4 // SOME)))


def in_chunks(count: int, fill: Callable[[range], Any]) -> None:
    """Call it with the places of a chunk at a time: no transaction is huge."""
    for first in range(0, count, CHUNK):
        fill(range(first, min(first + CHUNK, count)))
