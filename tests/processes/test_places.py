"""Places under a limit, held by what runs in a pool: free as soon as its process has died."""

from __future__ import annotations

import os
import signal

import pytest

from localq import Abortable, AbortMode

from .support import Lab, wait_until


def is_free(lab: Lab) -> bool:
    """Whether somebody else could be inside now."""
    store = lab.broker.store
    if not store.hold("place", 1):
        return False
    store.let_go("place")
    return True


def taken(lab: Lab) -> int:
    """How many places are written down as taken, whoever is asked."""
    with lab.broker.store.database.read as connection:  # type: ignore[attr-defined]
        (count,) = connection.execute("SELECT count(*) FROM hold").fetchone()
    return int(count)


def test_the_place_of_a_killed_worker_is_free_at_once(lab: Lab) -> None:
    pool = lab.start_pool("places", "-p", "1")
    lab.send("inside", "a")
    victim = lab.held("a")
    assert not is_free(lab)

    lab.kill(victim)

    lab.held("a", times=2)  # it was delivered again, and got in
    lab.release("a")
    wait_until(lambda: is_free(lab))
    pool.stop()


def test_the_place_of_a_coroutine_is_free_when_its_process_was_killed(lab: Lab) -> None:
    pool = lab.start_pool("places", "-p", "1")
    lab.send("inside_async", "a")
    lab.wait_for_notes("inside")
    (victim,) = lab.workers()
    assert not is_free(lab)
    lab.kill(victim)
    lab.wait_for_notes("inside", 2)
    pool.kill()
    lab.wait_until_empty()
    wait_until(lambda: is_free(lab))  # a process lets go of its files a moment after it was last seen


def test_the_place_of_a_worker_that_abort_has_to_kill_is_free(lab: Lab, abortable: Abortable) -> None:
    pool = lab.start_pool("places", "-p", "1")
    message = lab.send("inside_and_deaf")
    lab.wait_for_notes("inside")
    assert not is_free(lab)

    abortable.abort(message.message_id, mode=AbortMode.KILL, abort_timeout=100)

    lab.wait_until_dead(message)
    assert is_free(lab)
    pool.stop()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_time_limit_that_lands_on_the_way_in_or_out_keeps_no_place(lab: Lab, threads: str) -> None:
    pool = lab.start_pool("places", "-p", "1", "-t", threads)
    for number in range(20):  # one after the other: two would refuse each other
        message = lab.send("in_and_out_for_ever", number)
        assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
        wait_until(lambda: taken(lab) == 0, why="the place was given back")
    pool.stop()


def test_a_whole_pool_that_is_killed_beside_another_leaves_nothing_behind(lab: Lab) -> None:
    doomed = lab.start_pool("places", "-p", "2")
    lab.send("inside", "a")
    lab.send("hold", "b")
    lab.held("a"), lab.held("b")
    victims = lab.workers()
    lab.start_pool("places", "-p", "2", "-Q", "other")
    assert (len(lab.broker.store.workers()), taken(lab)) == (4, 1)

    for pid in (doomed.pid, *victims):
        os.kill(pid, signal.SIGKILL)

    # Nobody but the other pool looks.
    wait_until(lambda: len(lab.broker.store.workers()) == 2 and taken(lab) == 0, seconds=10)
    assert lab.states() == {"waiting": 2}
    assert not victims & {worker.pid for worker in lab.broker.store.workers()}
    wait_until(lambda: os.listdir(lab.folder / "jobs.db.localq" / "holders") == [])
