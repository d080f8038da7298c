"""Worker processes that die: who is charged, who goes back, and that the pool goes on."""

from __future__ import annotations

import os
import signal

import pytest

from localq.store.base import ALONE, DEAD, RUNNING, WAITING

from .support import Lab, both_start_methods, wait_until

pytestmark = both_start_methods


def test_a_killed_worker_is_replaced_while_its_companion_works_on(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    ours, others = lab.send("hold", "ours"), lab.send("hold", "others")
    victim, companion = lab.held("ours"), lab.held("others")

    lab.kill(victim)

    assert lab.held("ours", times=2) not in (victim, companion)  # delivered again, to a new process
    assert lab.wait_for_workers(2, without=[victim]) >= {companion}
    assert [lab.record(message).crashes for message in (ours, others)] == [1, 0]
    assert lab.record(others).attempts == 1
    lab.release("ours", "others")
    assert [lab.result(message) for message in (ours, others)] == ["ours", "others"]
    assert f"{companion}" in " ".join(lab.notes("released"))
    assert f"Worker process {victim} ended with signal 9 (SIGKILL)" in pool.log()
    pool.stop()


def test_an_idle_worker_that_is_killed_is_replaced(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    (victim,) = lab.workers()
    lab.kill(victim)
    assert lab.result(lab.send("who")) in lab.wait_for_workers(1, without=[victim])
    pool.stop()


def test_a_message_that_crashes_once_is_delivered_again_and_succeeds(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    assert lab.result(lab.send("crash_once", "x")) == 1
    lab.wait_until_done()
    assert lab.states() == {}
    pool.stop()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("SIGKILL", "killed by signal 9 (SIGKILL)"),
        ("segfault", "killed by signal 11 (SIGSEGV)"),
        ("abort", "killed by signal 6 (SIGABRT)"),
        ("recursion", "killed by signal 11 (SIGSEGV)"),
        ("memory", "killed by signal 6 (SIGABRT)"),
        ("exit", "exited with status 3"),
        ("leave", "exited with status 0"),
    ],
)
def test_a_message_that_always_crashes_is_a_dead_letter_after_three_times(lab: Lab, how: str, reason: str) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    message = lab.send("crash", how)

    failure = lab.failure(message)

    record = lab.wait_until_dead(message)
    assert record.reason is not None
    assert record.reason.startswith("WorkerCrashed: ")
    assert reason in record.reason
    assert record.crashes == 3
    assert failure.orig_exc_type == "WorkerCrashed"
    assert reason in failure.orig_exc_msg
    assert len(lab.notes("crashed")) == 3
    assert len(set(lab.notes("crashed"))) == 3  # a process each
    if how in ("SIGKILL", "exit", "leave"):
        assert record.traceback is None  # the interpreter has no say in these
    else:
        assert record.traceback is not None
        assert 'crashes.py", line' in record.traceback
        assert record.traceback in pool.log()
    lab.wait_until_done()
    assert lab.notes("told") == [f"told {how} WorkerCrashed"]
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()


def test_memory_that_python_is_refused_is_a_failure_like_any_other(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    worker = lab.result(lab.send("who"))
    message = lab.send("take_memory_that_python_is_refused")
    assert lab.failure(message).orig_exc_type == "MemoryError"
    record = lab.wait_until_dead(message)
    assert record.traceback is not None
    assert "bytearray(2**20)" in record.traceback
    assert lab.result(lab.send("who")) == worker
    pool.stop()


def test_a_crash_leaves_the_companions_of_a_burst_uncharged(lab: Lab) -> None:
    lab.send("hold", "beginning")
    for number in range(100):
        lab.send("crash_at", number, 90)
    pool = lab.start_pool("crashes", "-p", "1")
    lab.held("beginning")
    (lab.folder / "block-imports").touch()  # the next process comes to a stop in its import
    lab.release("beginning")
    lab.held("import")

    lab.reap()
    assert lab.states().keys() == {WAITING}
    left = {record.message_id: record for record in lab.records()}
    assert len(left) >= 10  # 90, what was claimed with it, and what follows
    charged = [record for record in left.values() if record.crashes]
    assert len(charged) == 1
    assert charged[0].attempts == 1
    assert all(record.attempts == 0 for record in left.values() if record is not charged[0])

    lab.release("import")
    lab.wait_until_done()
    assert {int(note.split()[1]) for note in lab.notes("ran")} == set(range(100))
    (dead,) = lab.records()
    assert (dead.message_id, dead.crashes) == (charged[0].message_id, 3)
    pool.stop()


def test_of_several_that_ran_none_is_charged_and_each_runs_alone_next(lab: Lab) -> None:
    innocent = [lab.send("hold", name) for name in ("a", "b", "c")]
    culprit = lab.send("hold_and_crash", "culprit")
    pool = lab.start_pool("crashes", "-p", "1", "-t", "4")
    for name in ("a", "b", "c", "culprit"):
        lab.held(name)

    lab.release("culprit")  # and there it goes

    lab.held("a", times=2)
    suspects = lab.records()
    assert [record.lane for record in suspects] == [ALONE] * 4
    assert [record.crashes for record in suspects] == [0] * 4
    lab.release("a", "b", "c")
    assert [lab.result(message) for message in innocent] == ["a", "b", "c"]
    assert lab.failure(culprit).orig_exc_type == "WorkerCrashed"
    assert lab.wait_until_dead(culprit).crashes == 3
    # Four together; then each alone: what was held is released before anything else is held.
    together, alone = _holds(lab)[:4], _holds(lab)[5:]  # the fifth is the release of the culprit
    assert [what for what, _ in together] == ["held"] * 4
    pairs = list(zip(alone[::2], alone[1::2], strict=True))
    assert [(first, second) for (first, _), (second, _) in pairs] == [("held", "released")] * len(pairs)
    assert all(held == released for (_, held), (_, released) in pairs)
    assert sorted(name for (_, name), _ in pairs) == ["a", "b", "c", *["culprit"] * 3]
    pool.stop()


def _holds(lab: Lab) -> list[tuple[str, str]]:
    notes = [note.split() for note in lab.notes() if note.startswith(("held", "released"))]
    return [(words[0], words[1]) for words in notes]


def test_suspects_do_not_keep_other_processes_from_ordinary_messages(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "2", "-t", "2")
    for name in ("a", "b", "c", "d"):
        lab.send("hold", name)
    victim = lab.held("a")
    for name in ("b", "c", "d"):
        lab.held(name)
    of_victim = sorted(note.split()[1] for note in lab.notes("held") if int(note.split()[2]) == victim)
    lab.kill(victim)
    lab.held(of_victim[0], times=2)
    # The other suspect waits for it there; else it might come to the other process, and be alone in that one.
    wait_until(lambda: lab.states() == {"running": 4})
    lab.release(*{"a", "b", "c", "d"} - set(of_victim))
    assert lab.result(lab.send("add", 1, 2)) == 3
    lab.release(*of_victim)
    lab.wait_until_done()
    assert lab.states() == {}
    pool.stop()


def test_a_crash_ends_the_programs_that_the_message_had_started(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    lab.send("leave_a_program_running", "x")
    victim = lab.held("x")
    ((_, program),) = lab.wait_for_notes("started")
    assert int(program) in lab.processes()
    lab.kill(victim)
    wait_until(lambda: int(program) not in lab.processes())
    lab.release("x")
    second = int(lab.wait_for_notes("started", 2)[-1][1])
    os.kill(second, signal.SIGKILL)
    lab.wait_until_done()
    pool.stop()


def test_many_crashes_in_a_row_do_not_end_the_pool(lab: Lab) -> None:
    messages = [lab.send("crash_once", number) for number in range(6)]
    pool = lab.start_pool("crashes", "-p", "2")
    assert all(lab.result(message) for message in messages)
    assert pool.runs()
    pool.stop()


def test_a_crash_that_the_sender_of_an_unfinished_burst_sees_loses_nothing(lab: Lab) -> None:
    messages = lab.send_many("hold", [f"h{number}" for number in range(3)])
    pool = lab.start_pool("crashes", "-p", "1")
    for number in range(3):
        lab.kill(lab.held(f"h{number}"))
        lab.held(f"h{number}", times=2)
        lab.release(f"h{number}")
    assert [lab.result(message) for message in messages] == ["h0", "h1", "h2"]
    assert {RUNNING, DEAD} & lab.states().keys() == set()
    pool.stop()
