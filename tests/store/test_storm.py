"""A storm of commits and checkpoints from many processes that are killed: SQLite 3.7.0 to 3.51.2 has a race between
a checkpoint and a commit, which the gate keeps apart. And files of other versions that meet such a crowd."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from localq.errors import StoreCorrupt
from localq.store import Value, database
from localq.store.sqlite import SQLiteStore

from .contract import EVERYTHING, done, ids, message, take
from .older import make_older

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

NOW = 1_700_000_000_000
ROUNDS = int(os.environ.get("LOCALQ_STORM_ROUNDS", "60"))
"""How often a process is killed and replaced; more for a night's work."""
CHECKPOINTS = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]


def is_intact(path: str) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def checkpoint(store: SQLiteStore, how: str) -> None:
    with store.database.gate, store.database.read as connection:
        connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()


def write_in_a_storm(path: str, writer: str, connection: Connection) -> None:
    """Put messages of all sizes, run some, checkpoint and reopen at random; acknowledge what was put to stay."""
    chance, numbers = random.Random(writer), itertools.count()
    store = SQLiteStore(path)
    while True:
        with store.database.read as own:
            own.execute(f"PRAGMA wal_autocheckpoint = {chance.choice([1, 3, 20, 4000])}").fetchall()
        for _ in range(chance.randrange(1, 8)):
            names = [f"{writer} {next(numbers)}" for _ in range(chance.randrange(1, 5))]
            store.put([message(name, body=bytes(chance.choice([10, 900, 9000]))) for name in names], now=NOW)
            store.put([message("passing", queue="passing")], now=NOW)
            claimed = take(store, 1, NOW, limit=9, queues=["passing"])
            store.finish([done(each) for each in claimed], now=NOW)
            connection.send(names)
        move = chance.randrange(4)
        if move == 0:
            checkpoint(store, chance.choice(CHECKPOINTS))
        elif move == 1:
            store.database.close()
        elif move == 2:
            store.sweep(now=NOW)


def read_in_a_storm(path: str, reader: str, connection: Connection) -> None:
    """Open, look, and close, without end; say what was seen."""
    chance = random.Random(reader)
    while True:
        store = SQLiteStore(path)
        for _ in range(chance.randrange(1, 4)):
            connection.send(len(store.browse(EVERYTHING, limit=10)))
            store.counts()
        store.close()


def received(connection: Connection) -> list[Any]:
    """All that was sent so far."""
    answers = []
    try:
        while connection.poll():
            answers.append(connection.recv())
    except (EOFError, ConnectionResetError):
        pass
    return answers


def test_a_storm_of_commits_and_checkpoints_damages_and_loses_nothing(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    path = str(tmp_path / "jobs.db")
    SQLiteStore(path).close()
    chance = random.Random(6)
    acknowledged: list[str] = []
    numbers = itertools.count()
    kinds = [write_in_a_storm, write_in_a_storm, write_in_a_storm, read_in_a_storm]

    def begin(kind: Callable[..., None]) -> tuple[Callable[..., None], Any, Connection]:
        return kind, *start(kind, path, f"{kind.__name__} {next(numbers)}")

    def note(kind: Callable[..., None], connection: Connection) -> None:
        for names in received(connection):
            if kind is write_in_a_storm:
                acknowledged.extend(names)

    crowd = [begin(kind) for kind in kinds]
    for _ in range(ROUNDS):
        before = len(acknowledged)
        while len(acknowledged) < before + chance.randrange(1, 60):
            for kind, process, connection in crowd:
                assert process.is_alive(), f"{kind.__name__} has failed"
                note(kind, connection)
        at = chance.randrange(len(crowd))
        kind, process, connection = crowd[at]
        process.kill()
        process.join()
        note(kind, connection)
        crowd[at] = begin(kind)
    for kind, process, connection in crowd:
        process.kill()
        process.join()
        note(kind, connection)

    store = SQLiteStore(path)
    stored = ids(store.browse(EVERYTHING, limit=1_000_000))
    assert set(acknowledged) <= set(stored)
    own = [name for name in stored if name != "passing"]
    assert len(own) == len(set(own))
    store.close()
    assert is_intact(path)
    assert not os.path.exists(path + "-wal")


# -- files of other versions


@pytest.fixture(scope="module")
def of_schema_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a queue as the first version of localq made it."""
    folder = tmp_path_factory.mktemp("old")
    path = str(folder / "jobs.db")
    store = SQLiteStore(path)
    store.put([message(f"m{n}", body=bytes(300)) for n in range(500)], now=NOW)
    store.set_values([Value(f"k{n}", b"1", 10**9) for n in range(2000)], now=NOW)
    store.close()
    make_older(path, 1)
    return folder


@pytest.fixture
def old_queue(of_schema_1: Path, tmp_path: Path) -> Callable[[], str]:
    """Gives a fresh copy of it each time."""
    numbers = itertools.count()
    return lambda: str(shutil.copytree(of_schema_1, tmp_path / str(next(numbers))) / "jobs.db")


def open_it(path: str, connection: Connection) -> None:
    connection.recv()
    store = SQLiteStore(path)
    connection.send(len(store.browse(EVERYTHING, limit=1000)))
    store.set_values([Value(f"of {os.getpid()}", b"2", 10**9, until_revived="m")], now=NOW)
    connection.send("stored")
    connection.recv()


def assert_migrated(path: str) -> None:
    store = SQLiteStore(path)
    assert store.info()["schema_version"] == database.SCHEMA_VERSION
    assert ids(store.browse(EVERYTHING, limit=1000)) == [f"m{n}" for n in range(500)]
    assert store.get_value("k1999", now=NOW) == b"1"
    store.close()
    assert is_intact(path)
    (backup,) = Path(path + ".localq").glob("before-schema-*.db")
    assert is_intact(str(backup))
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (500,)


def test_many_processes_that_open_an_older_file_at_once_migrate_it_once(
    old_queue: Callable[[], str], start: Callable[..., Any]
) -> None:
    path = old_queue()
    crowd = [start(open_it, path) for _ in range(6)]
    for _, connection in crowd:
        connection.send("go")
    assert [[connection.recv(), connection.recv()] for _, connection in crowd] == [[500, "stored"]] * 6
    for process, connection in crowd:
        connection.send("leave")
        process.join(20)
    assert_migrated(path)


def test_a_kill_in_the_middle_of_a_migration_leaves_a_file_that_the_next_one_migrates(
    old_queue: Callable[[], str], start: Callable[..., Any]
) -> None:
    chance = random.Random(8)
    for _ in range(12):
        path = old_queue()
        crowd = [start(open_it, path) for _ in range(2)]
        for _, connection in crowd:
            connection.send("go")
        for process, _ in crowd:
            time.sleep(chance.random() * 0.02)  # any moment will do
            process.kill()
        for process, _ in crowd:
            process.join()
        assert_migrated(path)


def test_a_file_of_a_newer_schema_is_refused_by_all_and_left_as_it_was(
    old_queue: Callable[[], str], start: Callable[..., Any]
) -> None:
    path = old_queue()
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {database.SCHEMA_VERSION + 1}")
    contents = Path(path).read_bytes()

    def try_it(connection: Connection) -> None:
        try:
            SQLiteStore(path)
        except StoreCorrupt as error:
            connection.send(str(error))

    for said in [connection.recv() for _, connection in [start(try_it) for _ in range(4)]]:
        assert "made by a newer localq" in said
        assert "upgrade localq" in said
    assert Path(path).read_bytes() == contents
