"""Stopping a pool: what runs comes to its end, the rest waits, and nothing is lost."""

from __future__ import annotations

import os
import signal

import pytest

from localq.store.base import DELAYED, RUNNING, WAITING

from .support import Lab, both_start_methods

pytestmark = both_start_methods

orders = pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@orders
def test_the_running_message_completes_and_the_others_wait(lab: Lab, order: signal.Signals) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    running = lab.send("hold", "a")
    lab.held("a")
    waiting = [lab.send("mail", number) for number in range(5)]
    delayed = lab.send("mail", "later", delay=3_600_000)

    pool.signal(order)
    pool.wait_for_log(f"Stopping on {order.name}")
    pool.wait_for_log("no further message is started")
    lab.release("a")

    assert pool.wait() == 0
    assert lab.result(running) == "a"
    left = [*waiting, delayed]
    assert [record.message_id for record in lab.records()] == [message.message_id for message in left]
    assert [record.state for record in lab.records()] == [WAITING] * 5 + [DELAYED]
    assert all(record.attempts == record.crashes == 0 for record in lab.records())
    assert lab.notes("mail") == []
    lab.wait_until_empty()


def test_a_terminal_interrupts_the_whole_group_and_that_is_one_order_to_stop(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    message = lab.send("hold", "a")
    lab.held("a")
    os.killpg(pool.pid, signal.SIGINT)
    pool.wait_for_log("Stopping on SIGINT")
    lab.release("a")
    assert pool.wait() == 0
    assert lab.result(message) == "a"


@orders
def test_all_processes_are_told_at_once_as_systemd_does(lab: Lab, order: signal.Signals) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    message = lab.send("hold", "a")
    lab.held("a")
    for pid in sorted(lab.processes(), reverse=True):  # the workers first
        os.kill(pid, order)
    lab.release("a")
    assert pool.wait() == 0
    assert lab.result(message) == "a"
    assert len(lab.notes("held")) == 1
    lab.wait_until_empty()


@orders
def test_an_idle_pool_stops(lab: Lab, order: signal.Signals) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "-t", "2")
    pool.signal(order)
    assert pool.wait(10) == 0
    lab.wait_until_empty()
    assert lab.broker.store.workers() == []


@pytest.mark.parametrize("threads", ["1", "2"])
def test_what_does_not_end_in_time_goes_back_uncharged(lab: Lab, threads: str) -> None:
    pool = lab.start_pool("tasks", "-p", "1", "-t", threads, "--worker-shutdown-timeout", "100")
    messages = [lab.send("hold", name) for name in ("a", "b")][: int(threads)]
    for name in ("a", "b")[: int(threads)]:
        lab.held(name)

    pool.signal(signal.SIGTERM)

    assert pool.wait(20) == 0
    assert "given back after 100 ms" in pool.log()
    for message in messages:
        record = lab.record(message)
        assert (record.state, record.attempts, record.crashes) == (WAITING, 0, 0)
    lab.wait_until_empty()
    lab.release("a", "b")
    second = lab.start_pool("tasks", "-p", "1")
    assert [lab.result(message) for message in messages] == ["a", "b"][: int(threads)]
    second.stop()


def test_a_message_that_holds_the_interpreter_goes_back_uncharged(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1", "--worker-shutdown-timeout", "100")
    message = lab.send("hold_the_interpreter")
    lab.wait_for_notes("holding")
    pool.signal(signal.SIGTERM)
    assert pool.wait(20) == 0
    lab.reap()
    record = lab.record(message)
    assert (record.state, record.attempts, record.crashes) == (WAITING, 0, 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@orders
def test_a_second_signal_ends_all_at_once_and_nothing_is_lost(
    lab: Lab, order: signal.Signals, second: signal.Signals
) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    running, waiting = lab.send("hold", "a"), lab.send("add", 1, 2, queue="other")
    worker = lab.held("a")
    pool.signal(order)
    pool.wait_for_log("Stopping on")

    pool.signal(second)

    assert pool.wait(10) == 1
    lab.wait_until_empty()
    assert lab.record(running).state in (RUNNING, WAITING)
    third = lab.start_pool("tasks", "-p", "1")
    assert lab.held("a", times=2) != worker
    assert (lab.record(running).attempts, lab.record(running).crashes) == (1, 0)
    lab.release("a")
    assert [lab.result(message) for message in (running, waiting)] == ["a", 3]
    third.stop()


def test_stopping_in_the_middle_of_a_stream_of_messages_loses_and_repeats_none(lab: Lab) -> None:
    lab.send_many("mail", range(2000))
    while lab.states().get(WAITING):
        pool = lab.start_pool("tasks", "-p", "2")
        lab.wait_for_notes("mail", min(len(lab.notes("mail")) + 400, 2000))
        pool.stop()
    assert sorted(int(note.split()[1]) for note in lab.notes("mail")) == list(range(2000))
    assert lab.states() == {}
    assert lab.is_intact()


def test_programs_that_a_message_started_end_with_a_pool_that_is_killed(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    lab.send("leave_a_program_running", "x")
    lab.held("x")
    pool.signal(signal.SIGTERM)
    pool.wait_for_log("Stopping on")
    pool.signal(signal.SIGTERM)
    assert pool.wait(10) == 1
    lab.wait_until_empty()


@pytest.mark.parametrize("released", [True, False])
def test_a_worker_leaves_no_file_of_its_own_behind(lab: Lab, released: bool) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "--worker-shutdown-timeout", "30000" if released else "100")
    lab.send("hold", "a")
    lab.held("a")
    if released:
        lab.release("a")
    pool.stop()
    assert lab.broker.store.workers() == []
    assert list((lab.folder / "jobs.db.localq" / "workers").iterdir()) == []
