"""Time limits and shutdown notices in worker processes."""

from __future__ import annotations

import signal

import pytest

from localq.store.base import DELAYED

from .support import Lab, both_start_methods

pytestmark = both_start_methods

blocking_calls = pytest.mark.parametrize("how", ["sleep", "program", "lock", "pipe", "select", "loop"])


@blocking_calls
def test_a_time_limit_ends_a_blocking_call_of_the_only_thread(lab: Lab, how: str) -> None:
    pool = lab.start_pool("limits", "-p", "1")
    worker = lab.result(lab.send("who"))

    message = lab.send("too_long", how)

    assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
    assert lab.wait_until_dead(message).crashes == 0
    assert lab.notes("exceeded") == [f"exceeded {how}"]
    assert lab.result(lab.send("who")) == worker  # the process was not harmed
    assert len(lab.processes()) == 2
    pool.stop()


def test_a_time_limit_ends_a_loop_in_one_of_several_threads(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "1", "-t", "2")
    message = lab.send("too_long", "loop")
    assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()


def test_a_time_limit_is_not_swallowed_by_an_actor_that_catches_all_exceptions(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "1")
    assert lab.failure(lab.send("catches_exceptions")).orig_exc_type == "TimeLimitExceeded"
    assert lab.notes("caught") == []
    pool.stop()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_time_limit_in_the_middle_of_sending_harms_nothing(lab: Lab, threads: str) -> None:
    pool = lab.start_pool("limits", "-p", "1", "-t", threads)
    messages = [lab.send("send_for_ever") for _ in range(3)]
    for message in messages:
        assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
    lab.wait_until_done()
    assert {record.actor for record in lab.records()} == {"send_for_ever"}
    counted = [int(note.split()[1]) for note in lab.notes("counted")]
    assert len(counted) > 3
    # Three series that begin at 1 and have no gap, whenever they were broken off.
    times = [counted.count(number) for number in range(1, max(counted) + 1)]
    assert times[0] == 3
    assert times == sorted(times, reverse=True)
    assert lab.is_intact()
    pool.stop()


@blocking_calls
def test_an_actor_that_asked_for_it_is_told_that_its_worker_stops(lab: Lab, how: str) -> None:
    pool = lab.start_pool("limits", "-p", "1")
    message = lab.send("wants_to_know", how)
    lab.wait_for_notes("blocks")
    pool.signal(signal.SIGTERM)
    assert pool.wait(20) == 0
    assert lab.notes("shutdown") == [f"shutdown {how}"]
    assert lab.result(message) == "told"


def test_an_actor_in_one_of_several_threads_is_told_too(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "1", "-t", "2")
    message = lab.send("wants_to_know", "loop")
    lab.wait_for_notes("blocks")
    pool.signal(signal.SIGTERM)
    assert pool.wait(20) == 0
    assert lab.result(message) == "told"


def test_a_message_that_ends_by_the_notice_is_run_again_later(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "1")
    message = lab.send("lets_it_pass", "sleep")
    lab.wait_for_notes("blocks")
    pool.signal(signal.SIGTERM)
    assert pool.wait(20) == 0
    assert (lab.record(message).state, lab.record(message).crashes) == (DELAYED, 0)


def test_an_actor_that_did_not_ask_is_left_alone(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "1")
    lab.send("does_not_want_to_know")
    lab.held("unaware")
    pool.signal(signal.SIGTERM)
    pool.wait_for_log("Stopping on")
    lab.release("unaware")
    assert pool.wait() == 0
    assert lab.states() == {}
