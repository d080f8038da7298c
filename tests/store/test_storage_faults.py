"""The storage under attack: full, read-only, replaced, damaged, locked by others; each an error that says so."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from localq.brokers import SQLiteBroker
from localq.cells import Cells
from localq.errors import StoreBusy, StoreCorrupt, StoreError, StoreReplaced
from localq.message import Message
from localq.store import Value, open_store, sqlite_url
from localq.store.sqlite import SQLiteStore

from ..mounts import SmallDisk, mounted, small_disk
from .contract import EVERYTHING, another_thread, done, ids, message, promptly, take

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
    pytest.mark.skipif(sys.platform == "win32", reason="files that are open are kept there"),
]

NOW = 1_700_000_000_000
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "queue").mkdir()
    return str(tmp_path / "queue" / "jobs.db")


Open = Callable[..., SQLiteStore]


@pytest.fixture
def open_at(path: str) -> Iterator[Open]:
    """Opens the file; all are closed at the end."""
    opened: list[SQLiteStore] = []

    def open_at(at: str = path, **options: Any) -> SQLiteStore:
        opened.append(SQLiteStore(at, **options))
        return opened[-1]

    yield open_at
    for store in opened:
        store.close()


def names(store: SQLiteStore) -> list[str]:
    return ids(store.browse(EVERYTHING, limit=100_000))


def put(store: SQLiteStore, *names: str) -> None:
    store.put([message(name) for name in names], now=NOW)


def is_intact(path: str) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def make_queue(path: str, *names: str) -> None:
    """A closed queue with these messages, and nothing beside it but its folder."""
    store = SQLiteStore(path)
    put(store, *names)
    store.close()


def put_and_die(path: str, names: list[str], connection: Connection) -> None:
    """Leave a write-ahead log behind, as a crash does."""
    store = SQLiteStore(path)
    put(store, *names)
    connection.send("stored")
    connection.recv()


@pytest.fixture
def crash(start: Callable[..., Any]) -> Callable[..., None]:
    """``crash(path, *names)`` stores messages in a process that is killed then."""

    def crash(path: str, *names: str) -> None:
        process, connection = start(put_and_die, path, list(names))
        assert connection.recv() == "stored"
        process.kill()
        process.join()
        assert os.path.getsize(path + "-wal") > 0

    return crash


# -- a full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        yield disk


def test_a_full_disk_refuses_at_once_and_when_there_is_room_all_goes_on(disk: SmallDisk, open_at: Open) -> None:
    path = str(disk.folder / "jobs.db")
    store = open_at(path)
    put(store, "before")
    disk.fill()
    with promptly():
        for _ in range(3):
            with pytest.raises(StoreError, match=r"is full.*free some space"):
                store.put([message(f"refused {n}", body=bytes(5_000)) for n in range(50)], now=NOW)
        with pytest.raises(StoreError, match="is full"):
            store.set_values([Value("k", bytes(200_000), 1000)], now=NOW)
    assert names(store) == ["before"], "who reads needs no room, and nothing is half written"
    disk.free()
    put(store, "after")
    assert names(store) == ["before", "after"]
    store.close()
    assert is_intact(path)


def test_messages_of_all_sizes_at_the_brink_are_stored_whole_or_refused(disk: SmallDisk, open_at: Open) -> None:
    path = str(disk.folder / "jobs.db")
    store, accepted, refused = open_at(path), [], set()
    for n in range(400):
        disk.free()
        disk.fill(leave=4096 * (n % 40))
        batch = [message(f"{n} {each}", body=bytes(900 * (n % 7))) for each in range(1 + n % 5)]
        try:
            store.put(batch, now=NOW)
            accepted += ids(batch)
        except StoreError as error:
            refused.add(str(error))
    assert names(store) == accepted
    assert accepted
    assert all("is full" in said for said in refused)
    assert refused
    disk.free()
    store.close()
    assert is_intact(path)


def open_where_it_is_full(path: str, connection: Connection) -> None:
    try:
        store = SQLiteStore(path)
        put(store, "stored")
        store.wait(["other"], now=NOW, timeout=1)
        Cells(store.worker_path(str(os.getpid())), 100).of_thread(99).enter(1, 1)
        connection.send("used")
    except StoreError as error:
        connection.send(str(error))


@pytest.mark.parametrize("room", [0, 1, 2, 3, 4, 5, 8, 16, 40])
def test_opening_on_a_full_disk_is_an_error_and_kills_nobody(
    disk: SmallDisk, start: Callable[..., Any], room: int
) -> None:
    path = str(disk.folder / "jobs.db")
    disk.fill(leave=4096 * room)
    process, connection = start(open_where_it_is_full, path)
    process.join(30)
    assert process.exitcode == 0, "a page of a mapped file had no room: SIGBUS"
    said = connection.recv()
    assert "full" in said if room < 16 else said == "used" or "full" in said
    disk.free()
    process, connection = start(open_where_it_is_full, path)
    process.join(30)
    assert (process.exitcode, connection.recv()) == (0, "used")


def test_a_disk_that_is_full_keeps_nobody_from_waiting(disk: SmallDisk, open_at: Open) -> None:
    store = open_at(str(disk.folder / "jobs.db"))
    disk.fill()
    with promptly(), another_thread(lambda: store.wait(["q"], now=NOW, timeout=20_000)) as asleep:
        while not asleep.running():
            time.sleep(0.001)
        disk.free()
        put(store, "m")
        assert asleep.result(20)


@pytest.mark.parametrize("file", ["gate", "bells/table", "workers/w"])
def test_what_processes_map_has_no_holes(path: str, open_at: Open, file: str) -> None:
    store = open_at()
    cells = Cells(store.worker_path("w"), 100)
    status = os.stat(f"{path}.localq/{file}")
    assert status.st_blocks * 512 >= status.st_size > 0
    cells.close()


# -- a file that may not be written


def without_the_powers_of_root(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script for which modes of files count, also where the tests run as root."""
    drop = (
        "import ctypes, os\n"
        "if os.geteuid() == 0:\n"
        "    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", drop + text, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
    )


LOSES_A_RIGHT = """
import os, sys
from localq.errors import StoreError
from localq.store import Record, open_store
path, what, mode = sys.argv[1], sys.argv[2], int(sys.argv[3], 8)
store = open_store("sqlite:///" + path)
def put(name):
    try:
        store.put([Record(name, "q", "a", b"")], now=1)
    except StoreError as error:
        print(error)
    else:
        print("stored")
put("a")
before = os.stat(what).st_mode & 0o777
os.chmod(what, mode)
store.database.close()  # as before a fork
put("b")
put("c")
os.chmod(what, before)
put("d")
print(sorted(record.message_id for record in store.browse(__import__("localq.store").store.Selection())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="gives up the powers of root as Linux has it")
@pytest.mark.parametrize(
    ("what", "mode"),
    [("jobs.db", "400"), ("jobs.db", "000"), ("jobs.db.localq/gate", "400"), ("jobs.db.localq", "000"),
     ("", "000")],
)  # fmt: skip
def test_a_right_that_is_lost_is_an_error_with_the_remedy_and_when_it_is_back_all_goes_on(
    path: str, what: str, mode: str
) -> None:
    where = str(Path(path).parent / what)
    ended = without_the_powers_of_root(LOSES_A_RIGHT, path, where, mode)
    os.chmod(os.path.dirname(path), 0o700)
    assert ended.returncode == 0, ended.stderr
    first, second, third, fourth, left = ended.stdout.splitlines()
    assert (first, fourth, left) == ("stored", "stored", "['a', 'd']")
    for refused in (second, third):
        assert "give it the right to read and write" in refused
        assert os.path.dirname(path) in refused


def test_a_read_only_file_system_is_an_error_that_says_so(path: str, tmp_path: Path, open_at: Open) -> None:
    folder = tmp_path / "disk"
    with mounted(folder, "tmpfs", "size=4m"):
        make_queue(str(folder / "jobs.db"), "a")
        remount = ["mount", "-o", "remount,ro", str(folder)]
        if subprocess.run(remount, capture_output=True).returncode:
            pytest.skip("a file system cannot be mounted read-only here")
        with promptly(), pytest.raises(StoreError, match="read-only file system; mount it for writing"):
            open_at(str(folder / "jobs.db"))
        with pytest.raises(StoreError, match="read-only file system; mount it for writing"):
            open_at(str(folder / "new.db"))
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        store = open_at(str(folder / "jobs.db"))
        put(store, "b")
        assert names(store) == ["a", "b"]
        store.close()


# -- a file that is deleted or replaced


def replace(path: str) -> None:
    make_queue(path + ".new", "of the new file")
    os.replace(path + ".new", path)


def delete(path: str) -> None:
    os.unlink(path)


def delete_all(path: str) -> None:
    for each in Path(path).parent.glob("jobs.db*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def delete_side_folder(path: str) -> None:
    shutil.rmtree(path + ".localq")


def delete_whole_folder(path: str) -> None:
    shutil.rmtree(os.path.dirname(path))
    os.mkdir(os.path.dirname(path))


def move_away(path: str) -> None:
    os.rename(path, path + ".old")


WAYS = {
    replace: ["of the new file", "after"],
    delete: ["after"],
    delete_all: ["after"],
    delete_side_folder: ["before", "after"],
    delete_whole_folder: ["after"],
    move_away: ["after"],
}
"""How a file goes, and what is there after that and one more message."""

ways = pytest.mark.parametrize("lose", WAYS, ids=lambda way: way.__name__)


def wait_until_noticed(store: SQLiteStore) -> StoreReplaced:
    """Look until it is refused: a moment passes before somebody looks after the file."""
    with promptly():
        while True:
            try:
                store.counts()
            except StoreReplaced as error:
                return error


@ways
def test_a_file_that_goes_is_an_error_until_it_is_opened_anew(path: str, lose: Callable[[str], None]) -> None:
    store = open_store(sqlite_url(path))
    put(store, "before")
    lose(path)
    error = wait_until_noticed(store)
    for words in (path, "deleted or replaced", "nothing was written", "close the broker"):
        assert words in str(error)
    for _ in range(2):
        with pytest.raises(StoreReplaced):
            put(store, "refused")
        with pytest.raises(StoreReplaced):
            store.counts()
    store.close()
    again = open_store(sqlite_url(path))
    assert again is not store
    put(again, "after")
    assert names(again) == WAYS[lose]
    again.close()
    assert is_intact(path)


@ways
def test_a_sender_recovers_by_closing_its_broker(path: str, lose: Callable[[str], None]) -> None:
    broker = SQLiteBroker(path)
    broker.declare_queue("default")
    sent = Message("default", "a", (), {}, {})
    broker.enqueue(sent)
    other_user = open_store(sqlite_url(path))  # a results backend, say, that nobody closes
    lose(path)
    wait_until_noticed(broker.store)
    with pytest.raises(StoreReplaced):
        broker.enqueue(sent)
    broker.close()
    broker.enqueue(sent)
    assert sent.message_id in names(broker.store)
    broker.close()
    other_user.close()
    assert is_intact(path)


def test_a_log_that_was_left_by_a_crash_is_not_played_into_the_next_file(
    path: str, crash: Callable[..., None], open_at: Open, caplog: pytest.LogCaptureFixture
) -> None:
    crash(path, *(f"of the old file {n}" for n in range(300)))
    replace(path)
    store = open_at()
    assert names(store) == ["of the new file"]
    put(store, "after")
    store.close()
    assert is_intact(path)
    (aside,) = Path(path + ".localq").glob("wal-of-a-former-file-*")
    assert aside.stat().st_size > 0
    assert str(aside) in caplog.text


def test_a_log_that_was_left_by_a_crash_is_not_lost_when_all_is_moved(
    path: str, crash: Callable[..., None], open_at: Open, tmp_path: Path
) -> None:
    crash(path, "a", "b")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(os.path.dirname(path), elsewhere)
    store = open_at(str(elsewhere / "jobs.db"))
    assert names(store) == ["a", "b"]
    put(store, "c")
    assert names(open_at()) == ["a", "b"]


def write_to_new_file(path: str, connection: Connection) -> None:
    replace(path)
    connection.send("replaced")
    store = SQLiteStore(path)
    put(store, *(str(n) for n in range(100)))
    connection.send("stored")
    connection.recv()
    connection.send(os.path.exists(path + "-wal"))
    connection.recv()


ENDS_WITH_AN_OLD_CONNECTION = """
import os, sys
from localq.store import Record, open_store
store = open_store("sqlite:///" + sys.argv[1])
store.put([Record("old", "q", "a", b"")], now=1)
print("open", flush=True)
sys.stdin.readline()
if sys.argv[2] == "closes":
    store.close()
elif sys.argv[2] == "forks":
    os.waitpid(os.fork(), 0)
elif sys.argv[2] == "collects":
    del store.database.open_connection
    import gc
    gc.collect()
"""


@pytest.mark.parametrize("end", ["leaves", "closes", "forks", "collects"])
def test_who_ends_with_an_old_connection_leaves_the_log_of_the_new_file_alone(
    path: str, open_at: Open, start: Callable[..., Any], end: str
) -> None:
    # SQLite deletes the log by its name when it closes the last connection to the old file.
    script = [sys.executable, "-W", "error", "-c", ENDS_WITH_AN_OLD_CONNECTION, path, end]
    pipe = subprocess.PIPE
    with subprocess.Popen(script, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as old:
        assert old.stdout is not None
        assert old.stdout.readline() == "open\n"
        process, new = start(write_to_new_file, path)
        assert [new.recv(), new.recv()] == ["replaced", "stored"]
        old.communicate("end\n", timeout=60)
        assert old.returncode == 0
    new.send("look")
    assert new.recv() is True, "the log of the new file is gone"
    process.kill()
    process.join()
    assert len(names(open_at())) == 101
    assert is_intact(path)


def test_a_fork_with_a_replaced_file_harms_neither(path: str, start: Callable[..., Any]) -> None:
    store = open_store(sqlite_url(path))
    put(store, "before")
    replace(path)

    def use_it(connection: Connection) -> None:
        wait_until_noticed(store)
        store.close()
        again = open_store(sqlite_url(path))
        put(again, "of the child")
        connection.send("stored")
        again.close()

    _, connection = start(use_it)
    assert connection.recv() == "stored"
    wait_until_noticed(store)
    store.close()
    again = open_store(sqlite_url(path))
    assert names(again) == ["of the new file", "of the child"]
    again.close()
    assert is_intact(path)


# -- damage


PAGE = 4096


@pytest.fixture
def large(path: str) -> str:
    """A closed queue of some hundred pages."""
    store = SQLiteStore(path)
    store.put([message(f"m{n}", body=bytes(500)) for n in range(3000)], now=NOW)
    store.close()
    return path


def damage(path: str, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_damaged_header_is_refused_with_the_remedy(large: str, open_at: Open) -> None:
    damage(large, 0, b"\xa5" * 100)
    with pytest.raises(StoreCorrupt, match="first page is damaged, stop all workers and restore a backup"):
        open_at()


def test_damaged_pages_are_refused_with_the_remedy_and_the_rest_is_readable(large: str, open_at: Open) -> None:
    pages = os.path.getsize(large) // PAGE
    for page in range(pages // 2, pages):
        damage(large, page * PAGE, b"\xa5" * PAGE)
    store = open_at()

    def run_all() -> None:
        while claimed := take(store, 1, NOW, limit=50):
            store.finish([done(each) for each in claimed], now=NOW)

    with pytest.raises(StoreCorrupt, match=r"is damaged.*restore a backup") as refused:
        run_all()
    assert large in str(refused.value)
    with promptly():
        for _ in range(20):
            with pytest.raises(StoreCorrupt):
                store.browse(EVERYTHING, limit=100_000)


@pytest.mark.parametrize("left", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_with_the_remedy(large: str, open_at: Open, left: float) -> None:
    os.truncate(large, int(os.path.getsize(large) * left))
    with pytest.raises(StoreCorrupt, match="restore a backup"):
        names(open_at())


def test_an_empty_file_beside_a_log_that_is_not_is_refused(path: str, crash: Callable[..., None]) -> None:
    crash(path, "a", "b")
    log = Path(path + "-wal").read_bytes()
    os.truncate(path, 0)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=r"emptied.*restore a backup, or delete all files"):
            SQLiteStore(path)
    assert Path(path + "-wal").read_bytes() == log, "what can be restored from it is left alone"


def test_a_file_that_is_emptied_in_use_is_an_error_and_harms_nobody(path: str, open_at: Open) -> None:
    store = open_at()
    put(store, *(f"m{n}" for n in range(1000)))
    with store.database.gate, store.database.read as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    subprocess.run(["truncate", "-s", "0", path], check=True)  # not from here: that would drop SQLite's locks


    def use_it() -> None:
        for _ in range(100):
            put(store, "refused")
            time.sleep(0.01)

    with promptly(), pytest.raises(StoreCorrupt, match="emptied"):
        use_it()
    with pytest.raises(StoreCorrupt, match="emptied"):
        names(store)


def test_a_log_that_was_left_by_a_crash_is_recovered(path: str, crash: Callable[..., None], open_at: Open) -> None:
    crash(path, *(f"m{n}" for n in range(500)))
    damage(path + "-shm", 0, b"\xa5" * 1000)  # nobody has it open: it is made anew
    assert names(open_at()) == [f"m{n}" for n in range(500)]


def test_of_a_damaged_log_all_before_the_damage_is_recovered(
    path: str, crash: Callable[..., None], open_at: Open
) -> None:
    make_queue(path, "in the file")
    crash(path, "in the log")
    with open(path + "-wal", "ab") as file:
        file.write(os.urandom(3 * (PAGE + 24)))
    assert names(open_at()) == ["in the file", "in the log"]
    assert is_intact(path)


def test_a_log_that_is_garbage_is_as_if_it_were_not_there(path: str, open_at: Open) -> None:
    make_queue(path, "in the file")
    Path(path + "-wal").write_bytes(os.urandom(50_000))
    Path(path + "-shm").write_bytes(os.urandom(32_768))
    store = open_at()
    assert names(store) == ["in the file"]
    put(store, "after")
    store.close()
    assert is_intact(path)


# -- another program


def lock(path: str, seconds: float, begin: str, connection: Connection) -> None:
    """A program that is not localq, and that holds a lock for so long after it was told to go on."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(begin)
        connection.send("inside")
        connection.recv()
        time.sleep(seconds)
        other.execute("ROLLBACK")


def put_at_once(path: str, number: int, connection: Connection) -> None:
    store = SQLiteStore(path, gate_timeout=3000, busy_timeout=1500)
    connection.send("ready")
    connection.recv()
    began = time.monotonic()
    try:
        put(store, str(number))
        said = "stored"
    except StoreBusy as error:
        said = str(error)
    connection.send((said, time.monotonic() - began))


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("seconds", [0.5, 60])
def test_all_are_told_of_a_program_that_holds_the_file_and_none_of_the_gate(
    path: str, start: Callable[..., Any], begin: str, seconds: float
) -> None:
    make_queue(path, "before")
    senders = [start(put_at_once, path, number) for number in range(4)]
    assert [connection.recv() for _, connection in senders] == ["ready"] * 4
    _, program = start(lock, path, seconds, begin)
    assert program.recv() == "inside"
    for _, connection in senders:
        connection.send("put")
    program.send("go on")
    answers = [connection.recv() for _, connection in senders]
    assert max(took for _, took in answers) < 30
    if seconds < 1.5:
        assert {said for said, _ in answers} == {"stored"}, "for a moment it is waited for"
    else:
        for said, took in answers:
            assert "another program, which is not localq" in said
            assert path in said
            assert "end its transaction" in said
            assert took >= 1.4


def test_who_opens_a_file_that_another_program_holds_is_told_so(path: str, start: Callable[..., Any]) -> None:
    make_queue(path, "before")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with promptly(), pytest.raises(StoreBusy, match="another program"):
            SQLiteStore(path, busy_timeout=300)
        other.execute("ROLLBACK")
    store = SQLiteStore(path)
    assert names(store) == ["before"]
    store.close()


def test_threads_of_one_process_are_all_told_of_the_program(path: str, start: Callable[..., Any]) -> None:
    store = SQLiteStore(path, gate_timeout=3000, busy_timeout=900)
    _, program = start(lock, path, 0, "BEGIN IMMEDIATE")
    assert program.recv() == "inside"

    def try_it(number: int) -> str:
        with pytest.raises(StoreBusy) as refused:
            put(store, str(number))
        return str(refused.value)

    with ThreadPoolExecutor(4) as pool:
        assert all("another program" in said for said in pool.map(try_it, range(4)))
    assert names(store) == [], "who reads is not kept out"
    program.send("leave")
    with promptly():
        put(store, "after")
    store.close()
