"""What stands beside a queue file, and who made it."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import localq
from localq.brokers import SQLiteBroker
from localq.cells import Cells, doom, has_run, read_death, read_running, read_stack, write_end
from localq.errors import StoreError, UnsafeLocation
from localq.store import Record, open_store, sqlite_url
from localq.store.sqlite import SQLiteStore

from .support import Queue, run_as, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs, links, owners and modes")

NOBODY = 65534
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def put_and_close(path: Path) -> None:
    store = SQLiteStore(str(path))
    store.put([Record("m", "q", "a", b"")], now=1)
    store.close()


# -- what is in the place of a file of ours


def be_a_folder(path: Path) -> None:
    path.mkdir()


def be_a_fifo(path: Path) -> None:
    os.mkfifo(path)


def be_a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def be_a_link(path: Path) -> None:
    (path.parent / "precious").write_bytes(b"precious")
    path.symlink_to(path.parent / "precious")


def be_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(10_001))


def be_all_ones(path: Path) -> None:
    path.write_bytes(b"\x7f" + b"\xff" * 20_000)


def be_empty(path: Path) -> None:
    path.write_bytes(b"")


ODD = [be_a_folder, be_a_fifo, be_a_socket, be_a_link]
DAMAGED = [be_garbage, be_all_ones, be_empty]


@pytest.mark.parametrize("be_odd", ODD)
@pytest.mark.parametrize("name", ["gate", "bells/table"])
def test_what_is_no_file_in_the_place_of_one_is_an_error_that_names_it(
    path: Path, name: str, be_odd: Callable[[Path], None]
) -> None:
    odd = Path(f"{path}.localq", name)
    odd.parent.mkdir(parents=True)
    be_odd(odd)
    with pytest.raises(StoreError, match=name):
        SQLiteStore(str(path))
    if be_odd is be_a_link:
        assert (odd.parent / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("be_damaged", DAMAGED)
@pytest.mark.parametrize("name", ["gate", "bells/table"])
def test_whatever_is_in_those_files_the_queue_works(
    queue: Queue, name: str, be_damaged: Callable[[Path], None]
) -> None:
    queue.broker.close()
    (queue.side / name).unlink()
    be_damaged(queue.side / name)
    queue.work(queue.nothing_waits)
    sent = [queue.add.send(n, n).message_id for n in range(10)]
    assert [record.message_id for record in queue.records()] == sent


@pytest.mark.parametrize("be_odd", [*ODD, *DAMAGED])
@pytest.mark.parametrize("name", ["0", "0.lock"])
def test_what_is_in_the_place_of_a_bell_makes_nobody_deaf_or_busy(
    queue: Queue, name: str, be_odd: Callable[[Path], None]
) -> None:
    be_odd(queue.side / "bells" / name)
    store, woken = queue.broker.store, []
    sleeper = threading.Thread(target=lambda: woken.append(store.wait(["q"], now=1, timeout=20_000)))
    sleeper.start()
    store.wait(["other"], now=1, timeout=5)
    assert woken == []
    store.put([Record("m", "q", "a", b"")], now=1)
    sleeper.join(20)
    assert woken == [True]
    if be_odd is be_a_link:
        assert (queue.side / "bells" / "precious").read_bytes() == b"precious"


def test_a_file_in_the_place_of_a_bell_does_not_end_every_wait_at_once(queue: Queue) -> None:
    be_garbage(queue.side / "bells" / "0")
    assert queue.broker.store.wait(["q"], now=1, timeout=1) is False
    assert stat.S_ISFIFO((queue.side / "bells" / "0").stat().st_mode)


@pytest.mark.parametrize("be_odd", [*ODD, *DAMAGED])
def test_what_is_in_the_place_of_cells_is_a_dead_worker(queue: Queue, be_odd: Callable[[Path], None]) -> None:
    row = {"pid": 1, "pool": "", "queues": "[]", "actors": "[]", "threads": 1, "joined_at": 1}
    queue.insert("worker", name="odd", **row)
    be_odd(queue.side / "workers" / "odd")
    cells = str(queue.side / "workers" / "odd")
    assert isinstance(read_running(cells), list)
    has_run(cells), read_stack(cells), doom(cells, 1, 1, 1), write_end(cells, 1, -9)
    queue.work(lambda: len(queue.broker.store.workers()) == 1)


@pytest.mark.parametrize("size", [1, 7, 8, 100, 127, 128, 129, 190])
def test_cells_that_were_cut_off_are_read_as_far_as_they_go(path: Path, size: int) -> None:
    cells = Cells(str(path), 2)
    cells.of_thread(0).enter(5, 1)
    raw = path.read_bytes()
    cells.close()
    path.write_bytes(raw[:size])
    assert read_death(str(path)) is not None
    assert len(read_running(str(path))) == (size >= 184)


@pytest.mark.parametrize("pid", [-1, -(2**62), 2**62, 0])
def test_a_supervisor_of_an_impossible_number_does_not_live(path: Path, pid: int) -> None:
    Cells(str(path), 1, 0).let_go()
    raw = bytearray(path.read_bytes())
    raw[8:16] = pid.to_bytes(8, "little", signed=True)
    path.write_bytes(raw)
    assert read_death(str(path)) is not None


# -- the file, and the folder beside it


@pytest.mark.parametrize("be_odd", [be_a_fifo, be_a_socket])
def test_a_queue_is_a_file(path: Path, be_odd: Callable[[Path], None]) -> None:
    be_odd(path)
    with pytest.raises(StoreError, match="is no file"):
        open_store(sqlite_url(path))
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_queue_is_no_device(device: str) -> None:
    with pytest.raises(StoreError, match="is no file"):
        open_store(sqlite_url(device))
    assert not os.path.exists(f"{device}.localq")


def test_a_file_in_the_place_of_the_side_folder_is_named(path: Path) -> None:
    Path(f"{path}.localq").write_text("precious")
    with pytest.raises(StoreError, match="in the way of a folder"):
        SQLiteStore(str(path))
    assert Path(f"{path}.localq").read_text() == "precious"


@pytest.mark.parametrize("sub", ["", "/bells", "/workers"])
def test_a_link_in_the_place_of_the_side_folder_is_refused(path: Path, sub: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o755)
    link = Path(f"{path}.localq{sub}")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(UnsafeLocation, match="is a link"):
        SQLiteStore(str(path))
    assert os.listdir(elsewhere) == []
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755


def test_a_path_through_links_is_the_file_that_it_leads_to(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "jobs-link.db").symlink_to(path)
    for name in ("link/jobs.db", "jobs-link.db"):
        store = open_store(sqlite_url(tmp_path / name))
        assert store.info()["file"] == str(path)
        store.close()


@as_root
@pytest.mark.parametrize("theirs", ["", ".localq", ".localq/bells", ".localq/workers"])
def test_what_belongs_to_somebody_else_is_refused(path: Path, theirs: str) -> None:
    put_and_close(path)
    for each in (path.parent, *path.parent.rglob("*")):
        os.chown(each, NOBODY, NOBODY)
    for each in path.parent.parents:
        os.chmod(each, os.stat(each).st_mode | 0o011)
    os.chown(f"{path}{theirs}", 1, 1)
    os.chmod(f"{path}{theirs}", 0o666 if not theirs else 0o777)

    def refused() -> None:
        with pytest.raises(UnsafeLocation, match="belongs to another user"):
            SQLiteStore(str(path))

    assert run_as(NOBODY, refused) == 0
    put_and_close(path)  # root may


@as_root
def test_its_own_queue_is_open_to_a_user(path: Path) -> None:
    os.chown(path.parent, NOBODY, NOBODY)
    for each in path.parent.parents:
        os.chmod(each, os.stat(each).st_mode | 0o011)
    assert run_as(NOBODY, lambda: put_and_close(path)) == 0


# -- modes


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o077, 0o277, 0o777])
def test_all_that_a_queue_and_a_worker_make_is_private(
    tmp_path: Path, umask: Callable[[int], int], mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "new" / "data"))
    umask(mask)
    broker = localq.connect()
    add = localq.actor(lambda x, y: x + y, actor_name="add", broker=broker)
    worker = localq.Worker(broker, worker_threads=2)
    worker.start()
    try:
        message = add.send(1, 2)
        assert message.get_result(block=True, timeout=20_000) == 3
        wait_until(lambda: any(thread.idle for thread in worker.workers))
        made = list((tmp_path / "new").rglob("*"))
        modes = {
            str(each.relative_to(tmp_path)): oct(stat.S_IMODE(each.lstat().st_mode))
            for each in made
            if stat.S_IMODE(each.lstat().st_mode) != (0o700 if each.is_dir() else 0o600)
        }
    finally:
        worker.stop()
        umask(0o022)
    assert modes == {}
    names = {each.name for each in made}
    assert {"jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.localq", "gate", "table", "0", "0.lock"} <= names
    assert any(each.parent.name == "workers" for each in made)


def test_a_broker_of_a_folder_that_others_may_write_refuses_to_send(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    broker = SQLiteBroker(tmp_path / "jobs.db")
    with pytest.raises(UnsafeLocation, match="chmod o-w"):
        broker.enqueue(localq.Message("default", "a", (), {}, {}))
    assert os.listdir(tmp_path) == []
