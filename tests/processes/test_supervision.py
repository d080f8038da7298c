"""The supervisor: its own death, the death of all, replacing workers, and modules that break."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from localq.store.base import RUNNING, WAITING

from .support import DEADLINE, Lab, Program, both_start_methods, wait_until

pytestmark = both_start_methods

LEFT_ALONE = """
    import os, sys
    from localq.processes import child
    from localq.processes.config import PoolConfig
    from localq.processes.launch import launch

    def run_child_later(pipes, config):
        while os.getppid() == pipes.parent:
            pass
        return child.run_child(pipes, config)

    target = run_child_later if sys.argv[1] == "fork" else child.run_child
    launch(target, PoolConfig(processes=1, modules=["tasks"]), sys.argv[1])
    os._exit(0)
"""

VERSION = """
    import localq

    @localq.actor
    def version():
        return {version}
"""


def test_workers_end_with_a_killed_supervisor_and_the_next_start_takes_over(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    messages = [lab.send("hold", name) for name in ("a", "b")]
    waiting = lab.send("add", 1, 2)
    lab.held("a"), lab.held("b")

    pool.kill()

    lab.wait_until_empty()
    assert [lab.record(message).state for message in (*messages, waiting)] == [RUNNING, RUNNING, WAITING]
    second = lab.start_pool("tasks", "-p", "2")
    lab.held("a", times=2), lab.held("b", times=2)
    assert [(lab.record(message).crashes, lab.record(message).attempts) for message in messages] == [(0, 1)] * 2
    lab.release("a", "b")
    assert [lab.result(message) for message in (*messages, waiting)] == ["a", "b", 3]
    second.stop()


def test_a_worker_that_holds_the_interpreter_ends_with_a_killed_supervisor_too(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    message = lab.send("hold_the_interpreter")
    lab.wait_for_notes("holding")
    pool.kill()
    lab.wait_until_empty()
    lab.reap()
    assert (lab.record(message).state, lab.record(message).crashes) == (WAITING, 0)


def test_a_worker_that_outlives_its_supervisor_before_it_has_looked_holds_nothing_for_ever(
    lab: Lab, start_method: str
) -> None:
    lab.write("pools.py", LEFT_ALONE)
    message = lab.send("add", 1, 2)
    lab.start_python("pools.py", start_method).wait()  # which does not wait for the worker that it has started
    lab.wait_until_empty()
    pool = lab.start_pool("tasks", "-p", "1")
    assert lab.result(message) == 3
    pool.stop()
    assert lab.broker.store.workers() == []


def test_the_death_of_all_at_once_charges_nobody(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    messages = [lab.send("hold", name) for name in ("a", "b")]
    workers = {lab.held("a"), lab.held("b")}
    pool.signal(signal.SIGSTOP)  # so that it does not see the first of them die
    for pid in workers:
        lab.kill(pid)
    pool.kill()
    second = lab.start_pool("tasks", "-p", "2")
    lab.held("a", times=2), lab.held("b", times=2)
    assert [(lab.record(message).crashes, lab.record(message).attempts) for message in messages] == [(0, 1)] * 2
    lab.release("a", "b")
    lab.wait_until_done()
    second.stop()


def test_another_pool_takes_over_from_a_killed_one_at_once(lab: Lab) -> None:
    pools = [lab.start_pool("tasks", "-p", "1") for _ in range(2)]
    message = lab.send("hold", "a")
    worker = lab.held("a")
    of_worker = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    first, second = pools if pools[0].pid == of_worker else reversed(pools)
    first.kill()
    assert lab.held("a", times=2) != worker
    assert lab.record(message).crashes == 0
    lab.release("a")
    assert lab.result(message) == "a"
    second.stop()


# -- replacing


def test_a_hang_up_replaces_the_workers_which_import_the_module_anew(lab: Lab) -> None:
    lab.write("versions.py", VERSION.format(version=1))
    pool = lab.start_pool("versions", "-p", "2")
    before = lab.workers()
    assert lab.result(lab.send("version")) == 1

    lab.write("versions.py", VERSION.format(version=2))
    pool.signal(signal.SIGHUP)

    after = lab.wait_for_workers(2, without=before)
    assert lab.result(lab.send("version")) == 2
    assert pool.runs()
    assert {os.getsid(pid) for pid in after} == after
    pool.stop()


def test_a_hang_up_lets_running_messages_come_to_their_end(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    running, waiting = lab.send("hold", "a"), lab.send("who")
    worker = lab.held("a")
    pool.signal(signal.SIGHUP)
    pool.wait_for_log("Replacing all worker processes")
    lab.release("a")
    assert lab.result(running) == "a"
    assert lab.result(waiting) != worker
    assert len(lab.notes("held")) == 1
    pool.stop()


def test_a_worker_that_is_told_to_leave_by_a_signal_ends_its_message_and_is_replaced(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    message = lab.send("hold", "a")
    worker = lab.held("a")
    os.kill(worker, signal.SIGTERM)
    lab.release("a")
    assert lab.result(message) == "a"
    lab.wait_for_workers(2, without=[worker])
    assert len(lab.notes("held")) == 1
    pool.stop()


def test_a_worker_does_not_mind_the_interrupt_of_a_terminal(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    (worker,) = lab.workers()
    os.kill(worker, signal.SIGINT)
    assert lab.result(lab.send("who")) == worker
    pool.stop()


# -- a module that breaks later


def broken_later(lab: Lab) -> Program:
    """A pool of one, whose module was broken since and whose worker was killed."""
    lab.write("versions.py", VERSION.format(version=1))
    pool = lab.start_pool("versions", "-p", "1")
    assert lab.result(lab.send("version")) == 1
    lab.write("versions.py", "raise RuntimeError('half edited')\n")
    (worker,) = lab.workers()
    lab.kill(worker)
    pool.wait_for_log("could not start")
    return pool


def test_a_module_that_breaks_later_is_reported_waited_for_and_used_again(lab: Lab) -> None:
    pool = broken_later(lab)
    message = lab.send("version")
    pool.wait_for_log("RuntimeError: half edited", times=2)
    assert "replacing it in 0.5 s" in pool.log()
    assert "replacing it in 1 s" in pool.log()
    assert lab.record(message).state == WAITING
    lab.write("versions.py", VERSION.format(version=2))
    assert lab.result(message) == 2
    pool.stop()


def test_a_pool_that_waits_before_it_tries_again_stops_at_once(lab: Lab) -> None:
    pool = broken_later(lab)
    pool.wait_for_log("replacing it in 2 s")
    pool.stop()


def test_a_broken_module_does_not_disturb_the_workers_that_are_there(lab: Lab) -> None:
    lab.write("versions.py", VERSION.format(version=1))
    pool = lab.start_pool("versions", "-p", "2")
    victim, companion = lab.workers()
    lab.write("versions.py", "raise RuntimeError('half edited')\n")
    lab.kill(victim)
    pool.wait_for_log("could not start")
    assert lab.result(lab.send("version")) == 1
    assert lab.workers() == {companion}
    lab.write("versions.py", VERSION.format(version=1))
    lab.wait_for_workers(2, without=[victim])
    pool.stop()


# -- when there is no hope

GIVES_UP_SOON = """
    import sys
    from localq.cli import main
    from localq.processes import series

    series.FIRST_BACKOFF, series.LONGEST_BACKOFF = 1, 10

    if __name__ == "__main__":
        main(sys.argv[1:])
"""

DIES = """
    import os, signal, threading
    import localq

    @localq.actor
    def version():
        return 1

    if "{where}" == "in its import":
        os.kill(os.getpid(), signal.SIGSEGV)

    class Dies(localq.Middleware):
        def after_worker_boot(self, broker, worker):
            if "{where}" == "when it is ready":
                threading.Timer(0.1, os.abort).start()

    localq.get_broker().add_middleware(Dies())
"""


@pytest.mark.parametrize(
    ("where", "how"), [("in its import", "signal 11 (SIGSEGV)"), ("when it is ready", "signal 6 (SIGABRT)")]
)
def test_a_pool_whose_workers_die_before_their_first_message_gives_up(lab: Lab, where: str, how: str) -> None:
    lab.write("dies.py", DIES.format(where=where))
    message = lab.send("version", queue="other")
    pool = lab.start_script(GIVES_UP_SOON, "dies", "-p", "2", "-Q", "default")
    assert pool.wait() == 1
    log = pool.log()
    assert "its processes died 16 times in a row before they ran a message" in log
    assert f"the last one ended with {how}" in log
    assert "Nothing is lost" in log
    assert ("The pool gives up" in log) or ("The pool cannot start" in log)
    assert lab.record(message).state == WAITING
    lab.wait_until_empty()
    pool = lab.start_pool("tasks", "-p", "1")
    assert lab.result(lab.send("add", 1, 2)) == 3  # the file and its folder are in order
    pool.stop()


def test_a_pool_whose_module_stays_broken_gives_up_with_what_is_wrong(lab: Lab) -> None:
    lab.write("versions.py", VERSION.format(version=1))
    pool = lab.start_script(GIVES_UP_SOON, "versions", "-p", "1").wait_until_up()
    lab.write("versions.py", "raise RuntimeError('half edited')\n")
    (worker,) = lab.workers()
    lab.kill(worker)
    message = lab.send("version")
    assert pool.wait() == 2
    assert "The pool gives up: its processes died 8 times in a row" in pool.log()
    assert "RuntimeError: half edited" in pool.log()
    assert lab.record(message).state == WAITING


def test_a_program_hears_that_its_pool_gave_up(lab: Lab) -> None:
    lab.write("dies.py", DIES.format(where="when it is ready"))
    script = """
        import sys, time
        import localq, dies
        from localq.processes import series

        series.FIRST_BACKOFF, series.LONGEST_BACKOFF = 1, 10

        if __name__ == "__main__":
            pool = localq.pool(processes=1, queues="other", start_method="fork")
            pool.start()
            while "gives up" not in open(sys.argv[1]).read():
                time.sleep(0.01)
            try:
                pool.stop()
            except localq.errors.PoolError as error:
                print(error)
    """
    program = lab.start_script(script, str(lab.folder / "script0.log"))
    assert program.wait() == 0, program.log()
    assert program.out().startswith("the pool gave up: its processes died 8 times in a row")
    lab.wait_until_empty()


# -- while it starts

SLOW_IMPORT = """
    import localq, notes

    notes.hold("import")

    @localq.actor
    def ready():
        return True
"""


def test_a_worker_that_is_killed_while_it_imports_is_replaced(lab: Lab) -> None:
    lab.write("slow.py", SLOW_IMPORT)
    message = lab.send("ready")
    pool = lab.start("slow", "-p", "1")
    lab.kill(lab.held("import"))
    lab.held("import", times=2)
    lab.release("import")
    assert lab.result(message)
    pool.stop()


def test_workers_that_are_killed_while_they_join_are_forgotten(lab: Lab) -> None:
    workers = lab.folder / "jobs.db.localq" / "workers"
    lab.states()  # makes the folder
    pool = lab.start("tasks", "-p", "1")
    children, seen = Path(f"/proc/{pool.pid}/task/{pool.pid}/children"), set[str]()
    for _ in range(2):
        # No nap in between: from its file's appearance to its being ready it takes milliseconds.
        deadline = time.monotonic() + DEADLINE
        while not (fresh := set(os.listdir(workers)) - seen):
            assert time.monotonic() < deadline
        (worker,) = children.read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        seen |= fresh

    assert lab.result(lab.send("add", 1, 2)) == 3

    (living,) = lab.workers()
    wait_until(
        lambda: [worker.pid for worker in lab.broker.store.workers()] == [living],
        why=f"only {living} is registered: {lab.broker.store.workers()}",
    )
    wait_until(lambda: len(os.listdir(workers)) == 1, why="the files of the dead are gone")
    pool.stop()


def test_a_pool_that_is_told_to_stop_while_it_imports_stops(lab: Lab) -> None:
    lab.write("slow.py", SLOW_IMPORT)
    message = lab.send("ready")
    pool = lab.start("slow", "-p", "1")
    lab.held("import")
    pool.signal(signal.SIGTERM)
    pool.wait_for_log("Stopping on SIGTERM")
    lab.release("import")
    assert pool.wait() == 0
    lab.wait_until_empty()
    # It may have begun before it heard the order; then it came to its end.
    assert lab.states() == {WAITING: 1} or lab.result(message)


def test_a_supervisor_opens_no_file_of_the_queue(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    (worker,) = lab.workers()

    def opened(pid: int) -> list[str]:
        folder = f"/proc/{pid}/fd"
        links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        return [link for link in links if link.startswith(str(lab.file))]

    assert opened(pool.pid) == []
    assert len(os.listdir(f"/proc/{pool.pid}/task")) == 1
    wait_until(lambda: opened(worker))
    pool.stop()
