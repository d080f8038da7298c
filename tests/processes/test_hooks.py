"""The hooks of a middleware in the processes of a pool."""

from __future__ import annotations

import pytest

from .support import Lab, both_start_methods

BOOT = ["before_worker_boot", "after_worker_boot", "after_consumer_thread_boot", "after_worker_thread_boot"]
MESSAGE = ["before_process_message", "after_process_message", "before_ack", "after_ack"]
SHUTDOWN = [
    "before_worker_shutdown",
    "before_consumer_thread_shutdown",
    "before_worker_thread_shutdown",
    "after_worker_shutdown",
]


def hooks_of(lab: Lab, process: int) -> list[str]:
    notes = [note.split() for note in lab.notes("hook")]
    return [hook for _, hook, pid in notes if int(pid) == process]


@both_start_methods
@pytest.mark.parametrize("threads", [1, 2])
def test_each_process_calls_them_in_the_order_of_its_life(lab: Lab, threads: int) -> None:
    pool = lab.start_pool("hooked", "-p", "2", "-t", str(threads))
    workers = lab.workers()
    worker = lab.result(lab.send("who"))
    pool.stop()
    for process in workers:
        hooks = hooks_of(lab, process)
        boot, message, shutdown = ([hook for hook in hooks if hook in some] for some in (BOOT, MESSAGE, SHUTDOWN))
        assert hooks[:2] == ["after_process_boot", BOOT[0]]
        assert sorted(boot) == sorted([*BOOT[:2], *BOOT[2:] * threads])
        assert message == (MESSAGE if process == worker else [])
        assert (shutdown[0], hooks[-1]) == (SHUTDOWN[0], SHUTDOWN[-1])
        assert sorted(shutdown[1:-1]) == sorted(SHUTDOWN[1:3] * threads)
        assert len(hooks) == 1 + len(boot) + len(message) + len(shutdown)


@pytest.mark.parametrize("hook", ["after_process_boot", *BOOT, *MESSAGE, *SHUTDOWN])
@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
def test_one_that_raises_is_logged_and_the_pool_works_and_stops(lab: Lab, hook: str, error: str) -> None:
    pool = lab.start_pool("hooked", "-p", "1", HOOK=hook, ERROR=error)
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()
    assert f"Unexpected failure in {hook}" in pool.log()
    assert f"{error}: of the hook" in pool.log()
    assert lab.states() == {}


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("hook", ["after_process_boot", *BOOT[1:], *MESSAGE[1:], *SHUTDOWN])
def test_one_that_has_nothing_to_refuse_may_not_raise_a_middleware_error_either(
    lab: Lab, hook: str, threads: str
) -> None:
    pool = lab.start_pool("hooked", "-p", "1", "-t", threads, HOOK=hook, ERROR="SkipMessage")
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()
    assert f"Unexpected failure in {hook}" in pool.log()
    assert lab.states() == {}


@both_start_methods
def test_one_may_refuse_that_a_worker_boots_which_is_described(lab: Lab) -> None:
    pool = lab.start("hooked", "-p", "1", HOOK="before_worker_boot", ERROR="SkipMessage")
    assert pool.wait() > 0
    assert "The pool cannot start: of the hook" in pool.log()
