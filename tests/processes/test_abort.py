"""Aborts in worker processes: asked for here, carried out there."""

from __future__ import annotations

import random
import time

import pytest

from localq import Abortable, AbortMode
from localq.store.base import CANCELLED, DEAD, RUNNING

from .support import Lab, both_start_methods, wait_until

pytestmark = both_start_methods

blocking_calls = pytest.mark.parametrize("how", ["sleep", "program", "lock", "pipe", "select", "loop"])


@blocking_calls
def test_an_abort_ends_a_blocking_call_of_the_only_thread(lab: Lab, abortable: Abortable, how: str) -> None:
    pool = lab.start_pool("aborted", "-p", "2")
    message = lab.send("block_for_ever", how)
    lab.wait_for_notes("begun")

    asked = time.monotonic()
    abortable.abort(message.message_id)

    assert lab.failure(message).orig_exc_type == "Abort"
    assert time.monotonic() - asked < 10
    assert lab.notes("aborted") == [f"aborted {how}"]
    assert lab.wait_until_dead(message).reason == "Abort: the message was aborted"
    assert len(lab.workers()) == 2, "no process was harmed"
    pool.stop()


@pytest.mark.parametrize("how", ["a call into C", "a handler"])
def test_a_task_that_heeds_nothing_ends_with_its_process(lab: Lab, abortable: Abortable, how: str) -> None:
    pool = lab.start_pool("aborted", "-p", "1")
    message = lab.send("heed_nothing", how)
    lab.wait_for_notes("begun")

    abortable.abort(message.message_id, mode=AbortMode.KILL)

    failure = lab.failure(message)
    assert (failure.orig_exc_type, failure.orig_exc_msg) == ("Abort", "its process was killed")
    assert lab.wait_until_dead(message).reason == "Abort: its process was killed"
    pool.wait_for_log("to end a message in it")
    assert lab.result(lab.send("echo", "the next one")) == "the next one"
    assert lab.notes("begun") == [f"begun {how}"], "it is not run again"
    pool.stop()


def test_the_others_of_a_process_that_is_killed_for_one_run_again_uncharged(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("aborted", "-p", "1", "-t", "2")
    doomed, other = lab.send("heed_nothing", "a handler"), lab.send("hold", "other")
    lab.wait_for_notes("begun")
    lab.held("other")

    abortable.abort(doomed.message_id, mode=AbortMode.KILL)

    assert lab.failure(doomed).orig_exc_type == "Abort"
    record = lab.record(other)
    assert (record.crashes, record.lane) == (0, "thread")
    lab.release("other")
    assert lab.result(other) == "other"
    pool.stop()


def test_the_next_message_is_not_killed_for_one_that_heeded_its_abort(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("aborted", "-p", "1")
    message, bystander = lab.send("block_for_ever", "sleep"), lab.send("hold", "bystander")
    lab.wait_for_notes("begun")
    before, asked = lab.workers(), time.monotonic()

    abortable.abort(message.message_id, mode=AbortMode.KILL)

    assert lab.failure(message).orig_exc_msg == "the message was aborted"
    lab.held("bystander")
    wait_until(lambda: time.monotonic() > asked + 3, why="the time to kill has passed")
    assert lab.workers() == before
    lab.release("bystander")
    assert lab.result(bystander) == "bystander"
    pool.stop()


def test_an_abort_ends_a_loop_in_one_of_several_threads(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("aborted", "-p", "1", "-t", "3")
    messages = [lab.send("block_for_ever", "loop"), lab.send("hold", "bystander")]
    lab.wait_for_notes("begun")
    lab.held("bystander")
    abortable.abort(messages[0].message_id)
    assert lab.failure(messages[0]).orig_exc_type == "Abort"
    lab.release("bystander")
    assert lab.result(messages[1]) == "bystander"
    pool.stop()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_abort_cancels_a_coroutine(lab: Lab, abortable: Abortable, threads: str) -> None:
    pool = lab.start_pool("aborted", "-p", "1", "-t", threads)
    message = lab.send("sleep_for_ever")
    lab.wait_for_notes("begun")
    abortable.abort(message.message_id)
    assert lab.failure(message).orig_exc_type == "Abort"
    assert lab.notes("aborted") == ["aborted coroutine"]
    pool.stop()


def test_a_message_can_end_by_itself_when_it_gets_the_time(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("aborted", "-p", "2")
    message = lab.send("polite")
    lab.wait_for_notes("begun")
    abortable.abort(message.message_id, abort_timeout=60_000)
    assert lab.result(message) == "ended by itself"
    pool.stop()


def test_the_right_process_hears_of_each_of_many_aborts(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("aborted", "-p", "3", "-t", "2")
    messages = [lab.send("block_for_ever", "sleep") for _ in range(2)]
    messages += [lab.send("hold", str(number)) for number in range(4)]
    lab.wait_for_notes("begun", 2)
    for number in range(4):
        lab.held(str(number))
    for message in messages[2:4]:
        abortable.abort(message.message_id)
    for message in messages[2:4]:
        assert lab.failure(message).orig_exc_type == "Abort"
    assert {record.message_id for record in lab.records(states=[RUNNING])} == {
        message.message_id for message in (*messages[:2], *messages[4:])
    }
    lab.release("2", "3")
    assert [lab.result(message) for message in messages[4:]] == ["2", "3"]
    pool.kill()
    lab.wait_until_empty()


@pytest.mark.parametrize("mode", [AbortMode.ABORT, AbortMode.CANCEL])
def test_what_waits_behind_a_running_message_never_runs(lab: Lab, abortable: Abortable, mode: AbortMode) -> None:
    pool = lab.start_pool("aborted", "-p", "1")
    running = lab.send("hold", "first")
    lab.held("first")
    waiting, delayed = lab.send("echo", "waiting"), lab.send("echo", "delayed", delay=300)
    last = lab.send("echo", "last", delay=400)

    for message in (waiting, delayed):
        abortable.abort(message.message_id, mode=mode)
        assert lab.failure(message).orig_exc_type == "Abort"  # although the only process is busy

    lab.release("first")
    assert lab.result(running) == "first"
    assert lab.result(last) == "last"
    assert lab.notes("echoed") == ["echoed last"]
    assert lab.states() == {CANCELLED: 2}
    pool.stop()


def test_a_message_of_a_process_that_dies_after_it_was_aborted_does_not_run_again(
    lab: Lab, abortable: Abortable
) -> None:
    pool = lab.start_pool("aborted", "-p", "1")
    message = lab.send("hold", "doomed")
    worker = lab.held("doomed")
    abortable.abort(message.message_id, abort_timeout=60_000)
    lab.kill(worker)
    assert lab.failure(message).orig_exc_type == "Abort"
    assert len(lab.notes("held")) == 1
    pool.stop()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_an_abort_in_the_middle_of_sending_harms_nothing(lab: Lab, abortable: Abortable, threads: str) -> None:
    pool = lab.start_pool("aborted", "-p", "1", "-t", threads)
    for number in range(1, 4):
        message = lab.send("send_without_end")
        lab.wait_for_notes("begun", number)
        time.sleep(random.uniform(0, 0.05))  # at any point of a send
        abortable.abort(message.message_id)
        assert lab.failure(message).orig_exc_type == "Abort"
    lab.wait_until_done()
    assert lab.is_intact()
    pool.stop()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_only_the_message_that_was_aborted_is_hit(lab: Lab, abortable: Abortable, threads: str) -> None:
    """Many are aborted about when they end; whatever runs next on their thread is left alone."""
    pool = lab.start_pool("aborted", "-p", "1", "-t", threads)
    total = 60
    for number in range(total):
        aborted = lab.send("victim", number)
        lab.send("bystander", number)
        lab.wait_for_notes("victim", number + 1)
        abortable.abort(aborted.message_id)
    lab.wait_until_done()
    assert lab.notes("wrong") == []
    assert len(lab.notes("bystander")) == total
    assert len(lab.notes("victim")) == total, "none ran twice"
    assert lab.states().keys() <= {DEAD, CANCELLED}
    pool.stop()


def test_an_idle_pool_is_woken_for_an_abort_by_no_poll(lab: Lab, abortable: Abortable) -> None:
    """Aborts are heard in less than the second that a look in vain takes."""
    pool = lab.start_pool("aborted", "-p", "2")
    took = []
    for number in range(1, 8):
        message = lab.send("block_for_ever", "sleep")
        lab.wait_for_notes("begun", number)
        asked = time.monotonic()
        abortable.abort(message.message_id)
        assert lab.failure(message).orig_exc_type == "Abort"
        took.append(time.monotonic() - asked)
    print("heard after", sorted(took))
    assert sorted(took)[3] < 0.5
    pool.stop()


def test_the_global_broker_can_abort_from_a_script(lab: Lab) -> None:
    pool = lab.start_pool("aborted", "-p", "1")
    script = lab.start_script(
        """
        import localq, notes
        import aborted

        message = aborted.block_for_ever.send("sleep")
        while not notes.count("begun sleep"):
            pass
        localq.abort(message.message_id)
        try:
            message.get_result(block=True, timeout=30_000)
        except localq.errors.ResultFailure as error:
            print(error)
        """
    )
    assert script.wait() == 0
    assert script.out() == "actor raised Abort: the message was aborted\n"
    pool.stop()


def test_a_worker_beside_the_script_is_interrupted_too(lab: Lab) -> None:
    script = lab.start_script(
        """
        import localq, notes
        import aborted

        worker = localq.Worker(localq.get_broker(), worker_threads=2)
        worker.start()
        message = aborted.block_for_ever.send("loop")
        while not notes.count("begun loop"):
            pass
        localq.abort(message.message_id)
        try:
            message.get_result(block=True, timeout=30_000)
        except localq.errors.ResultFailure as error:
            print(error)
        worker.stop()
        """
    )
    assert script.wait() == 0
    assert script.out() == "actor raised Abort: the message was aborted\n"
