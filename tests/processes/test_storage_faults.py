"""A pool whose storage fails under it: few words, no hurry, nothing lost, and no restart when it is well again."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from localq.brokers import SQLiteBroker
from localq.errors import StoreError

from ..mounts import SmallDisk, small_disk
from .support import DEADLINE, Lab, Program, wait_until

TICK = os.sysconf("SC_CLK_TCK")


def use(lab: Lab, file: Path) -> None:
    """From now on the queue of the lab is that file."""
    lab.file, lab.url = file, f"sqlite:///{file}"
    lab.env["LOCALQ_URL"] = lab.url


@pytest.fixture
def disk(lab: Lab) -> Iterator[SmallDisk]:
    """A small disk with the queue of the lab on it."""
    with small_disk(lab.folder / "disk", 8 << 20) as disk:
        use(lab, disk.folder / "jobs.db")
        yield disk
        lab.close()  # so that nothing is open there any more


def seconds_of_work(lab: Lab) -> float:
    """The processor's time that all processes of the lab have used so far."""
    total = 0
    for pid in lab.processes():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def assert_patient(lab: Lab, pool: Program, lines: int = 12, seconds: float = 3) -> None:
    """For some time, nobody hurries and nobody talks; `lines` more than were there before are too many."""
    before, work = len(pool.log().splitlines()), seconds_of_work(lab)
    time.sleep(seconds)  # the condition itself: what happens in that time
    assert seconds_of_work(lab) - work < seconds / 3
    said = pool.log().splitlines()[before:]
    assert len(said) <= lines, said


def errors(pool: Program) -> list[str]:
    return [line for line in pool.log().splitlines() if "[ERROR]" in line or "[CRITICAL]" in line]


def send_until_refused(lab: Lab, sent: list[Any]) -> str:
    """Send numbers until one is refused; what the sender is told then."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            lab.send("mail", len(sent))
        except StoreError as error:
            return str(error)
        sent.append(len(sent))
    raise AssertionError("nothing was refused")


def mailed(lab: Lab) -> list[int]:
    return [int(note.split()[1]) for note in lab.notes("mail")]


# -- a full disk


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_disk_that_fills_up_under_load_loses_nothing(lab: Lab, disk: SmallDisk, threads: str) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "-t", threads)
    pids = lab.wait_for_workers(2)
    sent: list[int] = []
    for _ in range(200):
        lab.send("mail", len(sent))
        sent.append(len(sent))
    disk.fill()
    said = send_until_refused(lab, sent)
    assert "is full" in said
    assert "free some space" in said
    messages = [lab.message("mail", f"{10**6 + n}", "x" * 3000) for n in range(200)]
    with pytest.raises(StoreError, match="is full"):
        lab.broker.enqueue_many(messages)
    assert_patient(lab, pool)
    assert len(errors(pool)) <= 2 * int(threads) + 2, errors(pool)

    disk.free()
    lab.wait_until_done()
    lab.send("mail", len(sent))
    sent.append(len(sent))
    lab.wait_until_done()
    assert lab.wait_for_workers(2) == pids, "nobody was restarted"
    assert sorted(mailed(lab)) == sent
    assert lab.is_intact()
    pool.stop()


def test_processes_may_die_and_a_pool_may_stop_while_the_disk_is_full(lab: Lab, disk: SmallDisk) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    first, second = lab.wait_for_workers(2)
    sent = list(range(300))
    lab.send_many("mail", sent)
    disk.fill()
    send_until_refused(lab, sent)
    lab.kill(first)
    assert_patient(lab, pool)
    disk.free()
    assert second in lab.wait_for_workers(2, without=[first])
    disk.fill()
    send_until_refused(lab, sent)
    pool.stop()
    disk.free()
    other = lab.start_pool("tasks", "-p", "2")
    lab.wait_until_done()
    assert set(mailed(lab)) == set(sent), "all that was accepted has run; some twice, perhaps"
    assert lab.is_intact()
    other.stop()


# -- rights

WITHOUT_POWERS = """
import ctypes, os, runpy, sys
if os.geteuid() == 0:  # modes of files do not count for root
    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
sys.argv[0] = "localq"
runpy.run_module("localq", run_name="__main__")
"""


def test_a_right_on_our_own_folder_that_is_lost_under_a_pool_is_restored(lab: Lab) -> None:
    (lab.folder / "queue").mkdir(mode=0o700)
    use(lab, lab.folder / "queue" / "jobs.db")
    pool = lab.start_python("-c", WITHOUT_POWERS, "tasks", "-p", "1").wait_until_up()
    (first,) = lab.wait_for_workers(1)
    side = lab.folder / "queue" / "jobs.db.localq"
    side.chmod(0)
    assert lab.result(lab.send("add", 1, 2)) == 3, "who has it open goes on"
    lab.kill(first)
    wait_until(lambda: side.stat().st_mode & 0o777 == 0o700, why="who comes in its place restores it")
    lab.wait_for_workers(1, without=[first])
    assert lab.result(lab.send("add", 3, 4)) == 7
    pool.stop()


@pytest.mark.parametrize("what", ["jobs.db", ""])
def test_a_right_that_is_lost_under_a_pool_is_told_and_taken_up_again(lab: Lab, what: str) -> None:
    (lab.folder / "queue").mkdir(mode=0o700)
    use(lab, lab.folder / "queue" / "jobs.db")
    pool = lab.start_python("-c", WITHOUT_POWERS, "tasks", "-p", "1").wait_until_up()
    (first,) = lab.wait_for_workers(1)
    place = lab.folder / "queue" / what
    before = place.stat().st_mode & 0o777
    place.chmod(0)
    assert lab.result(lab.send("add", 1, 2)) == 3, "who has it open goes on"
    lab.kill(first)  # and who comes in its place cannot open it
    pool.wait_for_log("could not start")
    assert_patient(lab, pool)
    assert "give it the right to read and write" in pool.log()
    waiting = lab.send("add", 3, 4)
    place.chmod(before)
    assert lab.result(waiting) == 7
    pool.stop()


# -- a file that is deleted or replaced


def replace(lab: Lab) -> None:
    other = lab.broker_of(lab.folder / "other.db")
    other.enqueue(lab.message("mail", "of_the_new_file"))
    other.close()
    os.replace(lab.folder / "other.db", lab.file)


def delete(lab: Lab) -> None:
    lab.file.unlink()


def delete_side_folder(lab: Lab) -> None:
    shutil.rmtree(f"{lab.file}.localq")


def delete_all(lab: Lab) -> None:
    for each in lab.file.parent.glob("jobs.db*"):
        shutil.rmtree(each) if each.is_dir() else each.unlink()


ways = pytest.mark.parametrize("lose", [replace, delete, delete_side_folder, delete_all])


@ways
@pytest.mark.parametrize("options", [("-p", "2"), ("-p", "1", "-t", "4")], ids=" ".join)
def test_a_pool_whose_file_goes_takes_up_what_is_there_by_itself(
    lab: Lab, lose: Callable[[Lab], None], options: tuple[str, ...]
) -> None:
    pool = lab.start_pool("tasks", *options)
    count = int(options[1])
    old = lab.wait_for_workers(count)
    assert lab.result(lab.send("add", 1, 2)) == 3
    lab.broker.close()
    lose(lab)
    wait_until(lambda: not old & set(lab.processes()), why="the old workers have ended")
    lab.wait_for_workers(count, without=old)
    assert lab.result(lab.send("add", 3, 4)) == 7
    if lose is replace:
        lab.wait_for_notes("mail")
    assert pool.log().count("was deleted or replaced") == count, "each process says it once"
    assert pool.log().count("status 3; replacing it now") == count
    assert_patient(lab, pool, lines=0)
    assert lab.is_intact()
    pool.stop()


def test_what_runs_when_the_file_goes_comes_to_its_end(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    lab.send("hold", "a")
    worker = lab.held("a")
    lab.broker.close()
    replace(lab)
    time.sleep(1)
    assert worker in lab.processes()
    lab.release("a")
    lab.wait_for_notes("released")
    lab.wait_for_workers(1, without=[worker])
    lab.wait_for_notes("mail")
    wait_until(lambda: lab.states() == {}, why="nothing is left to run")
    pool.stop()


def test_a_backup_that_is_restored_under_a_pool_runs_what_it_holds(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    old = lab.wait_for_workers(2)
    lab.send("hold", "a")
    lab.held("a")
    lab.send("mail", 1, delay=600_000)
    backup = lab.folder / "backup.db"
    with closing(sqlite3.connect(lab.file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    lab.broker.close()
    os.replace(backup, lab.file)
    lab.release("a")
    lab.wait_for_workers(2, without=old)
    lab.held("a", times=2)  # it ran when the backup was made, so it runs again: at least once
    wait_until(lambda: lab.states() == {"delayed": 1}, why="what the backup holds has run")
    pool.stop()
    assert lab.is_intact()


def test_a_worker_of_threads_ends_and_another_one_can_be_started(lab: Lab) -> None:
    script = lab.start_script(
        """
        import logging, os, time
        import localq, tasks
        from localq.errors import StoreReplaced

        logging.basicConfig()
        broker = localq.get_broker()
        def run():
            worker = localq.Worker(broker, worker_threads=2)
            worker.start()
            return worker

        worker = run()
        print(tasks.add.send(1, 2).get_result(block=True), flush=True)
        for name in os.listdir("."):
            if name.startswith("jobs.db") and os.path.isfile(name):
                os.unlink(name)
        while not worker.has_ended:
            time.sleep(0.01)
        try:
            tasks.add.send(1, 2)
        except StoreReplaced:
            print("refused", flush=True)
        worker.stop()
        broker.close()
        worker = run()
        print(tasks.add.send(3, 4).get_result(block=True), flush=True)
        worker.stop()
        """
    )
    assert script.wait() == 0, script.log()
    assert script.out().split() == ["3", "refused", "7"]
    assert script.log().count("was deleted or replaced") == 1


# -- damage


def overwrite(file: Path, first_page: int) -> None:
    """Damage the file behind the back of SQLite, in a process of its own: to close it here would drop locks."""
    code = (
        "import os, sys; file, first = sys.argv[1], int(sys.argv[2]) * 4096\n"
        "with open(file, 'r+b') as f: f.seek(first); f.write(b'\\xa5' * (os.path.getsize(file) - first))"
    )
    subprocess.run([sys.executable, "-c", code, str(file), str(first_page)], check=True)


@pytest.mark.parametrize("first_page", [0, 1, 5])
def test_a_file_that_is_damaged_under_a_pool_makes_no_storm(lab: Lab, first_page: int) -> None:
    lab.send_many("mail", range(2000))
    pool = lab.start_pool("tasks", "-p", "2")
    workers = lab.wait_for_workers(2)
    lab.wait_until_done()
    lab.broker.close()
    with closing(sqlite3.connect(lab.file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    overwrite(lab.file, first_page)
    lab.kill(workers.pop())  # who comes in its place finds the damage when it opens the file
    wait_until(lambda: "restore a backup" in pool.log(), why="the damage is told")
    assert_patient(lab, pool)
    pool.stop()


def test_a_file_that_is_garbage_keeps_a_pool_from_starting_with_the_reason(lab: Lab) -> None:
    lab.file.write_bytes(os.urandom(20_000))
    pool = lab.start("tasks", "-p", "2")
    assert pool.wait() == 3
    assert "is not an SQLite database" in pool.log()
    assert pool.log().count("restore a backup") == 1


# -- another program


LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
if len(sys.argv) > 3:
    connection.execute(sys.argv[3]).fetchall()
print("inside", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def another_program(lab: Lab) -> Callable[..., Program]:
    def another_program(*statements: str) -> Program:
        program = lab.start_python("-c", LOCKER, str(lab.file), *statements)
        wait_until(lambda: "inside" in program.out(), why="the other program is inside")
        return program

    return another_program


def test_a_program_that_locks_the_file_for_long_is_told_of_and_waited_out(
    lab: Lab, another_program: Callable[..., Program]
) -> None:
    use_url = f"{lab.url}?busy_timeout=500"
    pool = lab.start_pool("tasks", "-p", "2", "-t", "2", LOCALQ_URL=use_url)
    pids = lab.wait_for_workers(2)
    program = another_program("BEGIN EXCLUSIVE")
    impatient = SQLiteBroker(lab.file, busy_timeout=500)
    impatient.declare_queue("default")
    lab.broker.close()
    began = time.monotonic()
    with pytest.raises(StoreError, match="another program, which is not localq"):
        impatient.enqueue(lab.message("add", 1, 2))
    assert time.monotonic() - began < 20
    pool.wait_for_log("another program, which is not localq")
    assert_patient(lab, pool)
    assert "write gate" not in pool.log()
    program.kill()
    assert lab.result(lab.send("add", 3, 4)) == 7
    assert lab.wait_for_workers(2) == pids
    impatient.close()
    pool.stop()


def test_a_program_that_reads_for_long_keeps_nobody_from_working(
    lab: Lab, another_program: Callable[..., Program]
) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    program = another_program("BEGIN", "SELECT count(*) FROM message")
    assert [lab.result(message) for message in [lab.send("add", n, 1) for n in range(20)]] == list(range(1, 21))
    program.kill()
    assert not errors(pool)
    pool.stop()
    assert lab.is_intact()
