"""``durability="full"``: no write returns before it is on the disk, and one wait serves many threads."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import localq
from localq.errors import StoreError
from localq.store import Selection, log_sync, sqlite_url
from localq.store.sqlite import SQLiteStore

from .contract import message

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

NOW = 1_700_000_000_000


class Disk:
    """What stands in the place of the disk: it is slow, and remembers what was there when it was asked."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self.writes = 0
        self.kept: set[str] = set()
        self.error: OSError | None = None
        self.asked, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def write_through(self, path: str) -> None:
        assert path == self._store.path + "-wal"
        assert not self._store.database.gate.is_inside, "others must be able to write meanwhile"
        there = {record.message_id for record in self._store.browse(Selection(), limit=10_000)}
        self.asked.set()
        assert self.may_go_on.wait(20)
        time.sleep(0.002)
        if self.error is not None:
            raise self.error
        self.writes += 1
        self.kept |= there


@pytest.fixture
def full(path: str) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, durability="full")
    yield store
    store.close()


@pytest.fixture
def disk(full: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(full)
    monkeypatch.setattr(log_sync, "write_through", disk.write_through)
    return disk


def put(store: SQLiteStore, message_id: str) -> None:
    store.put([message(message_id)], now=NOW)


def test_each_write_waits_for_the_disk(full: SQLiteStore, disk: Disk) -> None:
    for number in range(3):
        put(full, str(number))
        assert str(number) in disk.kept
    full.database.close()
    put(full, "after it was opened again")
    assert "after it was opened again" in disk.kept


def test_a_write_waits_for_no_disk_by_default(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(store)
    monkeypatch.setattr(log_sync, "write_through", disk.write_through)
    put(store, "a")
    assert disk.writes == 0


def test_threads_share_the_wait(full: SQLiteStore, disk: Disk) -> None:
    def put_some(thread: int) -> None:
        for number in range(40):
            put(full, f"{thread} {number}")
            assert f"{thread} {number}" in disk.kept, "each is on the disk when its own write returns"

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(put_some, thread) for thread in range(8)]:
            future.result(60)
    assert disk.writes < 8 * 40 / 2


def test_a_disk_that_refuses_is_told_to_who_writes(full: SQLiteStore, disk: Disk) -> None:
    disk.error = OSError(5, os.strerror(5))
    with pytest.raises(StoreError, match=r"could not bring it to the disk \(Input/output error\)"):
        put(full, "a")
    disk.error = None
    put(full, "b")
    assert disk.kept == {"a", "b"}


def test_a_log_that_was_written_back_meanwhile_is_on_the_disk(full: SQLiteStore, disk: Disk) -> None:
    disk.error = FileNotFoundError(2, os.strerror(2))
    put(full, "a")


def test_what_is_raised_in_the_body_waits_for_nothing(full: SQLiteStore, disk: Disk) -> None:
    with pytest.raises(ZeroDivisionError), full.database.write:
        raise ZeroDivisionError
    assert disk.writes == 0


def test_a_child_forked_while_a_thread_waits_waits_for_itself(full: SQLiteStore, disk: Disk) -> None:
    disk.may_go_on.clear()
    thread = threading.Thread(target=put, args=(full, "parent"))
    thread.start()
    assert disk.asked.wait(20)

    def work() -> None:
        disk.may_go_on = threading.Event()
        disk.may_go_on.set()
        put(full, "child")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    disk.may_go_on.set()
    thread.join(20)
    assert {record.message_id for record in full.browse(Selection())} == {"parent", "child"}


def test_messages_are_run_as_always(path: str) -> None:
    broker = localq.connect(sqlite_url(path, durability="full"))

    @localq.actor(broker=broker)
    def double(number: int) -> int:
        return 2 * number

    worker = localq.Worker(broker, worker_threads=4)
    worker.start()
    try:
        messages = [double.send(number) for number in range(50)]
        assert [message.get_result(block=True) for message in messages] == list(range(0, 100, 2))
    finally:
        worker.stop()
        broker.close()
