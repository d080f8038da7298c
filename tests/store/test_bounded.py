"""The file and its log stay small: steps of the housekeeping, and what a whole load leaves behind."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import localq
from localq.store import wal
from localq.store.base import CANCELLED, DEAD_LETTER_TTL, Value
from localq.store.sqlite import SQLiteStore
from tests.torture import bounded

from .contract import EVERYTHING, HOUR, dead, done, message, take

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

NOW = 1_700_000_000_000
ALL = 10**6
MB = 1_000_000


@pytest.fixture
def other(path: str, store: SQLiteStore) -> Iterator[SQLiteStore]:
    """Somebody else who has the file open."""
    other = SQLiteStore(path)
    yield other
    other.close()


@pytest.fixture
def reader(path: str, store: SQLiteStore) -> Iterator[sqlite3.Connection]:
    """Somebody who reads, until the end of his transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM message").fetchall()
        yield reader


def log_size(path: str) -> int:
    try:
        return os.path.getsize(path + "-wal")
    except FileNotFoundError:
        return 0


def fill_and_empty(store: SQLiteStore, messages: int = 5000) -> None:
    store.put([message(f"m{n}", body=bytes(5000)) for n in range(messages)], now=NOW)
    store.finish([done(each) for each in take(store, 1, NOW, limit=ALL)], now=NOW)


def test_a_log_that_nobody_writes_to_is_cut_off(path: str, store: SQLiteStore, other: SQLiteStore) -> None:
    other.put([message()], now=NOW)
    assert not store.shrink()
    assert log_size(path) > 0, "somebody has just written"
    assert not store.shrink()
    assert log_size(path) == 0


def test_the_log_is_cut_off_when_a_store_is_closed_that_others_have_open(path: str, other: SQLiteStore) -> None:
    store = SQLiteStore(path)
    store.put([message(body=bytes(100_000))], now=NOW)
    assert log_size(path) > 0
    store.close()
    assert log_size(path) == 0
    assert len(other.browse(EVERYTHING)) == 1


def test_a_reader_is_not_waited_for_and_told_of_once(
    path: str, store: SQLiteStore, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[int], list[str]],
) -> None:  # fmt: skip
    monkeypatch.setattr(wal, "BOUND", MB)
    monkeypatch.setattr(wal, "LARGE", MB // 2)
    monkeypatch.setattr("localq.store.upkeep.LARGE", MB // 2)
    for _ in range(3):
        store.put([message(body=bytes(MB))], now=NOW)
        store.shrink()  # would take 30 seconds if it waited
    (warning,) = logged(30)
    assert "keeps a reading transaction" in warning
    assert f"{path!r}" in warning
    store.put([message()], now=NOW)  # nothing that the housekeeper has set is left

    reader.execute("COMMIT")
    sizes = [log_size(path)]
    while sizes[-1]:
        store.shrink()
        sizes.append(log_size(path))
    steps = [before - after for before, after in itertools.pairwise(sizes)]
    assert len(steps) > 5
    assert max(steps) <= MB // 2
    assert len(store.browse(EVERYTHING)) == 4
    with store.database.read as connection:
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (int(store.database.longest_lock),)


def test_the_file_shrinks_in_steps_while_nobody_writes(path: str, store: SQLiteStore) -> None:
    fill_and_empty(store)
    store.close()
    before = os.path.getsize(path)
    steps = 1
    while store.shrink():
        steps += 1
    store.close()
    assert before > 20 * MB
    assert os.path.getsize(path) < 5 * MB
    assert steps > 1


def test_the_file_shrinks_more_slowly_while_others_write(store: SQLiteStore, other: SQLiteStore) -> None:
    fill_and_empty(store)
    assert store.shrink()
    other.put([message()], now=NOW)
    assert not store.shrink(), "not at once: somebody writes"
    assert store.shrink(), "but when it is asked again"


def test_a_file_that_is_empty_but_for_a_little_shrinks_at_once(path: str, store: SQLiteStore) -> None:
    fill_and_empty(store)
    store.put([message("left", body=bytes(100_000))], now=NOW)
    assert store.shrink()
    assert store.shrink()
    assert not store.shrink()
    with store.database.read as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] < 10
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,), "incremental, as before"
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [len(record.body) for record in store.browse(EVERYTHING)] == [100_000]


def test_a_mode_that_a_dead_housekeeper_left_behind_is_taken_back(path: str, store: SQLiteStore) -> None:
    with store.database.write as connection:
        connection.execute("PRAGMA auto_vacuum = FULL")
    store.close()
    with closing(SQLiteStore(path)) as other:
        other.shrink()
        with other.database.read as connection:
            assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_free_pages_that_a_small_queue_will_use_again_stay(path: str, store: SQLiteStore) -> None:
    fill_and_empty(store, messages=300)
    store.close()
    before = os.path.getsize(path)
    assert not store.shrink()
    store.close()
    assert os.path.getsize(path) == before


@pytest.mark.parametrize("what", ["dead", "cancelled", "value"])
def test_what_is_large_is_swept_in_smaller_batches(store: SQLiteStore, what: str) -> None:
    if what == "value":
        store.set_values([Value(f"v{n}", bytes(MB), 1) for n in range(10)], now=NOW)
    else:
        store.put([message(f"m{n}", body=bytes(MB)) for n in range(10)], now=NOW)
    if what == "dead":
        store.finish([dead(each) for each in take(store, 1, NOW, limit=ALL)], now=NOW)
    if what == "cancelled":
        assert store.move(EVERYTHING, CANCELLED, now=NOW) == 10

    swept = list(iter(lambda: store.sweep(now=NOW + DEAD_LETTER_TTL + 1), 0))

    assert swept == [2] * 5
    with store.database.read as connection:
        for table in ("message", "payload", "value"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_what_is_larger_than_any_batch_is_swept_alone(store: SQLiteStore) -> None:
    store.set_values([Value(f"v{n}", bytes(5 * MB), 1) for n in range(3)], now=NOW)
    assert list(iter(lambda: store.sweep(now=NOW + HOUR), 0)) == [1, 1, 1]


def test_a_key_of_any_letters_is_swept(store: SQLiteStore) -> None:
    store.set_values([Value(key, b"", 1) for key in ("a\0b", "'", "%", "")], now=NOW)
    assert list(iter(lambda: store.sweep(now=NOW + HOUR), 0)) == [4]


def test_a_worker_that_has_nothing_to_do_cleans_up(
    tmp_path: Path, path: str, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    broker = localq.connect(f"sqlite:///{path}")
    fill_and_empty(broker.store, messages=3000)  # type: ignore[arg-type]
    assert log_size(path) > MB
    start_worker(broker)
    until(lambda: log_size(path) == 0 and os.path.getsize(path) < 5 * MB, "a small file")


@pytest.mark.parametrize("load", bounded.RUNS)
def test_a_load_leaves_a_small_file(tmp_path: Path, load: str) -> None:
    # The bound for how long a sender waits is for a quiet machine; here it says that nothing hangs.
    command = ["-m", "tests.torture.bounded", load, "--messages", "20000", "--longest-wait", "10000"]
    ended = subprocess.run(
        [sys.executable, *command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=110
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
