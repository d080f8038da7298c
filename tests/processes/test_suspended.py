"""Processes that are stopped for a while (SIGSTOP, Ctrl-Z, a laptop that sleeps), and what becomes of their
messages: nothing. There is no lease that could run out."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from localq.locks import try_lock
from localq.store.base import RUNNING, WAITING
from localq.store.bell import SLOTS, WANTS_MESSAGE

from .scripts import BEGINNING
from .support import Lab, both_start_methods, wait_until

YEAR = 365 * 24 * 3600 * 1000
LONG = 1.5
"""Seconds that a process is stopped at least where some timeout, set to less than that, could matter."""
STOPPED = "T"


def stat_of(pid: int) -> list[str]:
    """The fields behind its name; see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def threads_of(pid: int) -> list[int]:
    return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]


def is_stopped(pid: int) -> bool:
    """Whether each of its threads is: they stop one after the other."""
    return all(stat_of(thread)[0] == STOPPED for thread in threads_of(pid))


def is_in_the_foreground(pid: int) -> bool:
    """Whether its group is the one that its terminal is for."""
    _, _, group, _, _, group_of_terminal, *_ = stat_of(pid)
    return group == group_of_terminal


def wait_until_asleep(lab: Lab, count: int) -> None:
    """Wait until so many threads of workers sleep until a message comes."""
    table = lab.broker.store.bells._table  # type: ignore[attr-defined]
    wait_until(lambda: table.states[:SLOTS].count(WANTS_MESSAGE) == count, why=f"{count} sleep")


def suspend(*pids: int) -> None:
    """Stop the processes; returns when none of them runs any more."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        wait_until(lambda pid=pid: is_stopped(pid), why=f"{pid} is stopped")


def resume(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for pid in pids:
        wait_until(lambda pid=pid: not is_stopped(pid), why=f"{pid} goes on")


def suspend_outside_the_gate(lab: Lab, *pids: int) -> None:
    """Stop them while none is in the middle of a write: what the others hear then is another matter."""
    while True:
        suspend(*pids)
        if gate_is_free(lab):
            return
        resume(*pids)


def gate_is_free(lab: Lab) -> bool:
    descriptor = os.open(lab.broker.store.database.gate.path, os.O_RDWR)  # type: ignore[attr-defined]
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def let_time_pass(seconds: float = LONG) -> None:
    """Longer than the timeouts of the test: what proves something is what is looked at then."""
    time.sleep(seconds)


def reaps_nothing(lab: Lab) -> bool:
    """Whether whoever looks for what dead workers held finds nothing, however late it is."""
    now = int(time.time() * 1000)
    return all(lab.broker.store.reap(now=at) == 0 for at in (now, now + YEAR))


def mailed(lab: Lab) -> Counter[str]:
    return Counter(note.split()[1] for note in lab.notes("mail"))


def wait_for_results(lab: Lab, pairs: Iterable[tuple[object, int]]) -> None:
    for message, value in pairs:
        assert lab.result(message) == value  # type: ignore[arg-type]


# -- a worker


def test_an_idle_worker_that_is_stopped_takes_nothing_and_goes_on_where_it_was(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    (worker,) = lab.wait_for_workers(1)
    wait_until_asleep(lab, 1)
    suspend_outside_the_gate(lab, worker)
    messages = [(lab.send("add", number, 1), number + 1) for number in range(10)]
    let_time_pass()
    assert lab.states() == {WAITING: 10}
    assert reaps_nothing(lab)
    assert lab.wait_for_workers(1) == {worker}  # nobody took it for dead
    resume(worker)
    wait_for_results(lab, messages)
    pool.stop()


@pytest.mark.parametrize("which", [0, 1])
def test_the_others_work_on_beside_one_that_is_stopped(lab: Lab, which: int) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    stopped = sorted(lab.wait_for_workers(2))[which]
    wait_until_asleep(lab, 2)
    suspend_outside_the_gate(lab, stopped)
    for number in range(3):  # each bell may be heard by the one that cannot come
        began = time.monotonic()
        assert lab.result(lab.send("add", number, 1)) == number + 1
        assert time.monotonic() - began < 20
    assert lab.result(lab.send("who")) != stopped
    resume(stopped)
    pool.stop()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_what_a_stopped_worker_runs_stays_its_own(lab: Lab, threads: str) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "-t", threads)
    message = lab.send("hold", "a")
    owner = lab.held("a")
    suspend_outside_the_gate(lab, owner)
    before = lab.record(message)
    let_time_pass()
    assert reaps_nothing(lab)
    assert lab.result(lab.send("who")) != owner  # the other one works on, and keeps house
    record = lab.record(message)
    assert (record.state, record.owner, record.claim) == (RUNNING, before.owner, before.claim)
    lab.release("a")
    resume(owner)
    assert lab.result(message) == "a"
    assert len(lab.notes("held")) == 1
    pool.stop()


def test_messages_of_a_burst_are_run_once_each_when_it_is_stopped_in_the_middle(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    workers = sorted(lab.wait_for_workers(2))
    for round_ in range(5):
        lab.send_many("mail", [f"{round_}-{number}" for number in range(300)])
        wait_until(lambda at=round_: any(note.startswith(f"{at}-") for note in mailed(lab)), why="they begin")
        suspend_outside_the_gate(lab, workers[round_ % 2])
        owner = {record.owner for record in lab.records(states=[RUNNING])}
        # The other one runs all that the stopped one has not claimed.
        wait_until(
            lambda: not lab.records(states=[WAITING]) and len(lab.records(states=[RUNNING])) <= 32,
            why="only what the stopped one has claimed is left",
        )
        assert reaps_nothing(lab)
        assert {record.owner for record in lab.records(states=[RUNNING])} <= owner
        resume(workers[round_ % 2])
        lab.wait_until_done()
    assert mailed(lab) == Counter(f"{round_}-{number}" for round_ in range(5) for number in range(300))
    pool.stop()


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stopped_worker_does_not_keep_its_pool_from_stopping(lab: Lab, order: signal.Signals) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "--worker-shutdown-timeout", "100")
    message = lab.send("hold", "a")
    suspend_outside_the_gate(lab, lab.held("a"))
    pool.signal(order)
    assert pool.wait() == 0
    lab.wait_until_empty()
    lab.reap()
    record = lab.record(message)
    assert (record.state, record.attempts, record.crashes) == (WAITING, 0, 0)


def test_what_a_stopped_worker_ran_goes_back_at_once_when_it_is_killed(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    message = lab.send("hold", "a")
    owner = lab.held("a")
    suspend_outside_the_gate(lab, owner)
    lab.kill(owner)  # without SIGCONT
    other = lab.held("a", times=2)
    assert other != owner
    lab.release("a")
    assert lab.result(message) == "a"
    assert "killed by" in pool.log() or "signal 9 (SIGKILL)" in pool.log()
    lab.wait_for_workers(2, without=[owner])
    pool.stop()


# -- the supervisor, and all of them


def test_the_workers_work_on_while_their_supervisor_is_stopped(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    workers = lab.wait_for_workers(2)
    suspend(pool.pid)
    let_time_pass()
    wait_for_results(lab, [(lab.send("add", number, 1), number + 1) for number in range(10)])
    message = lab.send("hold", "a")
    dead = lab.held("a")
    lab.kill(dead)
    lab.release("a")
    assert lab.result(lab.send("who")) in workers - {dead}  # and the other one works on
    resume(pool.pid)
    # Who died meanwhile is replaced, and what it ran goes back: only its supervisor can say how it ended.
    assert lab.result(message) == "a"
    lab.wait_for_workers(2, without=[dead])
    pool.stop()


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_order_to_stop_is_heard_when_the_supervisor_goes_on(lab: Lab, order: signal.Signals) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    message = lab.send("hold", "a")
    lab.held("a")
    suspend(pool.pid)
    pool.signal(order)
    lab.release("a")
    assert lab.result(message) == "a"
    assert pool.runs()
    resume(pool.pid)
    assert pool.wait() == 0
    lab.wait_until_empty()


@both_start_methods
@pytest.mark.parametrize("supervisor_first", [True, False])
@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_whole_pool_sleeps_and_wakes_as_if_nothing_had_been(
    lab: Lab, supervisor_first: bool, order: signal.Signals
) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "-t", "2", LOCALQ_URL=f"{lab.url}?busy_timeout=300")
    workers = sorted(lab.wait_for_workers(2))
    held = [lab.send("hold", name) for name in ("a", "b")]
    lab.held("a")
    lab.held("b")
    delayed = lab.send("add", 1, 1, delay=100)
    suspend(pool.pid)
    suspend_outside_the_gate(lab, *workers)
    sent = [(lab.send("add", number, 1), number + 1) for number in range(20)]
    let_time_pass()
    assert reaps_nothing(lab)
    assert {record.state for record in lab.records(message_ids=[each.message_id for each in held])} == {RUNNING}
    for pid in [pool.pid, *workers] if supervisor_first else [*workers, pool.pid]:
        resume(pid)
    wait_for_results(lab, [*sent, (delayed, 2)])
    lab.release("a", "b")
    assert [lab.result(message) for message in held] == ["a", "b"]
    assert len(lab.notes("held")) == 2
    assert lab.wait_for_workers(2) == set(workers)  # nobody was replaced
    pool.signal(order)
    assert pool.wait() == 0
    lab.wait_until_empty()


def test_a_pool_that_is_killed_in_its_sleep_leaves_its_messages_to_the_next(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    message = lab.send("hold", "a")
    lab.held("a")
    suspend(pool.pid)
    suspend_outside_the_gate(lab, *lab.wait_for_workers(2))
    pool.kill()  # the system ends its workers, stopped as they are
    lab.wait_until_empty()
    second = lab.start_pool("tasks", "-p", "1")
    lab.held("a", times=2)
    lab.release("a")
    assert lab.result(message) == "a"
    second.stop()


# -- a sender


def test_a_sender_that_is_stopped_again_and_again_sends_each_message_once(lab: Lab) -> None:
    script = lab.start_script(
        """
        import localq

        @localq.actor
        def mail(number): ...

        for number in range(20_000):
            mail.send(number)
        print("done")
        """
    )
    wait_until(lab.states, why="it sends")
    for _ in range(20):
        suspend_outside_the_gate(lab, script.pid)
        count = lab.states()[WAITING]
        assert lab.states()[WAITING] == count  # it sends no more
        lab.send("mail", "ours")
        if script.runs():
            resume(script.pid)
            wait_until(lambda seen=count: lab.states()[WAITING] > seen + 10 or not script.runs())
    assert script.wait() == 0, script.log()
    assert script.out() == "done\n"
    sent = [lab.decoded(record).args[0] for record in lab.records()]
    assert [number for number in sent if number != "ours"] == list(range(20_000))
    assert sent.count("ours") == 20


def test_a_result_that_came_while_its_waiter_was_stopped_is_there_although_its_time_is_over(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    script = lab.start_script(
        """
        import tasks

        message = tasks.hold.send("a")
        print("waiting", flush=True)
        print(message.get_result(block=True, timeout=1_000))
        """
    )
    lab.held("a")
    wait_until(lambda: "waiting" in script.out() or not script.runs(), why="it waits")
    suspend_outside_the_gate(lab, script.pid)
    lab.release("a")
    lab.wait_until_done()
    let_time_pass()
    resume(script.pid)
    assert script.wait() == 0, script.log()
    assert script.out() == "waiting\na\n"
    pool.stop()


HOST = (
    BEGINNING
    + """
import tasks

if __name__ == "__main__":
    with localq.pool(processes=2, start_method=METHOD, shutdown_timeout=1_000):
        message = tasks.hold.send("a")
        print(message.get_result(block=True, timeout=60_000))
"""
)


@both_start_methods
def test_the_pool_of_a_script_works_on_while_that_is_stopped(lab: Lab) -> None:
    script = lab.start_script(HOST)
    lab.held("a")
    suspend_outside_the_gate(lab, script.pid)
    let_time_pass()  # longer than a host that has died would be waited for
    assert lab.result(lab.send("add", 1, 2)) == 3
    lab.release("a")
    lab.wait_until_done()
    resume(script.pid)
    assert script.wait() == 0, script.log()
    assert script.out() == "a\n"
    lab.wait_until_empty()


@both_start_methods
def test_the_pool_of_a_stopped_script_ends_with_it(lab: Lab) -> None:
    script = lab.start_script(HOST)
    lab.held("a")
    suspend_outside_the_gate(lab, script.pid)
    script.kill()
    lab.wait_until_empty()
    lab.reap()
    assert lab.states() == {WAITING: 1}


# -- a terminal

TERMINAL = """
import os, pty, sys
os.dup2(os.open("keys", os.O_RDWR), 0)
sys.exit(os.waitstatus_to_exitcode(pty.spawn(["bash", "--norc", "--noprofile", "-i"])))
"""


class Terminal:
    """A shell in a terminal of its own, and somebody who types there."""

    def __init__(self, lab: Lab) -> None:
        os.mkfifo(lab.folder / "keys")
        self._keys = os.open(lab.folder / "keys", os.O_RDWR)
        self.program = lab.start_script(TERMINAL, PS1="$ ", TERM="dumb", HISTFILE="")

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.program.out().count(text) >= times, why=f"{text!r} on the screen")

    def close(self) -> None:
        os.close(self._keys)


@pytest.fixture
def terminal(lab: Lab) -> Iterable[Terminal]:
    terminal = Terminal(lab)
    yield terminal
    print(terminal.program.out())  # shown when it fails
    terminal.close()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control")
@pytest.mark.parametrize("ending", ["\x03", "kill"], ids=["Ctrl-C", "kill"])
def test_ctrl_z_stops_the_supervisor_alone_and_fg_and_bg_go_on(lab: Lab, terminal: Terminal, ending: str) -> None:
    terminal.type(f"{shlex.quote(sys.executable)} -m localq tasks -p 1 --pid-file pid\n")
    (worker,) = lab.wait_for_workers(1)
    terminal.wait_for("worker processes is up")
    supervisor = int((lab.folder / "pid").read_text())

    terminal.type("\x1a")
    wait_until(lambda: is_stopped(supervisor), why="the supervisor is stopped")
    terminal.wait_for("Stopped")
    assert lab.result(lab.send("who")) == worker

    terminal.type("bg\n")
    wait_until(lambda: not is_stopped(supervisor), why="it goes on in the background")
    message = lab.send("hold", "a")
    lab.kill(lab.held("a"))
    lab.release("a")
    assert lab.result(message) == "a"
    lab.wait_for_workers(1, without=[worker])

    if ending == "kill":
        terminal.type("kill %1\n")
    else:
        terminal.type("fg\n")
        wait_until(lambda: is_in_the_foreground(supervisor), why="it is in the foreground")
        terminal.type(ending)
    wait_until(lambda: not Path(f"/proc/{supervisor}").exists(), why="the pool has ended")
    assert "The pool has stopped." in terminal.program.out()
    terminal.type("exit\nexit\n")  # bash asks once when jobs are left
    terminal.program.wait()
    lab.wait_until_empty()
