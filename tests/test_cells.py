"""Cells: a file that tells what a process ran and how it ended, and whose lock tells whether it lives."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from localq.cells import (
    CELL,
    CRASHED,
    HEADER,
    ORDERED,
    UNKNOWN,
    WORD,
    Cells,
    Death,
    Running,
    doom,
    read_death,
    read_running,
    remove_stray,
    write_end,
)
from localq.process_table import born, is_alive

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

FORK = multiprocessing.get_context("fork")
NO_SUPERVISOR = 0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cells")


@pytest.fixture
def cells(path: str) -> Iterator[Cells]:
    cells = Cells(path, 3)
    yield cells
    cells.close()


def is_overdue(path: str, asleep: float = 0) -> bool:
    """Whether something in that file is to be ended now, in a process that was stopped for so long."""
    now = time.monotonic() * 1000
    return any(running.time_left(now, asleep) <= 0 for running in read_running(path))


Start = Callable[..., tuple[BaseProcess, Connection]]


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def run_for_ever(path: str, supervisor: int, connection: Connection) -> None:
    cells = Cells(path, 3, supervisor)
    cell = cells.of_thread(1)
    cell.enter(42, 7)
    cell.limit(99)
    connection.send("running")
    signal.pause()


@pytest.fixture
def worker(path: str, start: Start) -> Callable[..., BaseProcess]:
    """Starts a process whose second thread runs message 42, by claim 7."""

    def worker(supervisor: int = NO_SUPERVISOR) -> BaseProcess:
        process, connection = start(run_for_ever, path, supervisor)
        connection.recv()
        return process

    return worker


# -- what runs


def test_a_new_worker_runs_nothing(cells: Cells) -> None:
    assert read_running(cells.path) == []


def test_each_thread_tells_what_it_runs_since_when_and_until_when(cells: Cells) -> None:
    before = time.monotonic_ns() // 1_000_000
    cells.of_thread(0).enter(2**62, 3)
    cell = cells.of_thread(2)
    cell.enter(5, 1)
    cell.limit(before + 1000)
    first, second = read_running(cells.path)
    assert (first.sequence, first.claim, first.until) == (2**62, 3, 0)
    assert (second.sequence, second.claim, second.until) == (5, 1, before + 1000)
    assert before <= first.since <= second.since <= time.monotonic_ns() // 1_000_000


def test_a_message_that_has_ended_runs_no_more(cells: Cells) -> None:
    cells.of_thread(0).enter(1, 1)
    cells.of_thread(1).enter(2, 1)
    cells.of_thread(0).leave()
    assert [running.sequence for running in read_running(cells.path)] == [2]
    cells.of_thread(1).enter(3, 2)
    assert [running.sequence for running in read_running(cells.path)] == [3]


def test_other_processes_see_what_runs(path: str, worker: Callable[..., BaseProcess]) -> None:
    worker()
    assert [(running.sequence, running.claim, running.until) for running in read_running(path)] == [(42, 7, 99)]


def test_a_worker_that_has_left_runs_nothing_and_leaves_no_file(path: str) -> None:
    cells = Cells(path, 1)
    cells.of_thread(0).enter(1, 1)
    cells.close()
    assert not os.path.exists(path)
    assert read_running(path) == []


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_the_file_is_private_whatever_the_umask(path: str) -> None:
    before = os.umask(0)
    try:
        cells = Cells(path, 1)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    cells.close()


def test_a_name_is_never_used_twice(cells: Cells) -> None:
    cells.of_thread(0).enter(1, 1)
    with pytest.raises(FileExistsError):
        Cells(cells.path, 1)
    assert len(read_running(cells.path)) == 1
    assert read_death(cells.path) is None


# -- files that nobody is named by


def test_the_file_of_who_died_before_it_joined_is_removed(path: str, worker: Callable[..., BaseProcess]) -> None:
    process = worker()
    remove_stray(path, lambda: False)
    assert os.path.exists(path)
    kill(process)
    remove_stray(path, lambda: True)
    assert os.path.exists(path)
    remove_stray(path, lambda: False)
    assert not os.path.exists(path)
    remove_stray(path, lambda: False)


def make_cells_for_ever(folder: str, connection: Connection) -> None:
    connection.send("making")
    for number in itertools.count():
        cells = Cells(f"{folder}/{number}", 1)
        if not os.path.exists(cells.path) or read_death(cells.path) is not None:
            connection.send(number)
        cells.let_go()


def test_a_file_is_never_removed_from_under_the_one_who_has_made_it(tmp_path: Path, start: Start) -> None:
    process, connection = start(make_cells_for_ever, str(tmp_path))
    connection.recv()
    removed = 0
    deadline = time.monotonic() + 30
    while removed < 2_000 and time.monotonic() < deadline:
        for path in tmp_path.iterdir():
            remove_stray(str(path), lambda: False)
            removed += not path.exists()
    kill(process)
    assert removed >= 2_000
    with pytest.raises(EOFError):  # it had nothing to tell
        connection.recv()


# -- what is to be ended


def test_a_message_that_runs_can_be_doomed_and_is_overdue_when_its_time_has_come(cells: Cells) -> None:
    now = time.monotonic_ns() // 1_000_000
    cells.of_thread(0).enter(1, 1)
    cells.of_thread(2).enter(2, 5)
    assert doom(cells.path, 2, 5, now + 60_000)
    assert [running.is_doomed for running in read_running(cells.path)] == [False, True]
    assert not is_overdue(cells.path)
    assert doom(cells.path, 2, 5, now)
    assert is_overdue(cells.path)


def test_what_does_not_run_is_not_doomed(cells: Cells) -> None:
    cells.of_thread(0).enter(1, 1)
    assert not doom(cells.path, 2, 1, 1)
    assert not doom(cells.path, 1, 2, 1), "another claim of it"
    cells.of_thread(0).leave()
    assert not doom(cells.path, 1, 1, 1)
    assert not doom(cells.path + ".gone", 1, 1, 1)
    assert not is_overdue(cells.path)
    assert not is_overdue(cells.path + ".gone")


def test_a_message_past_its_limit_is_overdue_without_the_time_that_its_process_was_stopped(cells: Cells) -> None:
    now = time.monotonic_ns() // 1_000_000
    cell = cells.of_thread(1)
    cell.enter(1, 1)
    assert not is_overdue(cells.path), "it has no limit"
    cell.limit(float("inf"))
    assert not is_overdue(cells.path)
    cell.limit(now - 5_000)
    assert is_overdue(cells.path)
    assert is_overdue(cells.path, asleep=4_000)
    assert not is_overdue(cells.path, asleep=60_000)
    cell.leave()
    assert not is_overdue(cells.path)
    cell.enter(2, 1)
    assert not is_overdue(cells.path), "the next one has a limit of its own"


def test_it_is_known_whether_the_limit_or_an_abort_doomed_a_message(cells: Cells) -> None:
    now = time.monotonic_ns() // 1_000_000
    for thread, (until, due) in enumerate([(now + 60_000, now), (now - 5, now), (float("inf"), now)]):
        cells.of_thread(thread).enter(thread + 1, 1)
        cells.of_thread(thread).limit(until)
        assert doom(cells.path, thread + 1, 1, due)
    assert [running.is_past_its_limit for running in read_running(cells.path)] == [False, True, False]


@pytest.mark.parametrize("following", [(2, 2), (2, 1), (1, 2)], ids=["another", "of the same claim", "a new claim"])
def test_the_message_that_runs_after_a_doomed_one_is_not_meant(cells: Cells, following: tuple[int, int]) -> None:
    cells.of_thread(0).enter(1, 1)
    assert doom(cells.path, 1, 1, 1)
    cells.of_thread(0).leave()
    cells.of_thread(0).enter(*following)
    assert not is_overdue(cells.path)
    assert not any(running.is_doomed for running in read_running(cells.path))


# -- alive or dead


def test_a_living_worker_has_no_death(path: str, worker: Callable[..., BaseProcess]) -> None:
    worker()
    assert read_death(path) is None
    assert read_death(path) is None, "to look has not freed its lock"


def test_a_worker_of_this_very_process_has_no_death(cells: Cells) -> None:
    assert read_death(cells.path) is None


def test_a_stopped_worker_has_no_death(path: str, worker: Callable[..., BaseProcess]) -> None:
    os.kill(worker().pid or 0, signal.SIGSTOP)
    assert read_death(path) is None


def test_a_killed_worker_tells_what_it_was_running(path: str, worker: Callable[..., BaseProcess]) -> None:
    kill(worker())
    death = read_death(path)
    assert death is not None
    assert (death.end, death.status) == (UNKNOWN, 0)
    assert [(running.sequence, running.claim, running.until) for running in death.running] == [(42, 7, 99)]


@pytest.mark.parametrize("end", [CRASHED, ORDERED])
@pytest.mark.parametrize("status", [-9, -11, 0, 1, 255])
def test_a_supervisor_writes_how_it_ended(
    path: str, worker: Callable[..., BaseProcess], end: int, status: int
) -> None:
    kill(worker(supervisor=os.getpid()))
    write_end(path, end, status)
    death = read_death(path)
    assert death is not None
    assert (death.end, death.status, len(death.running)) == (end, status, 1)


def test_a_dead_worker_is_not_judged_before_its_living_supervisor_has_written(
    path: str, worker: Callable[..., BaseProcess]
) -> None:
    kill(worker(supervisor=os.getpid()))
    assert read_death(path) is None
    write_end(path, CRASHED, -9)
    assert read_death(path) is not None


def test_the_death_of_worker_and_supervisor_is_unknown(
    path: str, worker: Callable[..., BaseProcess], start: Start
) -> None:
    supervisor, _ = start(lambda connection: signal.pause())
    process = worker(supervisor=supervisor.pid)
    kill(supervisor)
    assert read_death(path) is None, "the worker still lives"
    kill(process)
    death = read_death(path)
    assert death is not None
    assert death.end == UNKNOWN


def test_another_process_with_the_number_of_the_supervisor_is_not_the_supervisor(
    path: str, worker: Callable[..., BaseProcess], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localq.cells.born", lambda pid: 1)  # the worker sees one that started long ago
    process = worker(supervisor=os.getpid())
    monkeypatch.undo()
    kill(process)
    death = read_death(path)
    assert death is not None
    assert death.end == UNKNOWN


def test_a_missing_file_means_dead(path: str) -> None:
    assert read_death(path) == Death(UNKNOWN, 0, [])


@pytest.mark.parametrize("size", [0, WORD, (HEADER - 1) * WORD])
def test_a_worker_that_died_while_it_made_its_file_had_nothing(path: str, size: int) -> None:
    Path(path).write_bytes(b"\1" * size)
    assert read_death(path) == Death(UNKNOWN, 0, [])
    assert read_running(path) == []


def test_the_end_of_a_worker_that_left_is_not_written_anywhere(path: str) -> None:
    write_end(path, CRASHED, -9)
    assert not os.path.exists(path)


def test_writing_the_end_of_a_worker_does_not_end_it(cells: Cells) -> None:
    cells.of_thread(0).enter(1, 1)
    write_end(cells.path, CRASHED, -9)
    assert read_death(cells.path) is None
    assert len(read_running(cells.path)) == 1


def test_many_may_look_at_the_same_time(path: str, worker: Callable[..., BaseProcess], start: Start) -> None:
    def look(connection: Connection) -> None:
        connection.recv()
        connection.send({read_death(path) is None for _ in range(2000)})

    worker()
    lookers = [start(look)[1] for _ in range(3)]
    for connection in lookers:
        connection.send("go")
    assert [connection.recv() for connection in lookers] == [{True}] * 3


# -- forks


def live_on(connection: Connection) -> None:
    connection.send(os.getpid())
    signal.pause()


def test_a_forked_child_does_not_keep_its_parents_lock(path: str, start: Start) -> None:
    def parent(connection: Connection) -> None:
        cells = Cells(path, 1)
        cells.of_thread(0).enter(1, 1)
        if not os.fork():
            live_on(connection)
        signal.pause()

    process, connection = start(parent)
    child = connection.recv()
    try:
        assert read_death(path) is None
        kill(process)
        death = read_death(path)
        assert death is not None
        assert len(death.running) == 1
        assert is_alive(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("close_fds", [True, False])
def test_a_program_that_it_started_does_not_keep_its_lock(path: str, start: Start, close_fds: bool) -> None:
    def parent(connection: Connection) -> None:
        cells = Cells(path, 1)
        cells.of_thread(0).enter(1, 1)
        command = [sys.executable, "-S", "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
        program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=close_fds
        )
        assert program.stdout is not None
        program.stdout.readline()
        connection.send("started")
        signal.pause()

    process, connection = start(parent)
    connection.recv()
    assert read_death(path) is None
    kill(process)
    assert read_death(path) is not None


def test_a_fork_leaves_the_parents_cells_as_they_are(cells: Cells, start: Start) -> None:
    cells.of_thread(0).enter(1, 1)
    process, connection = start(live_on)
    connection.recv()
    cells.of_thread(1).enter(2, 1)
    assert [running.sequence for running in read_running(cells.path)] == [1, 2]
    kill(process)
    assert read_death(cells.path) is None


def test_a_child_that_exits_in_order_leaves_its_parents_file(cells: Cells) -> None:
    process = FORK.Process(target=sys.exit)
    process.start()
    process.join()
    assert os.path.exists(cells.path)
    assert read_death(cells.path) is None


# -- who lives


def test_this_process_lives() -> None:
    assert is_alive(os.getpid(), born(os.getpid()))
    assert is_alive(os.getpid(), 0)


def test_nobody_does_not_live() -> None:
    assert not is_alive(0, 0)
    assert born(0) == 0


def test_a_process_that_has_ended_does_not_live(start: Start) -> None:
    process, _ = start(lambda connection: None)
    process.join()
    assert process.pid is not None
    assert born(process.pid) == 0
    assert not is_alive(process.pid, 0)


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@linux
def test_a_zombie_does_not_live(until: Callable[..., Any]) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    try:
        until(lambda: born(pid) == 0, "the end of the child")
        assert not is_alive(pid, 1)
    finally:
        os.waitpid(pid, 0)


@linux
def test_a_younger_process_of_the_same_number_is_another_one() -> None:
    assert not is_alive(os.getpid(), born(os.getpid()) - 1)


@linux
@pytest.mark.parametrize("name", ["a b", ") R 1 2", "((Z) Z)", ""])
def test_a_process_may_call_itself_what_it_likes(start: Start, name: str) -> None:
    def rename(connection: Connection) -> None:
        before = born(os.getpid())
        Path("/proc/self/comm").write_text(name)
        connection.send((before, born(os.getpid())))

    _, connection = start(rename)
    before, after = connection.recv()
    assert before == after > 0


def test_a_cell_is_as_long_as_what_is_read_from_it(cells: Cells) -> None:
    assert os.path.getsize(cells.path) == (HEADER + 3 * CELL) * WORD
    assert len(Running.__dataclass_fields__) == CELL
