"""Async actors in pools: many at a time in each process, which is killed, told to stop, or looked at meanwhile."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

import localq
from localq import Abortable, AbortMode
from localq.errors import PoolError
from localq.store.base import DEAD, RUNNING, WAITING

from .scripts import run
from .support import Lab, both_start_methods, wait_until

SOON = 10_000
"""Milliseconds in which an idle process must take what is sent, on a busy machine too. One that no bell
reaches would look after 30 s."""


def names(count: int, beginning: str = "h") -> list[str]:
    return [f"{beginning}{number}" for number in range(count)]


# -- side by side


@both_start_methods
def test_a_hundred_run_at_once_in_a_process_of_one_thread(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    messages = [lab.send("meet", 100) for _ in range(100)]
    assert {lab.result(message) for message in messages} == lab.workers()
    pool.stop()
    assert lab.states() == {}


@both_start_methods
def test_a_sync_message_runs_beside_them(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1", "--async-concurrency", "5")
    held = names(8)
    for name in held:
        lab.send("hold_async", name)
    wait_until(lambda: len(lab.notes("held")) == 5)

    assert [lab.result(lab.send("add", number, 1)) for number in range(5)] == [1, 2, 3, 4, 5]
    assert len(lab.notes("held")) == 5
    lab.release(*held)
    lab.wait_until_done()
    assert {note.split()[1] for note in lab.notes("released")} == set(held)
    pool.stop()


def test_without_a_lane_they_run_on_the_threads(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1", "-t", "2", "--async-concurrency", "0")
    held = names(4)
    for name in held:
        lab.send("hold_async", name)
    wait_until(lambda: len(lab.notes("held")) == 2)
    waiting = lab.send("add", 1, 2)
    assert lab.states() == {RUNNING: 2, WAITING: 3}
    lab.release(*held)
    assert lab.result(waiting) == 3
    pool.stop()


def test_a_pool_in_a_script_has_as_many_as_it_is_told(lab: Lab) -> None:
    script = run(
        lab,
        """
        from coroutines import add, hold_async
        def held():
            return (notes.FOLDER / "notes").read_text().count("held")
        notes.note("begun")
        with localq.pool(processes=1, async_concurrency=2):
            messages = [hold_async.send(name) for name in "abcde"]
            while held() < 2:
                time.sleep(0.01)
            print(add.send(1, 2).get_result(block=True), held())
            for name in "abcde":
                (notes.FOLDER / f"release-{name}").touch()
            print([message.get_result(block=True) for message in messages])
        """,
        beginning="import time\nimport localq, notes\n",
    )
    assert script.out().splitlines() == ["3 2", "['a', 'b', 'c', 'd', 'e']"]


@pytest.mark.parametrize("value", [-1, "many"])
def test_a_number_that_cannot_be_is_refused(lab: Lab, value: object) -> None:
    with pytest.raises(PoolError, match="async_concurrency"):
        localq.pool(lab.broker, async_concurrency=value)  # type: ignore[arg-type]
    refused = lab.localq("coroutines", "--async-concurrency", str(value))
    assert refused.returncode == 2
    assert "--async-concurrency" in refused.stderr


@both_start_methods
def test_what_a_full_process_has_no_room_for_is_run_by_another_at_once(lab: Lab) -> None:
    """Whichever of them the bell rings in."""
    pool = lab.start_pool("coroutines", "-p", "2", "--async-concurrency", "1")
    lab.send("hold_async", "first")
    full = lab.held("first")

    def answer() -> object:
        message = lab.send("when_async")
        return message.get_result(backend=lab.broker.get_results_backend(), block=True, timeout=SOON)

    (other,) = lab.workers() - {full}
    assert [answer() for _ in range(5)] == [other] * 5
    lab.send("hold_async", "second")
    assert lab.held("second") == other
    lab.release("first")
    lab.wait_for_notes("released")
    assert [answer() for _ in range(5)] == [full] * 5
    lab.release("second")
    lab.wait_until_done()
    pool.stop()


def test_each_of_many_runs_once_in_several_processes(lab: Lab) -> None:
    messages = [lab.message("count_async", number) for number in range(1000)]
    messages += [lab.message("mail", number) for number in range(500)]
    lab.broker.enqueue_many(messages)
    pool = lab.start_pool("coroutines", "-p", "2", "-t", "2", "--async-concurrency", "7")
    lab.wait_until_done()
    assert lab.states() == {}
    assert sorted(int(note.split()[1]) for note in lab.notes("counted")) == list(range(1000))
    assert sorted(int(note.split()[1]) for note in lab.notes("mail")) == list(range(500))
    pool.stop()


# -- looking


def test_status_shows_all_that_run(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    held = [lab.send("hold_async", name) for name in names(20)]
    alone = lab.send("hold", "sync")
    wait_until(lambda: len(lab.notes("held")) == 21)

    told = json.loads(lab.localq("status", "--json").stdout)

    (worker,) = told["workers"]
    assert {run["message_id"] for run in worker["running"]} == {each.message_id for each in (*held, alone)}
    assert sorted(run["actor"] for run in worker["running"]) == ["hold", *["hold_async"] * 20]
    assert told["queues"]["default"]["running"] == 21
    assert "hold_async for" in lab.localq("status").stdout
    lab.release("sync", *names(20))
    lab.wait_until_done()
    assert json.loads(lab.localq("status", "--json").stdout)["workers"][0]["running"] == []
    pool.stop()


# -- dying


@both_start_methods
def test_a_process_that_is_killed_leaves_fifty_uncharged_which_run_again(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    messages = [lab.send("hold_async", name) for name in names(50)]
    wait_until(lambda: len(lab.notes("held")) == 50)
    (victim,) = lab.workers()

    lab.kill(victim)

    wait_until(lambda: len(lab.notes("held")) > 50, why="one of them runs again")
    assert {record.crashes for record in lab.records()} == {0}
    lab.release(*names(50))
    assert [lab.result(message) for message in messages] == names(50)
    lab.wait_until_done()
    assert lab.states() == {}
    assert len(lab.notes("held")) == 100
    pool.stop()


@both_start_methods
def test_of_those_that_ran_beside_a_crash_only_the_culprit_is_buried(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    innocent = [lab.send("hold_async", name) for name in names(20)]
    culprit = lab.send("hold_and_crash_async", "culprit")
    wait_until(lambda: len(lab.notes("held")) == 21)

    lab.release("culprit")  # and there it goes
    wait_until(lambda: len(lab.notes("held")) == 22, why="the first of them runs again, alone")
    assert {record.crashes for record in lab.records()} == {0}
    lab.release(*names(20))
    assert lab.failure(culprit).orig_exc_type == "WorkerCrashed"
    record = lab.wait_until_dead(culprit)
    assert record.crashes == 3
    assert record.reason is not None
    assert record.reason.startswith("WorkerCrashed: its process was killed by signal 9 (SIGKILL)")
    assert [lab.result(message) for message in innocent] == names(20)

    lab.wait_until_done()
    assert lab.states() == {DEAD: 1}
    assert pool.log().count("ended with signal 9 (SIGKILL)") == 4, "once with the others, and three times alone"
    pool.stop()


def test_suspects_are_shared_among_the_processes(lab: Lab) -> None:
    """None of them takes all for itself, although it has room for a hundred."""
    pool = lab.start_pool("coroutines", "-p", "2", "--async-concurrency", "20")
    for name in names(20):
        lab.send("hold_async", name)
    wait_until(lambda: len(lab.notes("held")) == 20)
    for pid in lab.workers():
        lab.kill(pid)
    wait_until(lambda: len(lab.notes("held")) == 22)
    first, second = (note.split() for note in lab.notes("held")[20:])
    assert first[2] != second[2]
    assert lab.states() == {RUNNING: 2, WAITING: 18}
    lab.release(*names(20))
    lab.wait_until_done()
    assert lab.states() == {}
    pool.stop()


def test_an_abort_ends_the_one_whose_it_is(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    messages = {name: lab.send("hold_async", name) for name in names(10)}
    wait_until(lambda: len(lab.notes("held")) == 10)

    abortable.abort(messages["h3"].message_id)

    assert lab.failure(messages["h3"]).orig_exc_type == "Abort"
    assert lab.notes("cancelled") == ["cancelled h3"]
    lab.release(*names(10))
    lab.wait_until_done()
    assert lab.states() == {DEAD: 1}
    assert len(lab.notes("released")) == 9
    pool.stop()


@pytest.mark.parametrize("actor", ["ignore_cancellation", "block_the_loop"])
def test_one_that_heeds_nothing_ends_with_its_process_and_the_others_run_again(
    lab: Lab, abortable: Abortable, actor: str
) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    others = [lab.send("hold_async", name) for name in names(5)]
    wait_until(lambda: len(lab.notes("held")) == 5)
    doomed = lab.send(actor, "doomed")
    victim = lab.held("doomed")

    abortable.abort(doomed.message_id, mode=AbortMode.KILL)

    assert lab.failure(doomed).orig_exc_msg == "its process was killed"
    for name in names(5):
        assert lab.held(name, times=2) != victim
    assert {(record.crashes, record.lane) for record in lab.records(states=[RUNNING])} == {(0, "thread")}
    lab.release(*names(5))
    assert [lab.result(message) for message in others] == names(5)
    pool.stop()


def test_a_time_limit_ends_the_one_whose_it_is(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    for name in names(5):
        lab.send("hold_async", name)
    wait_until(lambda: len(lab.notes("held")) == 5)

    limited = lab.send("hold_async", "limited", time_limit=200, max_retries=0)

    assert lab.failure(limited).orig_exc_type == "TimeLimitExceeded"
    assert lab.notes("cancelled") == ["cancelled limited"]
    assert pool.log().count("Time limit exceeded") == 1
    lab.release(*names(5))
    lab.wait_until_done()
    assert len(lab.notes("released")) == 5
    pool.stop()


# -- stopping


@both_start_methods
def test_what_runs_comes_to_its_end_and_what_waits_for_room_is_left(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1", "--async-concurrency", "10")
    messages = [lab.send("hold_async", name) for name in names(10)]
    wait_until(lambda: len(lab.notes("held")) == 10)
    told = lab.send("hold_until_told", "told", priority=-1)  # the next to run
    left = [lab.send("hold_async", name) for name in names(5, "left")]
    lab.release("h0")
    lab.held("told")

    pool.signal(signal.SIGTERM)
    pool.wait_for_log("no further message is started")
    lab.wait_for_notes("cancelled")
    lab.release(*names(10))

    assert pool.wait() == 0
    assert [lab.result(message) for message in messages] == names(10)
    assert lab.failure(told).orig_exc_type == "Shutdown"
    waiting = lab.records(states=[WAITING])
    assert [record.message_id for record in waiting] == [message.message_id for message in left]
    assert {record.attempts for record in waiting} == {0}
    lab.wait_until_empty()


@pytest.mark.parametrize("actor", ["hold_async", "ignore_cancellation", "block_the_loop"])
def test_what_does_not_end_in_time_is_given_back_and_its_process_ends(lab: Lab, actor: str) -> None:
    pool = lab.start_pool("coroutines", "-p", "1", "--worker-shutdown-timeout", "500")
    lab.send(actor, "a")
    lab.held("a")

    pool.signal(signal.SIGTERM)

    assert pool.wait() in (0, 1)
    (record,) = lab.records()
    lab.reap()
    (record,) = lab.records()
    assert (record.state, record.crashes, record.attempts) == (WAITING, 0, 0)
    lab.wait_until_empty()


def test_a_reload_lets_them_end_where_they_run(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "1")
    before = lab.workers()
    messages = [lab.send("hold_async", name) for name in names(10)]
    wait_until(lambda: len(lab.notes("held")) == 10)
    pool.signal(signal.SIGHUP)
    pool.wait_for_log("no further message is started")
    lab.release(*names(10))
    assert [lab.result(message) for message in messages] == names(10)
    assert {int(note.split()[2]) for note in lab.notes("released")} == before
    lab.wait_for_workers(1, without=before)
    assert lab.result(lab.send("when_async")) not in before
    pool.stop()


# -- resting


def test_a_pool_that_has_run_them_sleeps_as_soundly_as_one_that_has_not(lab: Lab) -> None:
    pool = lab.start_pool("coroutines", "-p", "2")
    lab.send_many("hold_async", names(150))
    wait_until(lambda: len(lab.notes("held")) == 150)
    lab.release(*names(150))
    lab.wait_until_done()
    tasks = [task / "status" for pid in lab.workers() for task in Path(f"/proc/{pid}/task").iterdir()]
    assert len(tasks) > 150

    def switches() -> int:
        return sum(int(task.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for task in tasks)

    def rests() -> bool:
        before = switches()
        time.sleep(1)  # in which the housekeeper looks once
        return switches() - before < 10

    wait_until(rests)
    pool.stop()
