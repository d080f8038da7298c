"""Messages and results through a pool of processes that the command line started."""

from __future__ import annotations

import time

import pytest

from localq.store.base import DEAD, DELAYED, RUNNING, WAITING

from .support import Lab, both_start_methods, wait_until

pytestmark = both_start_methods


def test_what_was_sent_before_the_pool_started_is_run_and_answered(lab: Lab) -> None:
    messages = [lab.send("add", number, 1) for number in range(10)]
    pool = lab.start_pool("tasks", "-p", "2")
    assert [lab.result(message) for message in messages] == list(range(1, 11))
    pool.stop()
    assert lab.states() == {}


def test_what_is_sent_to_an_idle_pool_is_run_and_answered(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    assert [lab.result(lab.send("add", number, 1)) for number in range(10)] == list(range(1, 11))
    pool.stop()


def test_each_of_many_messages_runs_once(lab: Lab) -> None:
    lab.send_many("mail", range(1000))
    pool = lab.start_pool("tasks", "-p", "2", "-t", "2")
    lab.wait_until_done()
    assert sorted(int(note.split()[1]) for note in lab.notes("mail")) == list(range(1000))
    pool.stop()
    assert lab.is_intact()


def test_all_processes_take_part(lab: Lab) -> None:
    for name in ("a", "b"):
        lab.send("hold", name)
    pool = lab.start_pool("tasks", "-p", "2")
    assert {lab.held("a"), lab.held("b")} == lab.workers()
    lab.release("a", "b")
    lab.wait_until_done()
    pool.stop()


def test_equal_messages_run_in_the_order_in_which_they_were_sent(lab: Lab) -> None:
    for number in range(50):
        lab.send("mail", number)
    pool = lab.start_pool("tasks", "-p", "1")
    lab.wait_until_done()
    assert lab.notes("mail") == [f"mail {number}" for number in range(50)]
    pool.stop()


def test_a_higher_priority_overtakes_whatever_process_is_free(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    for name in ("a", "b"):
        lab.send("hold", name)
        lab.held(name)
    for number in range(6):
        lab.send("mail", number, priority=10)
    lab.send("mail", "urgent", priority=-1)
    lab.send("mail_too", "from another queue", queue="mail", priority=5)
    lab.release("a")  # so that one process alone goes on, and their order can be seen
    lab.wait_for_notes("mail", 8)
    assert lab.notes("mail")[:2] == ["mail urgent", "mail from another queue"]
    lab.release("b")
    lab.wait_until_done()
    pool.stop()


def learn_that_it_is_short(lab: Lab) -> None:
    """Have the workers run the actor `hold` so often and so quickly that they claim it in bursts."""
    lab.release("short")
    lab.send_many("hold", ["short"] * 300)
    lab.wait_until_done()


@pytest.mark.parametrize("shape", [("-p", "3", "-t", "5"), ("-p", "15")], ids=["threads", "processes"])
def test_long_messages_fill_all_slots_though_they_were_short_before(lab: Lab, shape: tuple[str, ...]) -> None:
    pool = lab.start_pool("tasks", *shape)
    learn_that_it_is_short(lab)
    names = [f"long-{number}" for number in range(15)]
    messages = lab.send_many("hold", names)
    for name in names:
        lab.held(name)  # all at once: none is released before all are
    lab.release(*names)
    assert [lab.result(message) for message in messages] == names
    pool.stop()


@pytest.mark.parametrize("shape", [("-p", "1", "-t", "2"), ("-p", "2")], ids=["threads", "processes"])
def test_a_slow_message_among_a_hundred_quick_ones_delays_none_of_them(lab: Lab, shape: tuple[str, ...]) -> None:
    pool = lab.start_pool("tasks", *shape)
    learn_that_it_is_short(lab)
    quick = [f"quick-{number}" for number in range(100)]
    lab.release(*quick)
    messages = lab.send_many("hold", [*quick[:50], "slow", *quick[50:]])
    slow = messages.pop(50)
    assert [lab.result(message) for message in messages] == quick
    assert lab.record(slow).state == RUNNING
    lab.release("slow")
    assert lab.result(slow) == "slow"
    pool.stop()


def test_a_failing_actor_is_run_again_until_it_succeeds(lab: Lab) -> None:
    message = lab.send("fail_until", "third", 3)
    pool = lab.start_pool("tasks", "-p", "2")
    assert lab.result(message) == 3
    assert lab.notes("tried") == ["tried third"] * 3
    lab.wait_until_done()
    assert lab.states() == {}
    pool.stop()


def test_a_failure_for_good_is_told_and_becomes_a_dead_letter(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    message = lab.send("fail", "out of milk")
    failure = lab.failure(message)
    assert (failure.orig_exc_type, failure.orig_exc_msg) == ("ValueError", "out of milk")
    assert lab.wait_until_dead(message).reason == "ValueError: out of milk"
    pool.stop()


def test_wrong_arguments_are_a_failure_like_any_other(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    failure = lab.failure(lab.send("add", 1, max_retries=0))
    assert failure.orig_exc_type == "TypeError"
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()


def test_a_delayed_message_waits_for_its_time(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    not_before = time.time_ns() // 1_000_000 + 700
    message = lab.send("when", delay=700)
    assert lab.record(message).state == DELAYED
    assert lab.result(lab.send("add", 1, 2)) == 3  # others pass it
    assert not_before <= lab.result(message) < not_before + 10_000
    pool.stop()


def test_a_message_with_an_earlier_time_wakes_a_pool_that_waits_for_a_later_one(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    later = lab.send("when", delay=3_600_000)
    assert lab.result(lab.send("when", delay=200))
    assert lab.record(later).state == DELAYED
    pool.stop()


def test_actors_send_messages(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    lab.send("countdown", 20)
    lab.wait_for_notes("counted", 21)
    assert lab.notes("counted") == [f"counted {number}" for number in range(20, -1, -1)]
    pool.stop()


def test_a_message_for_a_queue_that_nobody_declares_waits(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    message = lab.send("add", 1, 2, queue="of_nobody")
    assert lab.result(lab.send("add", 1, 2)) == 3
    assert lab.record(message).state == WAITING
    pool.stop()


def test_two_pools_on_one_file_share_the_work(lab: Lab) -> None:
    pools = [lab.start_pool("tasks", "-p", "1") for _ in range(2)]
    for name in ("a", "b"):
        lab.send("hold", name)
    assert {lab.held("a"), lab.held("b")} == lab.workers()
    pools[0].signal(15)
    lab.release("a", "b")
    assert pools[0].wait() == 0
    assert lab.result(lab.send("add", 1, 2)) == 3
    pools[1].stop()
    wait_until(lambda: DEAD not in lab.states())
