"""The file: who may read it, what is refused, how it grows older, and how it is searched."""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from localq.errors import StoreBusy, StoreCorrupt, StoreError, UnsafeLocation
from localq.store import Claim, Count, Event, Outcome, Schedule, Selection, Value, WorkerRecord, database
from localq.store.base import DEAD_LETTER_TTL, HELD, RELEASE, RETRY, WAITING
from localq.store.sqlite import SQLiteStore

from .contract import EVERYTHING, HOUR, dead, done, ids, message, promptly, take
from .older import UNDO, make_older

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

NOW = 1_700_000_000_000
posix = pytest.mark.skipif(os.name != "posix", reason="modes of files")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def path(tmp_path: Path) -> str:
    folder = tmp_path / "queue"
    folder.mkdir()
    return str(folder / "jobs.db")


Open = Callable[..., SQLiteStore]


@pytest.fixture
def open_at(path: str) -> Iterator[Open]:
    """Opens the file; all are closed at the end."""
    opened: list[SQLiteStore] = []

    def open_at(path: str = path, **options: Any) -> SQLiteStore:
        opened.append(SQLiteStore(path, **options))
        return opened[-1]

    yield open_at
    for store in opened:
        store.close()


@pytest.fixture
def store(open_at: Open) -> SQLiteStore:
    return open_at()


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: os.umask(mask) and None
    os.umask(before)


def mode_of(path: str | Path) -> int:
    return os.stat(path).st_mode & 0o777


def pragma(store: SQLiteStore, name: str) -> Any:
    with store.database.read as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def is_intact(store: SQLiteStore) -> bool:
    return bool(pragma(store, "integrity_check") == "ok")


def make_old_queue(path: str, messages: int = 3) -> None:
    """A closed queue of the current schema."""
    store = SQLiteStore(path)
    store.put([message(f"m{n}") for n in range(messages)], now=NOW)
    store.close()


# -- who may read it


@posix
@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_all_files_are_private_whatever_the_umask(path: str, umask: Callable[[int], None], mask: int) -> None:
    umask(mask)
    store = SQLiteStore(path)
    store.put([message()], now=NOW)
    store.wait(["other"], now=NOW, timeout=1)
    files = [each for each in Path(path).parent.rglob("*") if not each.is_dir()]
    folders = [each for each in Path(path).parent.rglob("*") if each.is_dir()]
    assert {each.name for each in files} >= {"jobs.db", "jobs.db-wal", "jobs.db-shm", "gate"}
    assert {each.name: mode_of(each) for each in files if mode_of(each) != 0o600} == {}
    assert {each.name: mode_of(each) for each in folders if mode_of(each) != 0o700} == {}
    store.close()


@posix
def test_a_queue_that_others_could_read_becomes_private(path: str) -> None:
    make_old_queue(path)
    os.chmod(path, 0o644)
    os.chmod(path + ".localq", 0o755)
    store = SQLiteStore(path)
    assert mode_of(path) == 0o600
    assert mode_of(path + ".localq") == 0o700
    store.close()


@posix
def test_an_empty_file_becomes_a_private_queue(path: str, store: SQLiteStore) -> None:
    store.close()
    other = path + "2"
    Path(other).touch(0o666)
    empty = SQLiteStore(other)
    empty.put([message()], now=NOW)
    assert mode_of(other) == 0o600
    empty.close()


# -- where it cannot be


@posix
def test_a_folder_that_everybody_may_write_is_refused(path: str) -> None:
    folder = os.path.dirname(path)
    os.chmod(folder, 0o777)
    with pytest.raises(UnsafeLocation, match="chmod o-w"):
        SQLiteStore(path)
    assert os.listdir(folder) == []


@posix
def test_a_folder_such_as_tmp_is_not_refused(path: str) -> None:
    os.chmod(os.path.dirname(path), 0o1777)
    SQLiteStore(path).close()


def test_a_folder_that_is_not_there_is_named(path: str) -> None:
    missing = os.path.join(os.path.dirname(path), "missing")
    with pytest.raises(StoreError, match="does not exist") as refused:
        SQLiteStore(os.path.join(missing, "jobs.db"))
    assert missing in str(refused.value)
    assert not os.path.exists(missing)


def test_a_path_that_is_a_folder_is_named(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(StoreError, match="is a folder"):
        SQLiteStore(path)
    assert os.listdir(os.path.dirname(path)) == ["jobs.db"]


def give_up_the_powers_of_root() -> None:
    """From here on modes of files count for this process too."""
    if os.geteuid() == 0:
        version, itself = 0x20080522, 0
        nothing = (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(version, itself), nothing)


def attempt(work: Callable[[], Any], connection: Connection) -> None:
    """Do it without the powers of root, and report the error."""
    give_up_the_powers_of_root()
    try:
        work()
    except Exception as error:
        connection.send((type(error).__mro__, str(error)))
    else:
        connection.send(((), ""))


@linux
def test_a_folder_that_may_not_be_written_is_an_error_that_names_it(
    path: str, start: Callable[..., Any]
) -> None:
    folder = os.path.dirname(path)
    os.chmod(folder, 0o555)
    _, connection = start(attempt, lambda: SQLiteStore(path))
    types, text = connection.recv()
    assert StoreError in types, text
    assert folder in text
    assert os.listdir(folder) == []


@linux
@pytest.mark.parametrize(
    "closed", ["jobs.db", "jobs.db.localq", "jobs.db.localq/gate", "jobs.db.localq/bells/table"]
)
def test_a_queue_that_may_not_be_written_is_an_error_that_names_it(
    path: str, start: Callable[..., Any], closed: str
) -> None:
    make_old_queue(path)
    os.chmod(os.path.join(os.path.dirname(path), closed), 0o400)
    if closed == "jobs.db.localq":
        os.chmod(path + ".localq/gate", 0o400)

    def use() -> None:
        store = SQLiteStore(path)
        store.put([message()], now=NOW)

    _, connection = start(attempt, use)
    types, text = connection.recv()
    # An owner's own file may as well be given its proper mode again.
    assert types == () or StoreError in types, text
    assert types == () or os.path.dirname(path) in text


# -- what is not a queue


@contextmanager
def left_alone(path: str, mode: int = 0o640) -> Iterator[None]:
    """The file is the same after the block, byte for byte, and nothing of SQLite's lies beside it."""
    os.chmod(path, mode)
    contents = Path(path).read_bytes()
    yield
    assert Path(path).read_bytes() == contents
    assert mode_of(path) == mode
    assert set(os.listdir(os.path.dirname(path))) <= {"jobs.db", "jobs.db.localq"}


def test_a_text_file_is_refused_and_left_as_it_was(path: str) -> None:
    Path(path).write_bytes(b"Dear diary,\n" * 500)
    with left_alone(path), pytest.raises(StoreCorrupt, match="not an SQLite database"):
        SQLiteStore(path)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_another_program_is_refused_and_left_as_it_was(path: str, journal: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, text TEXT)")
        other.execute("INSERT INTO message (text) VALUES ('precious')")
        other.commit()
    with left_alone(path), pytest.raises(StoreCorrupt, match="another program"):
        SQLiteStore(path)


def test_an_empty_database_of_another_program_is_refused_and_left_as_it_was(path: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id = 1234")
    with left_alone(path), pytest.raises(StoreCorrupt, match="another program"):
        SQLiteStore(path)


def test_a_queue_of_a_newer_schema_is_refused_and_left_as_it_was(path: str) -> None:
    make_old_queue(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {database.SCHEMA_VERSION + 1}")
    with left_alone(path, 0o600), pytest.raises(StoreCorrupt, match="upgrade localq"):
        SQLiteStore(path)


def test_damage_is_called_damage(path: str) -> None:
    make_old_queue(path, messages=2000)
    page = struct.unpack(">H", Path(path).read_bytes()[16:18])[0]
    with open(path, "r+b") as file:
        file.seek(page)
        file.write(b"\xa5" * (os.path.getsize(path) - page))
    with pytest.raises(StoreCorrupt, match="damaged"):
        SQLiteStore(path).counts()


def test_what_was_refused_holds_nothing_open(path: str) -> None:
    Path(path).write_bytes(b"no database\n" * 100)
    for _ in range(3):
        with pytest.raises(StoreCorrupt):
            SQLiteStore(path)
    if os.path.exists("/proc/self/fd"):
        held = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
        assert [each for each in held if each.startswith(path)] == []


# -- older files


def migrate_by(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    """From now on this is a localq of some versions later."""
    first = database.SCHEMA_VERSION
    monkeypatch.setattr(database, "MIGRATIONS", dict(enumerate(scripts, first)))
    monkeypatch.setattr(database, "SCHEMA_VERSION", first + len(scripts))


def columns(store: SQLiteStore) -> set[str]:
    with store.database.read as connection:
        return {name for _, name, *_ in connection.execute("PRAGMA table_info(message)")}


ADD_COLOUR = "ALTER TABLE message ADD COLUMN colour TEXT"


def test_an_older_file_becomes_one_of_the_newest_schema(
    path: str, open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old_queue(path)
    old = database.SCHEMA_VERSION
    migrate_by(monkeypatch, ADD_COLOUR, "ALTER TABLE message ADD COLUMN shape TEXT; ANALYZE")
    store = open_at()
    assert pragma(store, "user_version") == old + 2
    assert {"colour", "shape"} <= columns(store)
    assert ids(take(store, 1, NOW, limit=9)) == ["m0", "m1", "m2"]


@pytest.mark.parametrize("version", sorted(UNDO))
def test_a_file_of_an_earlier_schema_keeps_what_is_in_it(path: str, open_at: Open, version: int) -> None:
    make_old_queue(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute("INSERT INTO value (key, data, expires_at) VALUES ('k', x'31', ?)", (NOW + 1,))
    make_older(path, version)
    store = open_at()
    assert ids(take(store, 1, NOW, limit=9)) == ["m0", "m1", "m2"]
    assert store.get_value("k", now=NOW) == b"1"
    store.set_values([Value("k", b"2", 1, until_revived="m")], now=NOW)
    assert [store.hold("k", 1) for _ in range(2)] == [True, False]
    assert schema(store) == schema(open_at(path + "2"))


def schema(store: SQLiteStore) -> dict[str, set[str]]:
    """The columns of each table and index."""
    with store.database.read as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master").fetchall()]
        columns = {
            name: connection.execute(f"SELECT name FROM pragma_table_info('{name}')").fetchall()
            or connection.execute(f"SELECT name FROM pragma_index_info('{name}')").fetchall()
            for name in names
        }
    return {name: {column for (column,) in rows} for name, rows in columns.items()}


def test_there_is_a_backup_of_what_it_was(
    path: str, open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old_queue(path)
    old = database.SCHEMA_VERSION
    migrate_by(monkeypatch, f"{ADD_COLOUR}; DELETE FROM message")
    assert open_at().counts() == {}
    (backup,) = Path(path + ".localq").glob("*.db")
    assert mode_of(backup) == 0o600
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (old,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT message_id FROM message ORDER BY 1").fetchall() == [
            ("m0",), ("m1",), ("m2",)
        ]  # fmt: skip


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: str, open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old_queue(path)
    old = database.SCHEMA_VERSION
    migrate_by(monkeypatch, f"{ADD_COLOUR}; DELETE FROM message; INSERT INTO nowhere VALUES (1)")
    for _ in range(2):
        with pytest.raises(StoreError, match="nowhere"):
            open_at()
    monkeypatch.undo()
    store = open_at()
    assert pragma(store, "user_version") == old
    assert "colour" not in columns(store)
    assert ids(take(store, 1, NOW, limit=9)) == ["m0", "m1", "m2"]


def test_a_second_migration_that_fails_leaves_the_first_one_done(
    path: str, open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old_queue(path)
    old = database.SCHEMA_VERSION
    migrate_by(monkeypatch, ADD_COLOUR, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(StoreError, match="nowhere"):
        open_at()
    monkeypatch.undo()
    migrate_by(monkeypatch, ADD_COLOUR, "ALTER TABLE message ADD COLUMN shape TEXT")
    store = open_at()
    assert pragma(store, "user_version") == old + 2
    assert {"colour", "shape"} <= columns(store)


def test_a_new_file_is_made_as_the_newest_schema_without_a_backup(
    path: str, open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate_by(monkeypatch, "INSERT INTO nowhere VALUES (1)")
    assert pragma(open_at(), "user_version") == database.SCHEMA_VERSION
    assert list(Path(path + ".localq").glob("*.db")) == []


@pytest.mark.parametrize("old", [True, False], ids=["an older file", "a new file"])
def test_of_many_processes_that_open_it_at_once_one_makes_it_what_it_has_to_be(
    path: str, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    if old:
        make_old_queue(path)
        migrate_by(monkeypatch, f"{ADD_COLOUR}; UPDATE message SET colour = coalesce(colour, '') || 'red'")

    def open_and_put(number: int, connection: Connection) -> None:
        connection.recv()
        store = SQLiteStore(path)
        store.put([message(f"from {number}")], now=NOW)
        connection.send("stored")

    started = [start(open_and_put, number) for number in range(6)]
    for _, connection in started:
        connection.send("go")
    assert [connection.recv() for _, connection in started] == ["stored"] * 6
    store = SQLiteStore(path)
    assert store.counts() == {"q": {WAITING: 9 if old else 6}}
    if old:
        with store.database.read as connection:
            assert connection.execute("SELECT count(*) FROM message WHERE colour = 'red'").fetchone() == (3,)
    store.close()


# -- how it is set up


def test_it_is_set_up_once_and_for_all(store: SQLiteStore) -> None:
    assert pragma(store, "journal_mode") == "wal"
    assert pragma(store, "auto_vacuum") == 2  # incremental
    assert pragma(store, "application_id") == database.APPLICATION_ID
    assert pragma(store, "user_version") == database.SCHEMA_VERSION
    assert pragma(store, "mmap_size") == 0


def test_an_unknown_durability_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="'normal' or 'full'"):
        SQLiteStore(path, durability="none")
    assert not os.path.exists(path)


def test_info_tells_what_it_found(store: SQLiteStore, path: str) -> None:
    info = store.info()
    assert (info["file"], info["side_folder"]) == (path, path + ".localq")
    assert (info["journal_mode"], info["durability"]) == ("wal", "normal")
    assert (info["schema_version"], info["newest_known_schema"]) == (database.SCHEMA_VERSION,) * 2
    assert info["sqlite_version"] == sqlite3.sqlite_version
    assert info["size"] > 0


# -- opening and closing


def test_the_last_one_to_close_leaves_one_file(path: str) -> None:
    first, second = SQLiteStore(path), SQLiteStore(path)
    first.put([message("a")], now=NOW)
    second.put([message("b")], now=NOW)
    first.close()
    assert os.path.exists(path + "-wal")
    second.close()
    assert sorted(os.listdir(os.path.dirname(path))) == ["jobs.db", "jobs.db.localq"]


def test_a_store_that_was_closed_opens_again_when_it_is_used(store: SQLiteStore) -> None:
    store.put([message("a")], now=NOW)
    store.database.close()
    assert store.counts() == {"q": {WAITING: 1}}
    store.database.close()
    store.put([message("b")], now=NOW)
    assert store.counts() == {"q": {WAITING: 2}}


def write_while_it_is_closed(path: str, connection: Connection) -> None:
    store = SQLiteStore(path)

    def write(number: int) -> None:
        for n in range(150):
            store.put([message(f"{number} {n}")], now=NOW)
            store.counts()

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, number) for number in range(3)]
        while not all(writer.done() for writer in writers):
            store.database.close()
            store.database.close()
            time.sleep(0.000_1)
    for writer in writers:
        writer.result()
    connection.send("done")


def test_to_close_while_others_write_stops_nobody(
    path: str, store: SQLiteStore, start: Callable[..., Any]
) -> None:
    _, connection = start(write_while_it_is_closed, path)  # a process, since threads that hang cannot be ended
    assert connection.poll(30), "it hangs"
    assert connection.recv() == "done"
    assert store.counts() == {"q": {WAITING: 450}}
    assert is_intact(store)


# -- others who use the file


def hold(path: str, statements: list[str], connection: Connection) -> None:
    """A program that is not localq, in the middle of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()
        connection.send("inside")
        connection.recv()
        other.execute("ROLLBACK")
    connection.send("left")


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_program_that_locks_the_file_makes_writers_give_up_in_time(
    path: str, open_at: Open, start: Callable[..., Any], begin: str
) -> None:
    store = open_at(busy_timeout=200)
    store.put([message("before")], now=NOW)
    _, program = start(hold, path, [begin])
    program.recv()
    began = time.monotonic()
    with pytest.raises(StoreBusy, match="another program"):
        store.put([message("refused")], now=NOW)
    assert 0.15 < time.monotonic() - began < 20
    assert ids(store.browse(EVERYTHING)) == ["before"], "who reads does not wait"

    program.send("leave")
    program.recv()
    store.put([message("after")], now=NOW)
    assert ids(take(store, 1, NOW, limit=9)) == ["before", "after"]


def test_a_program_that_locks_the_file_for_a_moment_is_waited_for(
    path: str, store: SQLiteStore, start: Callable[..., Any]
) -> None:
    _, program = start(hold, path, ["BEGIN IMMEDIATE"])
    program.recv()
    with promptly(), ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, [message()], now=NOW)
        program.send("leave")
        put.result(20)


def test_a_program_that_reads_keeps_nobody_from_writing(
    path: str, store: SQLiteStore, start: Callable[..., Any]
) -> None:
    store.put([message("before")], now=NOW)
    _, program = start(hold, path, ["BEGIN", "SELECT count(*) FROM message"])
    program.recv()
    with promptly():
        store.put([message("a")], now=NOW)
        store.finish([done(each) for each in take(store, 1, NOW, limit=1)], now=NOW)
        store.sweep(now=NOW)
    assert ids(store.browse(EVERYTHING)) == ["a"]
    program.send("leave")
    program.recv()
    assert is_intact(store)


def test_who_is_stopped_in_a_write_keeps_nobody_from_reading(
    path: str, open_at: Open, start: Callable[..., Any]
) -> None:
    store = open_at(gate_timeout=300)
    store.put([message()], now=NOW)

    def stay_inside(connection: Connection) -> None:
        own = SQLiteStore(path)
        connection.recv()
        with own.database.write as transaction:
            transaction.execute("DELETE FROM message")
            connection.send("inside")
            signal.pause()

    process, connection = start(stay_inside)
    assert store.counts() == {"q": {WAITING: 1}}  # it is open here: to open it takes the gate
    connection.send("go")
    connection.recv()
    os.kill(process.pid, signal.SIGSTOP)
    with promptly():
        assert store.counts() == {"q": {WAITING: 1}}
        assert store.get_value("k", now=NOW) is None
    with pytest.raises(StoreBusy) as refused:
        store.put([message()], now=NOW)
    assert refused.value.holder == process.pid

    process.kill()
    process.join()
    store.put([message()], now=NOW)
    assert store.counts() == {"q": {WAITING: 2}}


def test_a_full_disk_is_an_error_and_what_was_accepted_stays(store: SQLiteStore) -> None:
    store.put([message("before")], now=NOW)
    limit = pragma(store, "max_page_count")
    pragma(store, f"max_page_count = {pragma(store, 'page_count') + 3}")
    with pytest.raises(StoreError, match="full"):
        store.put([message(f"m{n}", body=bytes(5000)) for n in range(100)], now=NOW)
    assert ids(store.browse(EVERYTHING)) == ["before"]
    assert ids(take(store, 1, NOW)) == ["before"], "what needs no room still works"
    pragma(store, f"max_page_count = {limit}")
    store.put([message("after")], now=NOW)
    assert is_intact(store)


# -- threads of one process


def test_a_thread_that_looks_in_a_loop_does_not_keep_the_others_out(store: SQLiteStore) -> None:
    store.put([message(str(n)) for n in range(10_000)], now=NOW)
    over, looks = threading.Event(), 0

    def look() -> None:
        nonlocal looks
        while not over.is_set():
            store.counts()
            looks += 1

    reader = threading.Thread(target=look)
    reader.start()
    try:
        started = time.monotonic()
        for n in range(200):
            store.put([message(f"more {n}")], now=NOW)
        assert time.monotonic() - started < 30
        assert looks > 0  # and it is not kept out either
    finally:
        over.set()
        reader.join()


# -- interrupted by Ctrl-C


def put_until_interrupted(path: str, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    store, round_ = SQLiteStore(path), 0
    while connection.recv() == "go":
        stored: list[str] = []
        try:
            connection.send("begun")
            while True:
                name = f"{round_} {len(stored)}"
                store.put([message(name)], now=NOW)
                stored.append(name)
        except KeyboardInterrupt:
            connection.send(stored)
        round_ += 1


def test_ctrl_c_in_the_middle_of_a_put_is_heard_and_leaves_nothing_half_done(
    path: str, open_at: Open, start: Callable[..., Any]
) -> None:
    store = open_at(gate_timeout=1000)
    process, connection = start(put_until_interrupted, path)
    for round_ in range(200):
        connection.send("go")
        connection.recv()
        time.sleep(0.000_5 + round_ % 20 * 0.000_1)  # somewhere in the middle
        os.kill(process.pid, signal.SIGINT)
        assert connection.poll(20), "it goes on as if nothing had been said"
        acknowledged = connection.recv()
        # While the other one does nothing: it must not have kept the gate.
        kept = ids(store.claim(Claim(1, ["q"], 10**6), now=NOW))
        assert kept[: len(acknowledged)] == acknowledged
        assert len(kept) <= len(acknowledged) + 1
    assert is_intact(store)


# -- how it is searched

WORKER = 7


def fill(store: SQLiteStore) -> None:
    """Ten thousand messages, of all states and in several queues."""
    for queue in ("q", "r", "s", "t"):
        records = [message(f"{queue}{n}", queue=queue, actor="ab"[n % 2]) for n in range(2000)]
        later = [message(f"later {queue}{n}", queue=queue, eta=NOW + HOUR + n) for n in range(500)]
        store.put(records + later, now=NOW)
    buried = store.claim(Claim(WORKER, ["q", "r", "s", "t"], 500), now=NOW)
    lost = ["ActorNotFound: a", "ValueError: no"]
    store.finish([dead(each, lost[n % 2]) for n, each in enumerate(buried)], now=NOW - DEAD_LETTER_TTL)
    store.claim(Claim(WORKER, ["q", "r"], 200), now=NOW)
    store.move(Selection(message_ids=[f"t{n}" for n in range(1000, 1100)]), HELD, now=NOW)
    store.set_values([Value(f"k{n}", b"v", n % 7) for n in range(2000)], now=NOW)


@pytest.fixture(params=["as it is", "after ANALYZE"])
def full_store(store: SQLiteStore, request: pytest.FixtureRequest) -> SQLiteStore:
    fill(store)
    if request.param == "after ANALYZE":
        with store.database.write as connection:
            connection.execute("ANALYZE")
        store.database.close()  # a connection that opens now knows what was counted
    return store


class Plans:
    """Records the statements that are run, and what SQLite does for each."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store
        self._seen: list[str] = []

    def __enter__(self) -> Plans:
        with self._store.database.read as connection:
            connection.set_trace_callback(self._seen.append)
        return self

    def __exit__(self, *exc: object) -> None:
        with self._store.database.read as connection:
            connection.set_trace_callback(None)

    def steps(self) -> list[tuple[str, str]]:
        """Pairs of a step of a plan and the statement that it is of."""
        words = ("SELECT", "INSERT", "UPDATE", "DELETE")
        statements = dict.fromkeys(each.strip() for each in self._seen if each.strip().startswith(words))
        assert statements
        with self._store.database.read as connection:
            return [
                (step, statement)
                for statement in statements
                for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            ]


TABLES = ("message", "payload", "value", "counter", "hold", "event", "schedule")
"""The tables that may be long."""


def scans(plans: Plans) -> list[tuple[str, str]]:
    """The steps that look at every row of a table, or of an index."""
    return [
        (step, statement)
        for step, statement in plans.steps()
        if step.startswith("SCAN") and step.split()[1 + (step.split()[1] == "TABLE")] in TABLES
    ]


def live(store: SQLiteStore) -> None:
    """All that a worker or a sender does again and again."""
    now = NOW + HOUR + 9
    claimed = store.claim(Claim(WORKER, ["q", "r", "s"], 8, frozenset({"b"})), now=now)
    assert len(claimed) == 8
    a, b, c, d, *rest = claimed
    outcomes = [
        done(a),
        dead(b),
        Outcome(c, RELEASE),
        Outcome(d, RETRY, retry=d),
        Outcome(rest[0], puts=[message("next", body=bytes(9000))], values=[Value("result", b"42", HOUR)],
                counts=[Count("group", 1, HOUR, [message("callback")])], events=[Event("t", b"")]),
    ]  # fmt: skip
    claimed = store.finish(outcomes, now=now, claim=Claim(WORKER, ["s"], 1))
    store.finish([done(each) for each in (*rest[1:], *claimed)], now=now, claim=Claim(WORKER, ["q", "r", "s", "t"]))
    assert store.wait(["q", "r"], now=now, timeout=1, skip=lambda: frozenset({"b"}))
    assert not store.wait(["nothing here"], now=now, timeout=1)
    store.wait_value("k3", clock=lambda: NOW, timeout=1)
    store.delete_values(["k3"])
    store.add("c", 1, HOUR, now=NOW)
    store.incr("c", 1, 9, HOUR, now=NOW)
    store.incr_and_sum("c", lambda: ["c", "d"], 1, 9, HOUR, now=NOW)
    assert [store.hold("l", 1) for _ in range(2)] == [True, False]
    store.let_go("l")
    store.events(["t"], after=0)
    store.put_schedule(Schedule("s", NOW, b""))
    (due,) = store.due_schedules(now=NOW)
    store.advance_schedule(due, NOW + 1, [message()], now=NOW)


def test_no_verb_of_daily_life_looks_at_every_row(full_store: SQLiteStore) -> None:
    with Plans(full_store) as plans:
        live(full_store)
    assert scans(plans) == []


def test_housekeeping_does_not_look_at_every_row(full_store: SQLiteStore) -> None:
    with Plans(full_store) as plans:
        reaped = full_store.join(WorkerRecord("gone", 1, ["q"], []), now=NOW)
        full_store.claim(Claim(reaped, ["q"], 3), now=NOW)
        Path(full_store.path + ".localq", "holders", "dead").touch()
        assert full_store.reap(now=NOW) == 3
        leaving = full_store.join(WorkerRecord("leaver", 1, ["q"], ["a"]), now=NOW)
        full_store.leave(leaving, now=NOW)
        assert full_store.sweep(now=NOW + HOUR) > 0
    others = [step for step, _ in scans(plans) if "USING INDEX dead" not in step]
    assert others == [], "only who joins looks at the dead letters, and at nothing else"


def test_messages_that_are_named_are_found_by_their_names(full_store: SQLiteStore) -> None:
    with Plans(full_store) as plans:
        assert len(full_store.browse(Selection(message_ids=["q1500", "r1500"]))) == 2
        (found,) = full_store.browse(Selection(message_ids=["s1600"]))
        assert full_store.browse(Selection(sequences=[found.sequence])) == [found]
        assert full_store.move(Selection(message_ids=["s1600"]), HELD, now=NOW) == 1
        assert full_store.purge(Selection(sequences=[found.sequence])) == 1
    assert scans(plans) == []


def test_counting_looks_at_indexes_only(full_store: SQLiteStore) -> None:
    with Plans(full_store) as plans:
        full_store.counts()
    assert all(" INDEX " in step for step, _ in scans(plans))


def test_what_is_claimed_is_not_sorted_beyond_what_was_asked_for(full_store: SQLiteStore) -> None:
    # The first of each queue come from its index in order; a sort over a whole queue would
    # make a claim cost as much as the queue is long.
    with Plans(full_store) as plans:
        full_store.claim(Claim(WORKER, ["q"], 3), now=NOW)
    waiting = [step for step, _ in plans.steps() if "INDEX waiting" in step]
    assert waiting
    assert all("lane=? AND queue=?" in step for step in waiting)
