"""Functions that a pool runs beside its workers, each in a process of its own."""

from __future__ import annotations

import os
import signal

import pytest

from .scripts import guarded, run
from .support import Lab, both_start_methods, wait_until

by_flag = {"FORKS": ""}
by_middleware = {"FORKS": "serve"}


def serving(lab: Lab, times: int = 1) -> int:
    """The process of the fork function that has been started so often."""
    return int(lab.wait_for_notes("serves", times)[-1][1])


@both_start_methods
@pytest.mark.parametrize("flag", ["-f", "--fork", "--fork-function"])
def test_a_named_function_runs_in_a_process_of_its_own_and_ends_with_the_pool(lab: Lab, flag: str) -> None:
    pool = lab.start_pool("beside", "-p", "2", flag, "beside:serve")
    fork = serving(lab)
    workers = lab.workers()
    assert lab.processes().keys() == {pool.pid, *workers, fork}
    assert fork not in workers
    assert lab.result(lab.send("who")) in workers
    pool.stop()
    assert lab.notes("leaves") == [f"leaves {fork}"]
    lab.wait_until_empty()


@both_start_methods
def test_middleware_may_have_functions_that_run_once_a_pool(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "2", FORKS="serve serve_too")
    assert serving(lab) not in lab.workers()
    lab.wait_for_notes("serves_too")
    assert len(lab.processes()) == 5
    pool.stop()
    assert len(lab.notes("serves")) == len(lab.notes("serves_too")) == 1


@both_start_methods
def test_those_of_the_command_line_and_of_middleware_run_together(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:serve", "-f", "beside:end", FORKS="serve_too")
    for note in ("serves", "ends", "serves_too"):
        lab.wait_for_notes(note)
    pool.stop()


def test_a_function_may_be_inside_of_something(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:Holder.serve", FORKS="Holder.serve")
    serving(lab, times=2)
    pool.stop()


@pytest.mark.parametrize("env", [by_flag, by_middleware], ids=["flag", "middleware"])
def test_it_starts_when_the_workers_are_ready_and_has_a_session_of_its_own(lab: Lab, env: dict[str, str]) -> None:
    options = [] if env["FORKS"] else ["-f", "beside:serve"]
    pool = lab.start_pool("beside", "-p", "3", *options, **env)
    ((_, process, session, workers),) = lab.wait_for_notes("serves")
    assert process == session
    assert workers == "3"
    pool.stop()


def test_it_does_not_wait_for_a_worker_for_ever(lab: Lab) -> None:
    lab.write("slow.py", "import notes\nimport beside\nnotes.hold('import')\n")
    pool = lab.start("slow", "-p", "1", "-f", "beside:serve", "--worker-fork-timeout", "300")
    serving(lab)
    lab.release("import")
    pool.wait_until_up()
    pool.stop()
    assert len(lab.notes("serves")) == 1


def test_functions_of_middleware_that_become_known_late_are_started_too(lab: Lab) -> None:
    lab.write("slow.py", "import notes\nimport beside\nnotes.hold('import')\n")
    options = ["-f", "beside:serve_too", "--worker-fork-timeout", "100"]
    pool = lab.start("slow", "-p", "1", *options, FORKS="serve")
    lab.wait_for_notes("serves_too")
    lab.release("import")
    serving(lab)
    pool.stop()
    assert len(lab.notes("serves")) == len(lab.notes("serves_too")) == 1


@both_start_methods
@pytest.mark.parametrize("how", ["fail", "leave"])
def test_one_that_fails_is_reported_and_started_again(lab: Lab, how: str) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", f"beside:{how}")
    lab.wait_for_notes("fails", 2)
    assert lab.result(lab.send("who")) in lab.workers()
    pool.stop()
    said = "OSError: no such luck" if how == "fail" else "ended with status 7"
    assert said in pool.log()
    assert f"Fork process 'beside:{how}'" in pool.log()


def test_one_that_is_killed_is_started_again_while_the_workers_go_on(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:serve")
    workers = lab.workers()
    lab.kill(serving(lab))
    serving(lab, times=2)
    assert lab.workers() == workers
    assert "ended with signal 9 (SIGKILL)" in pool.log()
    pool.stop()


def test_one_that_comes_to_its_end_is_not_started_again(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:end")
    pool.wait_for_log("Fork process 'beside:end' has come to its end.")
    lab.result(lab.send("who"))
    pool.stop()
    assert len(lab.notes("ends")) == 1


@both_start_methods
def test_it_ends_with_a_supervisor_that_is_killed(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:serve")
    serving(lab)
    pool.kill()
    lab.wait_until_empty()


def test_one_that_refuses_to_leave_is_killed_after_a_grace_period(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:refuse_to_leave")
    serving(lab)
    pool.stop()
    assert len(lab.notes("refuses")) == 1
    assert "Killing the fork process 'beside:refuse_to_leave'" in pool.log()
    lab.wait_until_empty()


@pytest.mark.parametrize("fork", ["serve", "refuse_to_leave"])
def test_a_hang_up_starts_it_anew_with_its_code(lab: Lab, fork: str) -> None:
    lab.write("edited.py", f"import beside\nfrom beside import {fork} as function\n")
    pool = lab.start_pool("edited", "-p", "2", "-f", "edited:function")
    before, workers = serving(lab), lab.workers()
    lab.write("edited.py", "import beside\nfrom beside import serve_too as function\n")
    pool.signal(signal.SIGHUP)
    lab.wait_for_notes("serves_too")
    assert before not in lab.processes()
    assert lab.wait_for_workers(2, without=workers)
    pool.stop()
    assert len(lab.notes("serves")) == len(lab.notes("serves_too")) == 1


def test_one_that_takes_its_time_to_leave_is_told_once(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:leave_slowly")
    before = serving(lab)
    pool.signal(signal.SIGHUP)
    assert lab.held("leaving") == before
    pool.signal(signal.SIGHUP)
    pool.wait_for_log("Replacing all worker processes", times=2)
    lab.release("leaving")
    assert serving(lab, times=2) != before
    pool.stop()
    assert len(lab.notes("left")) == 2


def test_a_replaced_worker_starts_none_again(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:serve", FORKS="serve_too")
    serving(lab), lab.wait_for_notes("serves_too")
    (worker,) = lab.workers()
    lab.kill(worker)
    lab.wait_for_workers(1, without=[worker])
    lab.result(lab.send("who"))
    pool.stop()
    assert len(lab.notes("serves")) == len(lab.notes("serves_too")) == 1


SCRIPT = """
import os, sys, time
import localq
import notes

METHOD = os.environ["LAB_START_METHOD"]

def beside():
    notes.note("beside", os.getpid())
    notes.hold("serve")

class Beside(localq.Middleware):
    @property
    def forks(self):
        return [beside]

localq.get_broker().add_middleware(Beside())

@localq.actor
def double(x):
    return 2 * x
"""


@both_start_methods
def test_a_pool_of_a_script_runs_those_of_its_middleware_too(lab: Lab) -> None:
    run(
        lab,
        """
        with localq.pool(processes=1, start_method=METHOD):
            assert double.send(1).get_result(block=True, timeout=30_000) == 2
            while not (notes.FOLDER / "seen").exists():
                time.sleep(0.01)
        """,
        beginning=SCRIPT.replace('notes.hold("serve")', '(notes.FOLDER / "seen").touch(); notes.hold("serve")'),
    )
    assert len(lab.notes("beside")) == 1


@both_start_methods
def test_it_ends_with_a_script_that_is_killed(lab: Lab) -> None:
    script = lab.start_script(
        guarded("with localq.pool(processes=1, start_method=METHOD): time.sleep(300)", beginning=SCRIPT)
    )
    lab.wait_for_notes("beside")
    script.kill()
    lab.wait_until_empty()


# -- what is wrong


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("beside", ["module:function", "'beside'"]),
        ("beside:", ["module:function", "'beside:'"]),
        ("nosuch:serve", ["'nosuch:serve'", "ModuleNotFoundError"]),
        ("beside:nosuch", ["Module 'beside' does not define a 'nosuch' variable."]),
        ("beside:number", ["'beside:number' cannot be called", "42"]),
    ],
)
def test_a_function_that_cannot_be_used_is_described_and_exits_2(lab: Lab, name: str, said: list[str]) -> None:
    program = lab.start("beside", "-p", "2", "--fork-function", name)
    assert program.wait() == 2
    for text in said:
        assert text in program.log()
    lab.wait_until_empty()


@pytest.mark.parametrize("kind", ["method", "lambda"])
def test_a_fork_of_middleware_that_no_other_process_can_find_is_described_and_exits_2(lab: Lab, kind: str) -> None:
    program = lab.start("beside", "-p", "1", FORKS=kind)
    assert program.wait() == 2
    assert "function at the top level of a module" in program.log()


def test_middleware_that_cannot_tell_its_forks_is_logged_and_the_pool_runs(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:serve", FORKS="raise")
    serving(lab)
    assert "OSError: no forks today" in pool.log()
    assert lab.result(lab.send("who")) in lab.workers()
    pool.stop()


def test_a_pool_waits_for_no_fork_when_it_is_told_to_stop_while_it_starts(lab: Lab) -> None:
    lab.write("slow.py", "import notes\nimport beside\nnotes.hold('import')\n")
    pool = lab.start("slow", "-p", "1", "-f", "beside:serve", "--worker-fork-timeout", "60000")
    lab.held("import")
    pool.signal(signal.SIGTERM)
    pool.wait_for_log("Stopping on SIGTERM")
    lab.release("import")
    assert pool.wait() == 0
    assert lab.notes("serves") == []


@both_start_methods
def test_it_goes_on_while_a_thread_of_it_does(lab: Lab) -> None:
    pool = lab.start_pool("beside", "-p", "1", "-f", "beside:start_a_thread")
    fork = serving(lab)
    lab.result(lab.send("who"))
    assert fork in lab.processes()
    lab.release("serve")
    pool.wait_for_log("Fork process 'beside:start_a_thread' has come to its end.")
    pool.stop()


def test_its_programs_end_with_it(lab: Lab) -> None:
    lab.write(
        "starts.py",
        """
        import subprocess
        import beside, notes

        def start():
            notes.note("started", subprocess.Popen(["sleep", "300"]).pid)
            beside.serve()
        """,
    )
    pool = lab.start_pool("starts", "-p", "1", "-f", "starts:start")
    ((_, program),) = lab.wait_for_notes("started")
    serving(lab)
    pool.stop()
    wait_until(lambda: not os.path.exists(f"/proc/{program}") or int(program) not in lab.processes())
