"""The SQLite store: the contract, and what only real processes that really die can show."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from localq.cells import CRASHED, DOOMED, ORDERED, Cells, doom, write_end
from localq.store import Outcome, Record, Selection, Store, Value, WorkerRecord, open_store, sqlite_url
from localq.store.base import ALONE, DEAD_LETTER_TTL, RUNNING, THREAD, WAITING
from localq.store.sqlite import SQLiteStore

from .contract import EVERYTHING, HOUR, LONG, StoreContract, dead, done, ids, message, promptly, take, take_one

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

FORK = multiprocessing.get_context("fork")
NOW = 1_700_000_000_000
ALL = 10**6


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        self.alive: list[Cells] = []
        store = open_store(sqlite_url(tmp_path / "jobs.db"))
        yield store
        store.close()
        for cells in self.alive:
            cells.close()

    def join(
        self, store: Store, now: int, *, queues: Sequence[str] = (), actors: Sequence[str] = ()
    ) -> int:
        name = uuid4().hex
        self.alive.append(Cells(store.worker_path(name) or "", 1))
        return store.join(WorkerRecord(name, 1, queues, actors), now=now)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(str(tmp_path / "jobs.db"))
    yield store
    store.close()


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    """What is still there at the end of the test is killed."""
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def start(processes: list[BaseProcess], work: Callable[..., None], *args: Any) -> tuple[BaseProcess, Connection]:
    """A forked process that runs ``work(*args, connection)``, and our end of that connection."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=work, args=(*args, theirs))
    process.start()
    theirs.close()
    processes.append(process)
    return process, ours


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def everything_in(connection: Connection) -> list[Any]:
    """What was sent and not yet received; nobody sends any more."""
    with connection:
        received = []
        try:
            while True:
                received.append(connection.recv())
        except EOFError:
            return received


def is_intact(store: SQLiteStore) -> bool:
    with store.database.read as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def stored(store: Store) -> list[str]:
    return ids(store.browse(EVERYTHING, limit=ALL))


# -- kill -9 in the middle


def put_without_end(path: str, writer: str, acknowledge: Connection) -> None:
    store = SQLiteStore(path)
    for n in itertools.count():
        names = [f"{writer} {n} {each}" for each in range(1 + n % 3)]
        store.put([message(name) for name in names], now=NOW + n)
        acknowledge.send(names)


def test_a_kill_in_the_middle_of_puts_loses_nothing_that_was_acknowledged(
    store: SQLiteStore, processes: list[BaseProcess]
) -> None:
    chance = random.Random(1)
    acknowledged: list[str] = []
    for round_ in range(12):
        writers = [start(processes, put_without_end, store.path, f"{round_} {w}") for w in range(2)]
        for process, connection in writers:
            for _ in range(chance.randrange(1, 60)):
                acknowledged += connection.recv()
            kill(process)
            for names in everything_in(connection):
                acknowledged += names
        if round_ % 3 == 2:
            store.close()  # nobody has the file open between two rounds
    assert set(acknowledged) <= set(stored(store))
    assert len(stored(store)) == len(set(stored(store)))
    assert is_intact(store)


def test_a_kill_in_the_middle_of_a_put_stores_all_of_it_or_none(
    store: SQLiteStore, processes: list[BaseProcess]
) -> None:
    for round_ in range(5):
        process, connection = start(processes, put_without_end, store.path, f"{round_}")
        connection.recv()
        kill(process)
        connection.close()
    sizes: dict[str, int] = {}
    for name in stored(store):
        put, _, _ = name.rpartition(" ")
        sizes[put] = sizes.get(put, 0) + 1
    assert all(size == 1 + int(put.split()[1]) % 3 for put, size in sizes.items())


def finish_without_end(path: str, progress: Connection) -> None:
    store = SQLiteStore(path)
    worker = store.join(WorkerRecord(uuid4().hex, os.getpid(), ["q"], []), now=NOW)
    while claimed := take(store, worker, NOW, limit=3):
        outcomes = [
            Outcome(each, puts=[message(f"after {each.message_id}", queue="r")],
                    values=[Value(each.message_id, b"result", HOUR)])
            for each in claimed
        ]  # fmt: skip
        store.finish(outcomes, now=NOW)
        progress.send(ids(claimed))


def test_a_kill_in_the_middle_of_finishing_leaves_each_message_in_one_place(
    store: SQLiteStore, processes: list[BaseProcess]
) -> None:
    names = [f"m{n}" for n in range(2000)]
    store.put([message(name) for name in names], now=NOW)
    finished: list[str] = []
    for _ in range(10):
        process, progress = start(processes, finish_without_end, store.path)
        progress.recv()
        kill(process)
        for batch in everything_in(progress):
            finished += batch
        store.reap(now=NOW)

    assert RUNNING not in store.counts()["q"]
    places = set(stored(store))
    assert len(places) == len(names) == len(stored(store))
    for name in names:
        is_done = f"after {name}" in places
        assert is_done != (name in places)
        assert is_done == (store.get_value(name, now=NOW) is not None)
    assert all(f"after {name}" in places for name in finished)
    assert is_intact(store)


# -- giving back what the dead held


@dataclass
class DoomedWorker:
    process: BaseProcess
    cells: str
    """The path of its file."""

    def die(self, end: int | None = None, status: int = -signal.SIGKILL) -> None:
        """Be killed; a supervisor notes the end, if there is to be one."""
        kill(self.process)
        if end is not None:
            write_end(self.cells, end, status)


Doom = Callable[..., DoomedWorker]


def work_for_ever(path: str, claims: int, runs: int, supervisor: int, connection: Connection) -> None:
    store, name = SQLiteStore(path), uuid4().hex
    cells = Cells(store.worker_path(name), 4, supervisor)
    worker = store.join(WorkerRecord(name, os.getpid(), ["q"], []), now=NOW)
    for thread, record in enumerate(take(store, worker, NOW, limit=claims)[:runs]):
        cells.of_thread(thread).enter(record.sequence, record.claim)
    connection.send(cells.path)
    signal.pause()


@pytest.fixture
def doomed_worker(store: SQLiteStore, processes: list[BaseProcess]) -> Doom:
    """Starts a process that has joined, claimed some messages, and runs the first of them."""

    def begin(claims: int = 1, runs: int = 1, supervisor: int | None = None) -> DoomedWorker:
        supervisor = os.getpid() if supervisor is None else supervisor
        process, connection = start(processes, work_for_ever, store.path, claims, runs, supervisor)
        with connection:
            return DoomedWorker(process, connection.recv())

    return begin


def records(store: Store) -> dict[str, Record]:
    return {record.message_id: record for record in store.browse(EVERYTHING)}


def test_of_a_crashed_worker_only_the_message_that_ran_is_charged(
    store: SQLiteStore, doomed_worker: Doom
) -> None:
    store.put([message(name) for name in "abc"], now=NOW)
    doomed_worker(claims=3, runs=1).die(CRASHED)
    assert store.reap(now=NOW) == 3
    given = records(store)
    assert [given[name].state for name in "abc"] == [WAITING] * 3
    assert [given[name].crashes for name in "abc"] == [1, 0, 0]
    assert [given[name].attempts for name in "abc"] == [1, 0, 0]
    assert [given[name].lane for name in "abc"] == [THREAD] * 3
    assert store.workers() == []
    assert ids(take(store, 99, NOW, limit=9)) == ["a", "b", "c"]


def test_of_a_worker_that_was_killed_for_one_message_only_that_one_has_a_verdict(
    store: SQLiteStore, doomed_worker: Doom
) -> None:
    store.put([message(name) for name in "abc"], now=NOW)
    worker = doomed_worker(claims=3, runs=2)
    target = records(store)["b"]
    assert doom(worker.cells, target.sequence, target.claim, 1)
    worker.die(DOOMED)
    assert store.reap(now=NOW) == 3
    given = records(store)
    assert [given[name].verdict for name in "abc"] == [None, "Abort: its process was killed", None]
    assert [given[name].crashes for name in "abc"] == [0, 0, 0]
    assert [given[name].attempts for name in "abc"] == [0, 1, 0]
    assert [given[name].lane for name in "abc"] == [THREAD] * 3


def test_the_last_crash_allowed_leaves_a_verdict_that_names_the_signal(
    store: SQLiteStore, doomed_worker: Doom
) -> None:
    store.put([message("a")], now=NOW)
    for crash in (1, 2, 3):
        assert records(store)["a"].verdict is None
        doomed_worker().die(CRASHED, -signal.SIGSEGV)
        assert store.reap(now=NOW, max_crashes=3) == 1
        assert records(store)["a"].crashes == crash
    (again,) = take(store, 99, NOW)
    assert again.verdict is not None
    assert again.verdict.startswith("WorkerCrashed: ")
    assert "signal 11 (SIGSEGV)" in again.verdict


@pytest.mark.parametrize(
    ("status", "words"), [(-signal.SIGKILL, "signal 9 (SIGKILL)"), (7, "status 7"), (-99, "signal 99")]
)
def test_a_verdict_says_how_the_process_ended(
    store: SQLiteStore, doomed_worker: Doom, status: int, words: str
) -> None:
    store.put([message("a")], now=NOW)
    doomed_worker().die(CRASHED, status)
    store.reap(now=NOW, max_crashes=1)
    assert words in (records(store)["a"].verdict or "")


def test_an_ordered_end_charges_nobody(store: SQLiteStore, doomed_worker: Doom) -> None:
    store.put([message("a"), message("b")], now=NOW)
    doomed_worker(claims=2, runs=1).die(ORDERED)
    assert store.reap(now=NOW) == 2
    assert {(each.state, each.crashes, each.attempts) for each in records(store).values()} == {(WAITING, 0, 0)}


def test_what_a_worker_held_stays_put_until_its_supervisor_said_how_it_ended(
    store: SQLiteStore, doomed_worker: Doom
) -> None:
    store.put([message("a")], now=NOW)
    worker = doomed_worker()
    worker.die()
    assert store.reap(now=NOW) == 0
    assert records(store)["a"].state == RUNNING
    write_end(worker.cells, CRASHED, -9)
    assert store.reap(now=NOW) == 1
    assert records(store)["a"].crashes == 1


def test_the_death_of_a_whole_tree_charges_nobody(
    store: SQLiteStore, doomed_worker: Doom, processes: list[BaseProcess]
) -> None:
    store.put([message("a")], now=NOW)
    supervisor = FORK.Process(target=signal.pause)
    supervisor.start()
    processes.append(supervisor)
    worker = doomed_worker(supervisor=supervisor.pid)
    kill(supervisor)
    assert store.reap(now=NOW) == 0, "the worker still lives"
    worker.die()
    assert store.reap(now=NOW) == 1
    assert (records(store)["a"].crashes, records(store)["a"].attempts) == (0, 0)


def test_a_worker_without_a_supervisor_is_given_back_uncharged(store: SQLiteStore, doomed_worker: Doom) -> None:
    store.put([message("a")], now=NOW)
    doomed_worker(supervisor=0).die()
    assert store.reap(now=NOW) == 1
    assert (records(store)["a"].crashes, records(store)["a"].attempts) == (0, 0)


def test_a_worker_whose_file_is_gone_is_dead(store: SQLiteStore, doomed_worker: Doom) -> None:
    store.put([message("a")], now=NOW)
    worker = doomed_worker()
    worker.die()
    os.unlink(worker.cells)
    assert store.reap(now=NOW) == 1
    assert records(store)["a"].state == WAITING


def test_a_worker_that_was_stopped_for_ever_so_long_is_alive(store: SQLiteStore, doomed_worker: Doom) -> None:
    store.put([message("a")], now=NOW)
    worker = doomed_worker(supervisor=0)
    os.kill(worker.process.pid or 0, signal.SIGSTOP)
    assert store.reap(now=NOW + 1000 * HOUR) == 0
    assert records(store)["a"].state == RUNNING


def test_several_runners_of_a_crashed_worker_become_suspects_and_none_is_charged(
    store: SQLiteStore, doomed_worker: Doom
) -> None:
    store.put([message(name) for name in "abc"], now=NOW)
    doomed_worker(claims=3, runs=2).die(CRASHED)
    assert store.reap(now=NOW) == 3
    given = records(store)
    assert [given[name].lane for name in "abc"] == [ALONE, ALONE, THREAD]
    assert {(each.crashes, each.attempts) for each in given.values()} == {(0, 0)}


def test_a_suspect_runs_alone_and_a_crash_counts_there(store: SQLiteStore, doomed_worker: Doom) -> None:
    store.put([message(name) for name in "abc"], now=NOW)
    doomed_worker(claims=2, runs=2).die(CRASHED)
    store.reap(now=NOW)
    doomed_worker(claims=9, runs=9).die(CRASHED)
    assert store.reap(now=NOW) == 1
    given = records(store)
    assert [given[name].crashes for name in "abc"] == [1, 0, 0]


def test_a_crash_after_the_end_of_a_message_charges_nobody(store: SQLiteStore) -> None:
    store.put([message("a"), message("b")], now=NOW)
    cells = Cells(store.worker_path("w"), 1)
    worker = store.join(WorkerRecord("w", os.getpid(), ["q"], []), now=NOW)
    a, _ = take(store, worker, NOW, limit=2)
    cells.of_thread(0).enter(a.sequence, a.claim)
    store.finish([done(a)], now=NOW)
    cells.let_go()  # as if it had died: the lock is free, and the file is there
    write_end(cells.path, CRASHED, -9)
    assert store.reap(now=NOW) == 1
    assert (records(store)["b"].crashes, records(store)["b"].attempts) == (0, 0)


def die_with(store: SQLiteStore, claims: int) -> None:
    """A worker that has claimed some messages and is dead."""
    name = uuid4().hex
    cells = Cells(store.worker_path(name), 1)
    worker = store.join(WorkerRecord(name, 1, ["q"], []), now=NOW)
    assert len(take(store, worker, NOW, limit=claims)) == claims
    cells.let_go()


def test_a_reaper_removes_the_file_of_the_dead(store: SQLiteStore) -> None:
    store.put([message("a")], now=NOW)
    die_with(store, claims=1)
    workers = Path(store.worker_path("x")).parent
    assert len(list(workers.iterdir())) == 1
    store.reap(now=NOW)
    assert list(workers.iterdir()) == []


def reap_until_none_is_left(path: str, result: Connection) -> None:
    store, given = SQLiteStore(path), 0
    while store.workers():
        given += store.reap(now=NOW)
    result.send(given)


def test_of_many_reapers_one_gives_each_message_back(store: SQLiteStore, processes: list[BaseProcess]) -> None:
    store.put([message(f"m{n}") for n in range(600)], now=NOW)
    for _ in range(200):
        die_with(store, claims=3)
    reapers = [start(processes, reap_until_none_is_left, store.path) for _ in range(4)]
    results = [everything_in(connection) for _, connection in reapers]
    assert sum(itertools.chain(*results)) == 600
    assert [len(result) for result in results] == [1] * 4, "no reaper failed"
    assert store.counts() == {"q": {WAITING: 600}}
    assert {each.attempts for each in store.browse(EVERYTHING, limit=ALL)} == {0}


def test_who_serves_no_queue_sleeps(store: SQLiteStore) -> None:
    store.put([message("a"), message("later", eta=NOW + 1)], now=NOW)
    assert not store.wait([], now=NOW, timeout=1)
    assert not store.wait([], now=NOW, timeout=1, skip=lambda: frozenset({"a"}))


def test_who_sleeps_is_woken_by_what_the_dead_held(store: SQLiteStore, doomed_worker: Doom) -> None:
    store.put([message("a")], now=NOW)
    worker = doomed_worker(supervisor=0)
    with promptly(), ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(store.wait, ["q"], now=NOW, timeout=LONG)
        worker.die()
        store.reap(now=NOW)
        assert sleeper.result()


# -- the file does not grow for ever


def test_freed_pages_are_used_again(store: SQLiteStore) -> None:
    def fill_and_empty() -> int:
        store.put([message(f"m{n}", body=bytes(n)) for n in range(3000)], now=NOW)
        store.finish([done(each) for each in take(store, 1, NOW, limit=ALL)], now=NOW)
        store.close()  # so that everything is in the file
        return os.path.getsize(store.path)

    first = fill_and_empty()
    assert first > 1_000_000
    assert max(fill_and_empty() for _ in range(3)) <= first * 1.1


def test_sweeping_gives_free_pages_back_to_the_disk(store: SQLiteStore) -> None:
    store.put([message(f"m{n}", body=bytes(5000)) for n in range(10_000)], now=NOW)
    store.finish([dead(each) for each in take(store, 1, NOW, limit=ALL)], now=NOW)
    store.close()
    full = os.path.getsize(store.path)
    while store.sweep(now=NOW + DEAD_LETTER_TTL + 1):
        pass
    while store.shrink():
        pass
    store.close()
    assert os.path.getsize(store.path) < full / 10


def test_a_large_body_leaves_nothing_behind_whatever_way_its_message_goes(store: SQLiteStore) -> None:
    store.put([message(name, body=bytes(50_000)) for name in ("done", "dead", "purged")], now=NOW)
    store.finish([done(take_one(store, 1, NOW)), dead(take_one(store, 1, NOW))], now=NOW)
    store.purge(Selection(message_ids=["purged"]))
    while store.sweep(now=NOW + DEAD_LETTER_TTL + 1):
        pass
    with store.database.read as connection:
        assert connection.execute("SELECT count(*) FROM payload").fetchone() == (0,)
