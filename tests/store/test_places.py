"""Places under a limit, and the processes that hold them: stopped, killed, forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from localq.errors import StoreBusy
from localq.store.sqlite import SQLiteStore
from tests.torture.places import storm

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
]

NOW = 1_700_000_000_000

Until = Callable[..., Any]
Start = Callable[..., tuple[BaseProcess, Connection]]


def holders(path: str) -> list[str]:
    return os.listdir(path + ".localq/holders")


def rows(store: SQLiteStore) -> list[Any]:
    with store.database.read as connection:
        return connection.execute("SELECT key, amount FROM hold ORDER BY 1, 2").fetchall()


def hold(path: str, keys: list[str], connection: Connection) -> None:
    """Take a place under each key, say so, and stay inside until told to leave."""
    with closing(SQLiteStore(path)) as store:
        connection.send([store.hold(key, 9) for key in keys])
        connection.recv()
        for key in keys:
            store.let_go(key)


def test_what_a_killed_process_held_is_free_at_once(path: str, store: SQLiteStore, start: Start) -> None:
    process, connection = start(hold, path, ["k", "k", "other"])
    assert connection.recv() == [True, True, True]
    assert not store.hold("k", 2)

    process.kill()
    process.join()

    assert [store.hold("k", 2) for _ in range(3)] == [True, True, False]
    assert store.hold("other", 1)


def test_a_stopped_process_keeps_its_places(path: str, store: SQLiteStore, start: Start) -> None:
    process, connection = start(hold, path, ["k"])
    assert connection.recv() == [True]
    os.kill(process.pid or 0, signal.SIGSTOP)

    assert not store.hold("k", 1)
    store.reap(now=NOW)
    assert not store.hold("k", 1)

    os.kill(process.pid or 0, signal.SIGCONT)
    connection.send("leave")
    process.join()
    assert store.hold("k", 1)


def test_housekeeping_forgets_the_dead_and_their_files(path: str, store: SQLiteStore, start: Start) -> None:
    living, of_living = start(hold, path, ["k"])
    dead, of_dead = start(hold, path, ["k", "k", "nobody asks for this one again"])
    assert (of_living.recv(), of_dead.recv()) == ([True], [True] * 3)
    assert len(holders(path)) == 2
    dead.kill()
    dead.join()

    assert store.reap(now=NOW) == 0

    assert rows(store) == [("k", 1)]
    assert len(holders(path)) == 1
    of_living.send("leave")
    living.join()
    assert (rows(store), holders(path)) == ([], [])


def test_a_process_that_died_before_it_was_written_down_leaves_nothing_for_ever(
    path: str, store: SQLiteStore, start: Start
) -> None:
    def die_inside(path: str, connection: Connection) -> None:
        store = SQLiteStore(path)
        store.database.connection().set_trace_callback(
            lambda statement: os.kill(os.getpid(), signal.SIGKILL) if "INSERT INTO hold" in statement else None
        )
        store.hold("k", 1)

    process, _ = start(die_inside, path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (rows(store), len(holders(path))) == ([], 1)

    assert store.hold("k", 1)  # the next who takes a place looks around first

    assert len(holders(path)) == 1
    store.let_go("k")
    store.close()
    assert holders(path) == []


def test_a_holder_whose_file_somebody_removed_counts_as_dead(path: str, store: SQLiteStore, start: Start) -> None:
    process, connection = start(hold, path, ["k"])
    connection.recv()
    process.kill()
    process.join()
    for name in holders(path):
        os.unlink(f"{path}.localq/holders/{name}")
    assert store.hold("k", 1)


def test_a_place_in_a_file_that_was_replaced_is_owed_to_nobody(path: str, caplog: pytest.LogCaptureFixture) -> None:
    store = SQLiteStore(path)
    assert store.hold("k", 1)
    os.unlink(path)
    store.database.look_at_next_use()
    store.let_go("k")
    assert caplog.messages == []
    store.close()


def test_a_child_does_not_keep_what_its_dead_parent_held(
    path: str, store: SQLiteStore, start: Start, until: Until
) -> None:
    def hold_and_fork(path: str, connection: Connection) -> None:
        SQLiteStore(path).hold("k", 1)
        child = os.fork()
        if child:
            connection.send(child)
        time.sleep(120)

    process, connection = start(hold_and_fork, path)
    child = connection.recv()
    try:
        assert not store.hold("k", 1)
        process.kill()
        process.join()
        until(lambda: store.hold("k", 1), "the child has let go, as it does first of all")
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_that_a_holder_started_keeps_no_place(path: str, store: SQLiteStore, start: Start) -> None:
    def hold_and_start(path: str, connection: Connection) -> None:
        SQLiteStore(path).hold("k", 1)
        program = subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(120)"],
            stdout=subprocess.PIPE, close_fds=False,
        )  # fmt: skip
        assert program.stdout is not None
        program.stdout.readline()
        connection.send(program.pid)
        time.sleep(120)

    process, connection = start(hold_and_start, path)
    program = connection.recv()
    try:
        process.kill()
        process.join()
        assert store.hold("k", 1)
        os.kill(program, 0)
    finally:
        os.kill(program, signal.SIGKILL)


def test_a_child_that_leaves_gives_back_nothing_of_its_parents(path: str, store: SQLiteStore) -> None:
    assert store.hold("k", 2)
    if not (child := os.fork()):
        store.let_go("k")
        took = store.hold("k", 2)
        store.let_go("k")
        os._exit(took)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert rows(store) == [("k", 1)]
    store.reap(now=NOW)
    assert rows(store) == [("k", 1)]
    store.let_go("k")
    assert rows(store) == []


def test_a_parent_that_forks_keeps_its_places(path: str, store: SQLiteStore, start: Start) -> None:
    assert store.hold("k", 1)
    for _ in range(5):
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
    process, connection = start(_try, path)
    assert connection.recv() is False
    process.join()


def _try(path: str, connection: Connection) -> None:
    with closing(SQLiteStore(path)) as store:
        store.reap(now=NOW)
        connection.send(store.hold("k", 1))


def test_two_stores_of_one_process_do_not_take_each_other_for_dead(
    path: str, store: SQLiteStore, start: Start
) -> None:
    with closing(SQLiteStore(path)) as other:
        assert store.hold("k", 2)
        assert other.hold("k", 2)
        assert not store.hold("k", 2)
        other.reap(now=NOW)
        store.reap(now=NOW)
        process, connection = start(_try, path)
        assert connection.recv() is False
        process.join()
        other.let_go("k")
        assert other.hold("k", 2)
        other.let_go("k")


def test_a_store_that_is_closed_frees_nothing_that_somebody_is_still_inside_of(path: str, start: Start) -> None:
    store = SQLiteStore(path)
    assert store.hold("k", 1)
    store.close()
    with closing(SQLiteStore(path)) as other:
        assert not other.hold("k", 1)
        process, connection = start(_try, path)
        assert connection.recv() is False
        process.join()
    store.let_go("k")
    store.close()
    assert holders(path) == []


def test_a_place_that_cannot_be_given_back_now_is_given_back_later(
    path: str, caplog: pytest.LogCaptureFixture, until: Callable[..., Any], start: Start
) -> None:
    with closing(SQLiteStore(path, gate_timeout=50)) as store:
        assert store.hold("k", 2)
        process, connection = start(_keep_the_gate, path)
        connection.recv()

        store.let_go("k")  # which raises nothing: what the place was for has ended well

        assert "stays taken until it can be given back" in caplog.text
        with pytest.raises(StoreBusy):
            store.hold("k", 1)
        connection.send("leave")
        until(lambda: rows(store) == [])
        process.join()
        assert [store.hold("k", 1) for _ in range(2)] == [True, False]


def _keep_the_gate(path: str, connection: Connection) -> None:
    with closing(SQLiteStore(path)) as store, store.database.gate:
        connection.send("inside")
        connection.recv()


def test_threads_that_take_and_give_back_without_end_are_never_too_many(path: str, store: SQLiteStore) -> None:
    inside: list[int] = []
    crowds: list[int] = []
    begin = threading.Barrier(8)

    def work() -> None:
        begin.wait(20)
        for _ in range(100):
            if store.hold("k", 3):
                inside.append(1)
                crowds.append(len(inside))
                inside.pop()
                store.let_go("k")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(crowds) <= 3
    assert rows(store) == []


def test_under_random_kills_and_stops_there_are_never_more_inside_than_the_limit(tmp_path: Path) -> None:
    report = storm(tmp_path, processes=20, limit=3, seconds=4, seed=7)
    assert report.entered > 50
    assert report.kills > 5
    assert report.too_many == []
    assert report.free_again_after < 1
    assert report.left_behind == []
