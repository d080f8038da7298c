"""The user's own forks, in the program that sends and in actors: nothing of either side is lost."""

from __future__ import annotations

import pytest

from .support import Lab, both_start_methods

forks = pytest.mark.parametrize(
    "fork",
    [
        "one_child",
        "a_grandchild",
        "a_child_that_closes_the_broker",
        "a_child_that_never_sends",
        "a_child_that_sends_first",
        "multiprocessing_by_fork",
        "multiprocessing_by_spawn",
        "a_pool_of_multiprocessing",
        "forks_while_a_thread_sends",
        "forks_while_a_thread_sends_for_the_first_time",
    ],
)
"""The names of functions in apps/forks.py; each sends the numbers from 0 to 399."""


def assert_that_all_arrived(lab: Lab) -> None:
    lab.wait_until_done()
    assert sorted(int(note.split()[1]) for note in lab.notes("mail")) == list(range(400))
    assert lab.states() == {}
    assert lab.is_intact()


@forks
def test_a_program_that_forks_while_it_sends(lab: Lab, fork: str) -> None:
    script = lab.start_script(f"import forks\nif __name__ == '__main__':\n    forks.{fork}()\n")
    assert script.wait() == 0, script.log()
    assert lab.states() == {"waiting": 400}
    assert lab.is_intact()
    pool = lab.start_pool("tasks", "-p", "1")
    assert_that_all_arrived(lab)
    pool.stop()


@both_start_methods
@forks
def test_a_program_that_forks_while_its_pool_runs(lab: Lab, fork: str) -> None:
    script = lab.start_script(
        f"""
        import os
        import localq, forks

        if __name__ == "__main__":
            with localq.pool(processes=2, start_method=os.environ["LAB_START_METHOD"]):
                forks.{fork}()
                localq.get_broker().join("default", timeout=30_000)
        """
    )
    assert script.wait() == 0, script.log()
    assert_that_all_arrived(lab)
    lab.wait_until_empty()


@both_start_methods
@forks
def test_an_actor_that_forks(lab: Lab, fork: str) -> None:
    pool = lab.start_pool("forks", "-p", "2")
    worker = lab.result(lab.send("fork", fork))
    assert_that_all_arrived(lab)
    assert lab.notes("started") == [f"started {worker}"]
    assert worker in lab.workers()
    pool.stop()


@both_start_methods
def test_a_child_of_an_actor_that_exits_does_not_go_on_as_a_worker(lab: Lab) -> None:
    pool = lab.start_pool("forks", "-p", "1")
    worker = lab.result(lab.send("child_that_exits"))
    assert lab.notes("started") == [f"started {worker}"]
    lab.wait_until_done()
    assert lab.processes().keys() == {pool.pid, worker}
    pool.stop()
