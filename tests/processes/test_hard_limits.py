"""Time limits that end a task by force, when what they raise does not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from localq.store.base import DEAD, RUNNING

from .support import Lab, both_start_methods, wait_until

pytestmark = both_start_methods


def state_of(pid: int) -> str:
    """The letter of a process's state, see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()


@pytest.mark.parametrize(
    "how", ["swallow", "gil", "native loop", "regular expression", "group", "grandchild", "deaf", "socket"]
)
def test_what_does_not_end_by_itself_is_ended_with_its_process(lab: Lab, how: str) -> None:
    pool = lab.start_pool("hard", "-p", "2")
    lab.send("hold", "companion")
    companion = lab.held("companion")

    # A limit that is long enough for the task to come to where it cannot be ended.
    message = lab.send("by_force", how, time_limit=1_500 if how in ("group", "grandchild") else 300)

    failure = lab.failure(message)
    assert failure.orig_exc_type == "TimeLimitExceeded"
    assert "its process was killed" in failure.orig_exc_msg
    record = lab.wait_until_dead(message)
    assert record.crashes == 0
    assert record.reason is not None
    assert record.reason.startswith("TimeLimitExceeded: ")
    assert record.traceback is not None
    # Where it was, before where threads of ours were.
    assert 0 < record.traceback.index("hard.py") < record.traceback.index("timekeeper.py")
    ((*_, victim),) = lab.wait_for_notes("started")
    assert lab.wait_for_workers(2, without=[int(victim)]) >= {companion}  # which noticed nothing
    wait_until(lambda: len(lab.processes()) == 3, why="no program of the task is left")
    lab.release("companion")
    assert lab.wait_for_notes("told") == [["told", "TimeLimitExceeded"]]
    lab.wait_until_done()
    assert lab.states() == {DEAD: 1}
    assert "Killing worker process" in pool.log()
    pool.stop()


def test_a_message_that_was_ended_by_force_is_retried_like_any_failure(lab: Lab) -> None:
    pool = lab.start_pool("hard", "-p", "1")
    message = lab.send("better_next_time")
    assert lab.result(message) == "at last"
    assert len({pid for _, pid in lab.wait_for_notes("try", 2)}) == 2
    lab.wait_until_done()
    assert lab.states() == {}
    pool.stop()


def test_what_ran_beside_it_goes_back_uncharged(lab: Lab) -> None:
    pool = lab.start_pool("hard", "-p", "1", "-t", "3")
    innocent = [lab.send("hold", name) for name in ("a", "b")]
    for name in ("a", "b"):
        lab.held(name)
    message = lab.send("by_force", "swallow")
    for name in ("a", "b"):
        lab.held(name, times=2)
    assert [lab.record(one).crashes for one in innocent] == [0, 0]
    assert [lab.record(one).attempts for one in innocent] == [1, 1]
    lab.release("a", "b")
    assert [lab.result(one) for one in innocent] == ["a", "b"]
    assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
    pool.stop()


def test_a_limit_is_not_charged_for_the_time_that_a_worker_was_stopped(lab: Lab) -> None:
    pool = lab.start_pool("hard", "-p", "1")
    message = lab.send("works_for", 1)
    ((_, worker),) = lab.wait_for_notes("works")
    stop_for_longer_than_its_limit(lab, [int(worker)])
    assert lab.result(message) == "done"
    assert lab.workers() == {int(worker)}
    pool.stop()


def test_a_limit_is_not_charged_for_the_time_that_a_whole_pool_was_stopped(lab: Lab) -> None:
    pool = lab.start_pool("hard", "-p", "1")
    message = lab.send("works_for", 1)
    ((_, worker),) = lab.wait_for_notes("works")
    stop_for_longer_than_its_limit(lab, [pool.pid, int(worker)])
    assert lab.result(message) == "done"
    assert lab.workers() == {int(worker)}
    pool.stop()


def test_a_limit_goes_on_after_a_stop(lab: Lab) -> None:
    pool = lab.start_pool("hard", "-p", "1")
    message = lab.send("works_for", 600)
    ((_, worker),) = lab.wait_for_notes("works")
    stop_for_longer_than_its_limit(lab, [int(worker)])
    assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
    assert lab.workers() == {int(worker)}
    pool.stop()


def test_a_task_that_is_ended_by_force_has_its_time_after_a_stop_too(lab: Lab) -> None:
    pool = lab.start_pool("hard", "-p", "1")
    message = lab.send("by_force", "gil")
    ((*_, worker),) = lab.wait_for_notes("started")
    stop_for_longer_than_its_limit(lab, [int(worker)])
    assert lab.record(message).state == RUNNING
    assert lab.failure(message).orig_exc_type == "TimeLimitExceeded"
    pool.stop()


def stop_for_longer_than_its_limit(lab: Lab, pids: list[int]) -> None:
    """Stop the processes for longer than any limit that is given in ``apps/hard.py``, grace included."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: state_of(pid) == "T", why=f"{pid} is stopped")  # type: ignore[misc]
    time.sleep(4)  # not for anything to happen: it is the time that must not count
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
