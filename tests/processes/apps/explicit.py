"""Everything built by hand, as in programs written for dramatiq: the broker in one file, results in
another, rate limits in a third."""

from __future__ import annotations

import notes

import localq as dramatiq
from localq.brokers.sqlite import SQLiteBroker
from localq.middleware import AsyncIO, CurrentMessage, GroupCallbacks
from localq.rate_limits import ConcurrentRateLimiter
from localq.rate_limits.backends import SQLiteBackend as LimitsBackend
from localq.results import Results
from localq.results.backends import SQLiteBackend as ResultsBackend

limits = LimitsBackend(notes.FOLDER / "limits.db")
broker = SQLiteBroker(notes.FOLDER / "explicit.db")
broker.add_middleware(Results(backend=ResultsBackend(notes.FOLDER / "results.db")))
broker.add_middleware(GroupCallbacks(limits))
broker.add_middleware(CurrentMessage())
broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)

mutex = ConcurrentRateLimiter(limits, "mutex", limit=1)


@dramatiq.actor(store_results=True)
def add(x, y):
    return x + y


@dramatiq.actor(store_results=True)
async def add_async(x, y):
    return x + y


@dramatiq.actor
def write(*words):
    notes.note(*words)


@dramatiq.actor
def tell_success(message, result):
    notes.note("success", result)


@dramatiq.actor
def tell_failure(message, error):
    notes.note("failure", error["type"], message["options"]["retries"])


@dramatiq.actor(max_retries=1, min_backoff=10, max_backoff=20)
def fail():
    raise ValueError("as it should")


@dramatiq.actor(max_retries=200, min_backoff=10, max_backoff=40)
def alone(number):
    with mutex.acquire():
        notes.note("inside", "in", number)
        notes.note("inside", "out", number)
