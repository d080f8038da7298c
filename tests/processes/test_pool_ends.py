"""However a script with a pool ends, no process of it is left and no message is lost."""

from __future__ import annotations

import os
import signal

import pytest

from localq.store.base import RUNNING, WAITING

from .support import Lab, Program, both_start_methods, wait_until

pytestmark = both_start_methods

SCRIPT = """
import os, sys, time
import localq
import notes
from tasks import hold, mail

def wait(name):
    notes.note(name, os.getpid())
    while not (notes.FOLDER / f"go-{name}").exists():
        time.sleep(0.005)

if __name__ == "__main__":
    pool = localq.pool(processes=2, start_method=os.environ["LAB_START_METHOD"], shutdown_timeout=TIMEOUT)
"""


def start(lab: Lab, body: str, *, timeout: int = 300, before: str = "") -> Program:
    """Start a script with a pool of two, both of which hold on to a message while five wait."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    script = lab.start_script(before + SCRIPT.replace("TIMEOUT", str(timeout)) + lines)
    lab.wait_for_notes("up")
    for name in ("a", "b"):
        lab.send("hold", name)
        lab.held(name)
    lab.send_many("mail", range(5))
    return script


def assert_that_nothing_is_left_or_lost(lab: Lab) -> None:
    lab.wait_until_empty()
    lab.reap()  # as the next start does
    assert lab.states() == {WAITING: 7}
    assert all(record.crashes == record.attempts == 0 for record in lab.records())
    assert lab.notes("mail") == []
    lab.release("a", "b")
    second = lab.start_pool("tasks", "-p", "2")
    lab.wait_until_done()
    assert sorted(lab.notes("mail")) == [f"mail {number}" for number in range(5)]
    assert lab.is_intact()
    second.stop()


IN_A_BLOCK = """
with pool:
    wait("up")
    {end}
"""


def test_a_script_that_is_killed(lab: Lab) -> None:
    script = start(lab, IN_A_BLOCK.format(end=""), timeout=600_000)
    script.kill()
    assert_that_nothing_is_left_or_lost(lab)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os._exit(7)", 7),
        ("raise RuntimeError('no more')", 1),
        ("sys.exit(5)", 5),
        ("os.kill(os.getpid(), 15)", -15),
        ("os.abort()", -6),
    ],
    ids=["_exit", "exception", "exit", "SIGTERM", "abort"],
)
def test_a_script_that_ends_in_the_block(lab: Lab, end: str, code: int) -> None:
    script = start(lab, IN_A_BLOCK.format(end=end))
    (lab.folder / "go-up").touch()
    assert script.wait(10) == code
    assert_that_nothing_is_left_or_lost(lab)


def test_a_script_that_never_stops_its_pool(lab: Lab) -> None:
    script = start(lab, "pool.start()\nwait('up')", timeout=600_000)
    (lab.folder / "go-up").touch()
    assert script.wait(10) == 0
    assert_that_nothing_is_left_or_lost(lab)


@pytest.mark.parametrize("to", ["script", "group"])
def test_a_script_that_is_interrupted(lab: Lab, to: str) -> None:
    script = start(lab, IN_A_BLOCK.format(end=""))
    script.signal(signal.SIGINT) if to == "script" else os.killpg(script.pid, signal.SIGINT)
    assert script.wait(10) == -signal.SIGINT
    assert "KeyboardInterrupt" in script.log()
    assert_that_nothing_is_left_or_lost(lab)


def test_a_script_that_is_interrupted_while_it_waits_for_a_result(lab: Lab) -> None:
    body = """
with pool:
    notes.note("up")
    mail.message(9).get_result(block=True, timeout=600_000)
"""
    script = start(lab, body)
    script.signal(signal.SIGINT)
    assert script.wait(10) == -signal.SIGINT
    assert "get_result" in script.log()
    assert_that_nothing_is_left_or_lost(lab)


def test_a_second_interrupt_does_not_wait_for_running_messages(lab: Lab) -> None:
    script = start(lab, IN_A_BLOCK.format(end=""), timeout=600_000)
    script.signal(signal.SIGINT)
    script.wait_for_log("waits for running messages")  # as leaving the block always does
    assert lab.states() == {RUNNING: 2, WAITING: 5}
    script.signal(signal.SIGINT)
    assert script.wait(10) == -signal.SIGINT
    assert_that_nothing_is_left_or_lost(lab)


SLOW_SCRIPT = """
import localq, notes

if __name__ == "__main__":
    with localq.pool(processes=2, start_method="spawn"):
        notes.note("up")
else:
    notes.hold("import")
"""


@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_script_that_ends_while_the_pool_starts(lab: Lab, order: signal.Signals) -> None:
    script = lab.start_script(SLOW_SCRIPT)
    lab.held("import")
    script.signal(order)
    assert script.wait(10) == -order
    lab.wait_until_empty()
    assert lab.notes("up") == []


def test_a_child_of_the_script_that_lives_on_does_not_keep_the_pool(lab: Lab) -> None:
    # It inherits the script's end of the supervisor's pipe.
    body = """
with pool:
    if not os.fork():
        notes.note("child", os.getpid())
        time.sleep(600)
        os._exit(0)
    wait("up")
"""
    script = start(lab, body, timeout=600_000)
    child = int(lab.wait_for_notes("child")[0][1])
    script.kill()
    wait_until(lambda: lab.processes().keys() == {child}, seconds=10)
    lab.kill(child)
    assert_that_nothing_is_left_or_lost(lab)


def test_a_child_that_leaves_the_block_does_not_stop_the_pool_of_its_parent(lab: Lab) -> None:
    script = lab.start_script(
        """
        import os, sys
        import localq
        from tasks import add

        if __name__ == "__main__":
            with localq.pool(processes=1, start_method=os.environ["LAB_START_METHOD"]) as pool:
                child = os.fork()
                if not child:
                    sys.exit(3)
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
                print(add.send(1, 2).get_result(block=True, timeout=10_000), pool.is_running, flush=True)
        """
    )
    assert script.wait(20) == 0, script.log()
    assert script.out() == "3\n3 True\n"
    lab.wait_until_empty()


def test_a_supervisor_that_is_killed_ends_its_workers_and_stopping_still_works(lab: Lab) -> None:
    body = """
with pool:
    wait("up")
print(pool.is_running)
"""
    script = start(lab, body)
    (supervisor,) = _children(script.pid)
    lab.kill(supervisor)
    wait_until(lambda: lab.processes().keys() == {script.pid}, seconds=10)
    (lab.folder / "go-up").touch()
    assert script.wait(10) == 0, script.log()
    assert script.out() == "False\n"
    assert_that_nothing_is_left_or_lost(lab)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def test_programs_that_messages_started_end_with_a_killed_script(lab: Lab) -> None:
    script = lab.start_script(
        """
        import os, time
        import localq
        import crashes, notes

        if __name__ == "__main__":
            with localq.pool(processes=1, start_method=os.environ["LAB_START_METHOD"]):
                crashes.leave_a_program_running.send("x")
                time.sleep(600)
        """
    )
    lab.held("x")
    script.kill()
    lab.wait_until_empty()


def test_a_script_that_is_ended_by_a_signal_handler_that_exits(lab: Lab) -> None:
    before = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
    script = start(lab, IN_A_BLOCK.format(end=""), before=before)
    script.signal(signal.SIGTERM)
    assert script.wait(10) == 9
    assert_that_nothing_is_left_or_lost(lab)
