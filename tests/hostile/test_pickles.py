"""Nothing is unpickled that nobody chose to pickle, wherever bytes lie."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import localq
from localq.errors import DecodeError, ResultError
from localq.rate_limits import Barrier, WindowRateLimiter
from localq.rate_limits.backends import SQLiteBackend

from .support import Queue, wait_until


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "exploded"


@pytest.fixture
def bomb(mark: Path) -> Iterator[bytes]:
    """A pickle that makes the file `mark` when it is loaded."""

    class Opens:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(mark),)

    bomb = pickle.dumps(Opens())
    pickle.loads(bomb)
    assert mark.exists(), "it works"
    mark.rmdir()
    yield bomb
    assert not mark.exists(), "it exploded"


@pytest.mark.parametrize("encoder", ["pickle", "msgpack", "json", "", "localq.encoder:PickleEncoder"])
@pytest.mark.parametrize("place", ["row", "payload"])
def test_a_message(queue: Queue, bomb: bytes, encoder: str, place: str) -> None:
    queue.insert(body=bomb if place == "row" else None, encoder=encoder, sequence=9)
    if place == "payload":
        queue.insert("payload", sequence=9, body=bomb)
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert (letter.reason or "").startswith("DecodeError: ")
    consumer = queue.broker.consume("default", timeout=0)
    queue.broker.store.move(localq.store.Selection(["dead"]), "waiting", now=1)
    assert next(consumer) is None
    consumer.close()


def test_a_result(queue: Queue, bomb: bytes) -> None:
    message = queue.add.message(1, 2)
    backend = queue.broker.get_results_backend()
    queue.insert("value", key=backend.build_message_key(message), data=bomb, expires_at=2**62)
    for block in (False, True):
        with pytest.raises((DecodeError, ResultError)):
            message.get_result(backend=backend, block=block, timeout=100)
    with pytest.raises((DecodeError, ResultError)):
        list(localq.group([message], broker=queue.broker).get_results(block=True, timeout=100))


@pytest.mark.parametrize("kind", ["events", "values", "counters", "schedules"])
def test_what_is_kept_beside_messages(queue: Queue, bomb: bytes, kind: str) -> None:
    store = queue.broker.store
    if kind == "events":
        queue.insert("event", topic="aborts", data=bomb, expires_at=2**62)
    elif kind == "counters":
        queue.insert("counter", key="k", value=bomb, expires_at=2**62)
        store.incr("k", 1, 5, 1000, now=1)
        with WindowRateLimiter(SQLiteBackend(str(queue.file)), "k", limit=1).acquire():
            pass
    elif kind == "schedules":
        queue.insert("schedule", name="s", due_at=1, body=bomb)
        assert [schedule.body for schedule in store.due_schedules(now=5)] == [bomb]
    else:
        queue.insert("value", key="rate-limits:k", data=bomb, expires_at=2**62)
        barrier = Barrier(SQLiteBackend(str(queue.file)), "k")
        barrier.create(2)
        barrier.wait(block=False)
    queue.work(queue.nothing_waits)


def test_a_worker_of_the_table(queue: Queue, bomb: bytes) -> None:
    row = {"pid": 1, "pool": bomb, "threads": bomb, "joined_at": bomb}
    queue.insert("worker", name=bomb, queues=bomb, actors=bomb, **row)
    queue.work(lambda: len(queue.broker.store.workers()) == 1)


def test_the_files_beside_the_queue(queue: Queue, bomb: bytes) -> None:
    queue.broker.close()
    for name in ("gate", "bells/table", "workers/odd", "before-schema-2.db", "bells/0", "bells/0.lock"):
        (queue.side / name).write_bytes(bomb)
    queue.work(queue.nothing_waits)


AS_DRAMATIQ = """
import json, sys
import localq
localq.install_as_dramatiq()
import dramatiq
from dramatiq.results.errors import ResultError
broker = localq.connect(sys.argv[1])

@dramatiq.actor(max_retries=0)
def add(x, y):
    return x + y

worker = dramatiq.Worker(broker, worker_threads=1)
worker.start()
broker.join("default", timeout=20_000)
reasons = [record.reason for record in broker.store.browse(localq.store.Selection(["dead"]))]
try:
    add.message().copy(message_id="r").get_result()
except (ResultError, localq.errors.DecodeError) as error:
    reasons.append(type(error).__name__)
worker.stop()
print(json.dumps(reasons))
"""


def test_messages_and_results_where_localq_stands_in_for_dramatiq(queue: Queue, bomb: bytes) -> None:
    queue.insert(message_id="p", body=bomb, encoder="pickle")
    queue.insert(message_id="j", body=bomb, encoder="json")
    key = queue.broker.get_results_backend().build_message_key(queue.add.message().copy(message_id="r"))
    queue.insert("value", key=key, data=bomb, expires_at=2**62)
    ended = subprocess.run(
        [sys.executable, "-c", AS_DRAMATIQ, f"sqlite:///{queue.file}"],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(localq.__file__).parents[1],
    )  # fmt: skip
    first, second, result = json.loads(ended.stdout)
    assert "PickleEncoder" in first
    assert "json encoder" in second
    assert result == "DecodeError"


def test_the_bomb_explodes_where_pickle_was_chosen(queue: Queue, mark: Path) -> None:
    # So that the tests above are known to have been able to fail.
    class Opens:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(mark),)

    localq.set_encoder(localq.PickleEncoder())
    queue.insert(body=pickle.dumps(Opens()), encoder="pickle")
    worker = localq.Worker(queue.broker, worker_threads=1)
    worker.start()
    wait_until(mark.exists)
    worker.stop()
