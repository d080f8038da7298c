"""Forks: no connection lives across one, and what anybody acknowledged is there, whoever forked when.

Each test runs its program as a process of its own, in a session that is killed whole at the end:
threads that hang in a lock cannot be ended otherwise.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import localq
from localq.cells import Cells, read_death
from localq.errors import StoreBusy, StoreError
from localq.store import Value, WorkerRecord, open_store, sqlite_url
from localq.store.base import RUNNING
from localq.store.sqlite import SQLiteStore

from .contract import EVERYTHING, HOUR, LONG, done, ids, message, promptly, take

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # From Python 3.12 on a fork warns where there are threads.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

FORK = multiprocessing.get_context("fork")
NOW = 1_700_000_000_000
ROOT = Path(localq.__file__).parent.parent
PATIENCE = 40
"""Seconds after which a program counts as hanging."""


class Program:
    """A running program, which reports over a connection."""

    def __init__(self, work: Callable[..., None], *args: Any) -> None:
        self.connection, theirs = FORK.Pipe()
        self._process = FORK.Process(target=self._run, args=(work, args, theirs))
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0

    @staticmethod
    def _run(work: Callable[..., None], args: tuple[Any, ...], connection: Connection) -> None:
        os.setsid()
        work(*args, connection)

    def report(self) -> Any:
        assert self.connection.poll(PATIENCE), "it hangs"
        return self.connection.recv()

    def kill(self) -> None:
        """Only the program itself, not what it forked."""
        self._process.kill()
        self._process.join()

    def join(self) -> None:
        """Wait for its end in order."""
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        self.connection.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    """Runs ``work(*args, connection)`` as a program."""
    programs: list[Program] = []

    def run(work: Callable[..., None], *args: Any) -> Program:
        programs.append(Program(work, *args))
        return programs[-1]

    yield run
    for program in programs:
        program.end()


class Acknowledged:
    """What was stored for certain: a file to which all processes append.

    Who is killed in the middle of a line, where that crosses a page, leaves the beginning of it: a line
    stands between two of its own breaks, and counts if it has come to its full stop.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".acknowledged"

    def add(self, name: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, b"\n" + name.encode() + b".\n")
        os.close(descriptor)

    def names(self) -> list[str]:
        lines = Path(self._path).read_text().splitlines()
        return [line.removesuffix(".") for line in lines if line.endswith(".")]


def put(store: SQLiteStore, acknowledged: Acknowledged, name: str) -> None:
    store.put([message(name)], now=NOW)
    acknowledged.add(name)


def assert_all_is_there(path: str) -> None:
    store, acknowledged = SQLiteStore(path), Acknowledged(path).names()
    stored = ids(store.browse(EVERYTHING, limit=10**6))
    with store.database.read as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store.close()
    assert set(acknowledged) - set(stored) == set()
    assert len(stored) == len(set(stored))


def fork(work: Callable[[], None]) -> int:
    """A child by `os.fork` that does the work and exits at once."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)
    return 0


def fork_by_multiprocessing(work: Callable[[], None]) -> int:
    """A child by `multiprocessing`, whose end runs what a process's end runs there."""
    process = FORK.Process(target=work)
    process.start()
    return process.pid or 0


def wait_for(child: int) -> None:
    with suppress(ChildProcessError):  # multiprocessing has done so
        os.waitpid(child, 0)


# -- everything at once


def die_at_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forks_a_hundred_times(
    path: str, fork: Callable[[Callable[[], None]], int], connection: Connection
) -> None:
    store, acknowledged, chance = SQLiteStore(path), Acknowledged(path), random.Random(1)
    over = threading.Event()

    def write(thread: int) -> int:
        for n in itertools.count():
            if over.is_set():
                return n
            put(store, acknowledged, f"thread {thread} {n}")
        return 0

    def read(_: int) -> int:
        for n in itertools.count():
            if over.is_set():
                return n
            assert store.counts()["q"]
            store.get_value("nothing", now=NOW)
        return 0

    def live(round_: int, last: Callable[[], None]) -> None:
        for n in range(3):
            put(store, acknowledged, f"child {round_} {n}")
        last()

    def live_until_killed(round_: int) -> None:
        for n in itertools.count():
            put(store, acknowledged, f"child {round_} {n}")

    put(store, acknowledged, "first")
    with ThreadPoolExecutor(3) as pool:
        threads = [pool.submit(write, 0), pool.submit(write, 1), pool.submit(read, 0)]
        for round_ in range(100):
            if round_ % 4 == 0:
                child = fork(lambda n=round_: live_until_killed(n))  # type: ignore[misc]
                time.sleep(chance.random() * 0.02)
                os.kill(child, signal.SIGKILL)
            else:
                last = (die_at_once, store.close, lambda: None)[round_ % 3]
                child = fork(lambda n=round_, end=last: live(n, end))  # type: ignore[misc]
            put(store, acknowledged, f"parent {round_}")
            wait_for(child)
        over.set()
    connection.send([thread.result() for thread in threads])


@pytest.mark.parametrize("how", [fork, fork_by_multiprocessing])
def test_a_hundred_forks_lose_nothing_while_threads_read_and_write(
    path: str, run: Callable[..., Program], how: Callable[..., int]
) -> None:
    done_by_threads = run(forks_a_hundred_times, path, how).report()
    assert min(done_by_threads) > 20, "the threads went on all the time"
    assert_all_is_there(path)
    names = Acknowledged(path).names()
    for round_ in range(100):
        assert f"parent {round_}" in names
        if round_ % 4:
            assert {f"child {round_} {n}" for n in range(3)} <= set(names)


# -- one thing at a time


def closes_while_its_child_writes(path: str, connection: Connection) -> None:
    store, acknowledged = SQLiteStore(path), Acknowledged(path)
    put(store, acknowledged, "before")
    written, closed = FORK.Event(), FORK.Event()

    def child() -> None:
        for n in range(101):
            put(store, acknowledged, f"child {n}")
        written.set()
        closed.wait(PATIENCE)
        put(store, acknowledged, "child, after its parent had closed")

    pid = fork(child)
    written.wait(PATIENCE)
    put(store, acknowledged, "parent")
    store.close()
    closed.set()
    wait_for(pid)
    connection.send("done")


def test_a_parent_that_closes_does_not_take_its_childs_messages_along(
    path: str, run: Callable[..., Program]
) -> None:
    run(closes_while_its_child_writes, path).report()
    assert_all_is_there(path)
    assert len(Acknowledged(path).names()) == 104


def ends_before_its_child(path: str, connection: Connection) -> None:
    store, acknowledged = SQLiteStore(path), Acknowledged(path)
    put(store, acknowledged, "before")
    parent = os.getpid()

    def child() -> None:
        while os.getppid() == parent:
            time.sleep(0.001)
        for n in range(50):
            put(store, acknowledged, f"orphan {n}")
        connection.send("done")

    fork(child)
    put(store, acknowledged, "parent")


def test_an_orphan_goes_on(path: str, run: Callable[..., Program]) -> None:
    run(ends_before_its_child, path).report()
    assert_all_is_there(path)
    assert len(Acknowledged(path).names()) == 52


def has_grandchildren(path: str, connection: Connection) -> None:
    store, acknowledged = SQLiteStore(path), Acknowledged(path)

    def descend(depth: int) -> None:
        put(store, acknowledged, f"before {depth}")
        if depth < 5:
            wait_for(fork(lambda: descend(depth + 1)))
        put(store, acknowledged, f"after {depth}")

    descend(0)
    connection.send("done")


def test_a_grandchild_of_a_grandchild_sends_as_well(path: str, run: Callable[..., Program]) -> None:
    run(has_grandchildren, path).report()
    assert_all_is_there(path)
    assert len(Acknowledged(path).names()) == 12


def uses_a_process_pool(path: str, connection: Connection) -> None:
    store, acknowledged = open_store(sqlite_url(path)), Acknowledged(path)
    assert isinstance(store, SQLiteStore)
    put(store, acknowledged, "before")

    def work(n: int) -> None:
        own = open_store(sqlite_url(path))
        assert isinstance(own, SQLiteStore)
        put(own, acknowledged, f"child {n}")
        own.close()

    uses_a_process_pool.work = work  # type: ignore[attr-defined]  # what a pool runs has to have a name
    with FORK.Pool(3) as pool:
        pool.map(call_work, range(100))
    put(store, acknowledged, "after")
    connection.send("done")


def call_work(n: int) -> None:
    uses_a_process_pool.work(n)  # type: ignore[attr-defined]


def test_the_processes_of_a_pool_send_as_well(path: str, run: Callable[..., Program]) -> None:
    run(uses_a_process_pool, path).report()
    assert_all_is_there(path)
    assert len(Acknowledged(path).names()) == 102


SCRIPT = r"""
import os, sys
from localq.store import Record, open_store

store = open_store(sys.argv[1])
store.put([Record("before", "q", "a", b"")], now=1)
child = os.fork()
store.put([Record(str(n), "child" if not child else "parent", "a", b"") for n in range(10)], now=1)
if child and sys.argv[2] == "waits":
    os.waitpid(child, 0)
os.write(1, b"acknowledged\n")
"""


@pytest.mark.parametrize("parent", ["waits", "leaves"])
def test_a_script_and_its_fork_may_simply_come_to_their_end(path: str, parent: str) -> None:
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT, sqlite_url(path), parent],
            capture_output=True, text=True, timeout=PATIENCE, check=True, cwd=ROOT,
        )  # fmt: skip
        assert (ended.stdout, ended.stderr) == ("acknowledged\n" * 2, "")
    store = SQLiteStore(path)
    assert {queue: sum(states.values()) for queue, states in store.counts().items()} == {
        "q": 3, "parent": 30, "child": 30
    }  # fmt: skip
    store.close()


def starts_programs(path: str, connection: Connection) -> None:
    store, acknowledged = SQLiteStore(path), Acknowledged(path)
    for n in range(20):
        put(store, acknowledged, f"before {n}")
        subprocess.run([sys.executable, "-S", "-c", ""], check=True, preexec_fn=lambda: None)
        put(store, acknowledged, f"after {n}")
    connection.send("done")


def test_starting_programs_loses_nothing(path: str, run: Callable[..., Program]) -> None:
    run(starts_programs, path).report()
    assert_all_is_there(path)


# -- several at once


MANY_THREADS = r"""
import os, sys, threading
from localq.store import Record, open_store

stores = [open_store(f"{sys.argv[1]}{n}") for n in range(3)]
writing = 2
lock = threading.Lock()

def put(thread, n):
    for store in stores:
        store.put([Record(f"{thread} {n}", "q", "a", b"")], now=1)

def write(thread):
    global writing
    for n in range(100):
        put(thread, n)
    with lock:
        writing -= 1

def fork():
    while writing:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)

threads = [threading.Thread(target=write, args=(n,)) for n in range(writing)]
threads += [threading.Thread(target=fork) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print([store.counts()["q"]["waiting"] for store in stores])
"""


def test_many_threads_may_fork_at_the_same_time(path: str) -> None:
    # A fresh interpreter: here concurrent.futures is imported, which itself keeps forks apart.
    program = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", MANY_THREADS, sqlite_url(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    try:
        output, _ = program.communicate(timeout=PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    assert output == "[200, 200, 200]\n"


def forks_while_others_open_and_close(path: str, connection: Connection) -> None:
    over, acknowledged = threading.Event(), Acknowledged(path)

    def open_and_close(thread: int) -> None:
        for n in itertools.count():
            if over.is_set():
                return
            store = open_store(sqlite_url(path))
            assert isinstance(store, SQLiteStore)
            put(store, acknowledged, f"thread {thread} {n}")
            store.close()

    def child(round_: int) -> None:
        store = open_store(sqlite_url(path))
        assert isinstance(store, SQLiteStore)
        put(store, acknowledged, f"child {round_}")
        store.close()

    with ThreadPoolExecutor(3) as pool:
        threads = [pool.submit(open_and_close, thread) for thread in range(3)]
        for round_ in range(100):
            wait_for(fork(lambda n=round_: child(n)))  # type: ignore[misc]
        over.set()
    for thread in threads:
        thread.result()
    connection.send("done")


def test_a_child_opens_the_store_although_its_parent_was_just_opening_it(
    path: str, run: Callable[..., Program]
) -> None:
    run(forks_while_others_open_and_close, path).report()
    assert_all_is_there(path)
    assert {f"child {round_}" for round_ in range(100)} <= set(Acknowledged(path).names())


def forks_while_others_wait(path: str, connection: Connection) -> None:
    store, over = SQLiteStore(path), threading.Event()

    def sleep(thread: int) -> None:
        while not over.is_set():
            store.wait([f"nothing {thread}"], now=NOW, timeout=2)
            store.wait_value(f"nothing {thread}", clock=lambda: NOW, timeout=2)

    def child() -> None:
        store.wait(["nothing"], now=NOW, timeout=1)
        store.wake()

    with ThreadPoolExecutor(4) as pool:
        sleepers = [pool.submit(sleep, thread) for thread in range(4)]
        for _ in range(100):
            wait_for(fork(child))
        over.set()
    for sleeper in sleepers:
        sleeper.result()
    connection.send("done")


def test_to_fork_while_threads_wait_for_messages_disturbs_nobody(
    path: str, run: Callable[..., Program]
) -> None:
    run(forks_while_others_wait, path).report()


# -- a fork that comes at a bad time


def stay_inside(path: str, connection: Connection) -> None:
    with SQLiteStore(path).database.write:
        connection.send("inside")
        signal.pause()


def forks_while_the_gate_is_shut(path: str, connection: Connection) -> None:
    store, acknowledged = SQLiteStore(path, gate_timeout=300), Acknowledged(path)
    put(store, acknowledged, "before")
    connection.send("open")
    connection.recv()  # somebody else is inside the gate now, and stopped
    opened = FORK.Event()

    def child() -> None:
        opened.wait(PATIENCE)
        refused = []
        for use in (lambda: store.put([message("no")], now=NOW), store.counts, store.close):
            try:
                use()
            except StoreError as error:
                refused.append(str(error))
        connection.send(refused)

    pid = fork(child)
    connection.send("forked")
    connection.recv()
    put(store, acknowledged, "after")
    opened.set()
    wait_for(pid)
    put(store, acknowledged, "after the end of the child")
    store.close()


def test_a_child_that_was_forked_while_the_gate_was_shut_is_told_so(
    path: str, run: Callable[..., Program]
) -> None:
    # SQLite's connection could not be closed before that fork, since closing it writes.
    program = run(forks_while_the_gate_is_shut, path)
    assert program.report() == "open"
    holder = run(stay_inside, path)
    assert holder.report() == "inside"
    os.kill(holder.pid, signal.SIGSTOP)
    program.connection.send("fork")
    assert program.report() == "forked"
    holder.kill()
    program.connection.send("go on")

    refused = program.report()
    assert ["forked" in text for text in refused] == [True, True], "it may neither write nor read"
    program.join()
    assert_all_is_there(path)
    assert len(Acknowledged(path).names()) == 3


def forks_in_the_middle_of_writes(path: str, connection: Connection) -> None:
    store, acknowledged = SQLiteStore(path), Acknowledged(path)
    signal.signal(signal.SIGUSR1, lambda number, frame: wait_for(fork(lambda: None)))
    for n in range(20):
        with store.database.write as transaction:
            statement = "INSERT OR REPLACE INTO value (key, data, expires_at) VALUES (?, x'00', 1)"
            transaction.execute(statement, (str(n),))
            signal.raise_signal(signal.SIGUSR1)
            connection.send("inside")
            connection.recv()
        put(store, acknowledged, f"{n}")
    connection.send("done")


def test_a_signal_handler_may_fork_in_the_middle_of_a_write(path: str, run: Callable[..., Program]) -> None:
    other = SQLiteStore(path, gate_timeout=20)
    program = run(forks_in_the_middle_of_writes, path)
    for _ in range(20):
        assert program.report() == "inside"
        with pytest.raises(StoreBusy):  # the end of the child has not opened the gate
            other.put([message()], now=NOW)
        program.connection.send("go on")
    assert program.report() == "done"
    other.close()
    assert_all_is_there(path)


# -- nothing of the parent's is kept alive by a child


def works_and_forks(path: str, connection: Connection) -> None:
    """A worker that runs a message, has threads asleep, and forked a child that does nothing."""
    store = SQLiteStore(path)
    store.put([message("a")], now=NOW)
    cells = Cells(store.worker_path("worker"), 1)
    worker = store.join(WorkerRecord("worker", os.getpid(), ["q"], []), now=NOW)
    (record,) = take(store, worker, NOW)
    cells.of_thread(0).enter(record.sequence, record.claim)
    for _ in range(3):
        threading.Thread(target=store.wait, args=(["r"],), kwargs={"now": NOW, "timeout": LONG}).start()
    table = Path(path + ".localq", "bells", "table")
    while table.read_bytes().count(b"m") < 3:
        time.sleep(0.001)
    fork(lambda: connection.send(os.getpid()) or signal.pause())


def test_a_child_keeps_neither_the_lock_nor_the_bells_of_its_dead_parent(
    path: str, run: Callable[..., Program]
) -> None:
    program = run(works_and_forks, path)
    child = program.report()
    store = SQLiteStore(path)
    cells = store.worker_path("worker")
    assert read_death(cells) is None
    assert store.reap(now=NOW) == 0

    program.kill()
    os.kill(child, 0)  # it is there
    death = read_death(cells)
    assert death is not None
    assert [running.claim for running in death.running] == [1]
    assert store.reap(now=NOW) == 1
    assert store.counts() == {"q": {"waiting": 1}}

    with promptly(), ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(store.wait, ["r"], now=NOW, timeout=LONG)
        while not any(Path(path + ".localq", "bells", "table").read_bytes()):
            time.sleep(0.001)
        store.put([message(queue="r")], now=NOW)
        assert sleeper.result()
    slots = [name for name in os.listdir(path + ".localq/bells") if name.isdigit()]
    assert len(slots) == 3, "the slots of the dead are free again"
    store.close()


def sleeps_beside_a_forked_parent(path: str, connection: Connection) -> None:
    store = SQLiteStore(path)

    def child() -> None:
        while not store.wait(["q"], now=NOW, timeout=LONG):
            pass
        (record,) = take(store, 1, NOW)
        store.finish([done(record)], now=NOW)
        store.set_values([Value("answer", record.body, HOUR)], now=NOW)

    store.wait(["q"], now=NOW, timeout=1)  # so that the parent has a bell before it forks
    fork(child)
    store.put([message(body=b"42")], now=NOW)
    connection.send(store.wait_value("answer", clock=lambda: NOW, timeout=LONG))


def test_parent_and_child_wake_each_other(path: str, run: Callable[..., Program]) -> None:
    program = run(sleeps_beside_a_forked_parent, path)
    with promptly():
        assert program.report() == b"42"


def claims_on_both_sides(path: str, connection: Connection) -> None:
    store = SQLiteStore(path)
    store.put([message(f"m{n}") for n in range(400)], now=NOW)

    def drain() -> list[str]:
        worker, seen = store.join(WorkerRecord("w", os.getpid(), ["q"], []), now=NOW), []
        while claimed := take(store, worker, NOW, limit=3):
            assert {record.state for record in claimed} == {RUNNING}
            store.finish([done(record) for record in claimed], now=NOW)
            seen += ids(claimed)
        return seen

    fork(lambda: connection.send(drain()))
    fork(lambda: connection.send(drain()))
    connection.send(drain())


def test_parent_and_children_claim_each_message_once(path: str, run: Callable[..., Program]) -> None:
    program = run(claims_on_both_sides, path)
    seen = [*program.report(), *program.report(), *program.report()]
    assert sorted(seen) == sorted(f"m{n}" for n in range(400))
