"""`examples/retry_start.sh`: starts localq again while its store cannot be used, and is deaf to no signal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import localq
from localq.brokers import SQLiteBroker

from .frameworks import EXAMPLES, Program, Stage, every_shell, wait_until

SCRIPT = EXAMPLES / "retry_start.sh"

TASKS = """
import os, pathlib, time
import localq

FOLDER = pathlib.Path(os.environ["STAGE"])

@localq.actor
def add(x, y):
    return x + y

@localq.actor
def hold():
    (FOLDER / "held").touch()
    while not (FOLDER / "release").exists():
        time.sleep(0.005)
    (FOLDER / "released").touch()
"""

ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A module ``tasks`` whose store is in a folder that is not there yet."""
    (tmp_path / "tasks.py").write_text(TASKS)
    with Stage(tmp_path) as stage:
        stage.env["STAGE"] = str(tmp_path)
        stage.env["LOCALQ_URL"] = f"sqlite:///{tmp_path}/disk/jobs.db"
        yield stage


@pytest.fixture
def broker(tmp_path: Path, make_disk: Callable[[], None]) -> Iterator[SQLiteBroker]:
    """A broker of this process, at the store that is there then."""
    make_disk()
    broker = SQLiteBroker(tmp_path / "disk" / "jobs.db", [localq.results.Results(store_results=True)])
    yield broker
    broker.close()


@pytest.fixture
def make_disk(tmp_path: Path) -> Callable[[], None]:
    return (tmp_path / "disk").mkdir


def send(broker: SQLiteBroker, actor: str, *args: Any) -> localq.Message[Any]:
    return broker.enqueue(localq.Message("default", actor, args, {}, {}))


def start(stage: Stage, shell: str, *arguments: str) -> Program:
    return stage.start(shell, SCRIPT, *(arguments or ("tasks", "-p", "1")))


@every_shell
def test_it_starts_localq_again_with_a_growing_delay_until_the_store_can_be_used(
    stage: Stage, shell: str, request: pytest.FixtureRequest
) -> None:
    script = start(stage, shell)
    script.wait_for_log("started again in 1 s")
    script.wait_for_log("started again in 2 s")
    assert script.log().count("does not exist; make it") == 2
    broker = request.getfixturevalue("broker")
    message = send(broker, "add", 1, 2)
    assert message.get_result(backend=broker.get_results_backend(), block=True, timeout=30_000) == 3
    script.stop()
    assert script.log().count("started again") == 2


@every_shell
def test_a_termination_lets_the_running_message_end_and_passes_the_status_on(
    stage: Stage, shell: str, broker: SQLiteBroker
) -> None:
    script = start(stage, shell).wait_until_up()
    send(broker, "hold")
    wait_until((stage.folder / "held").exists)
    script.signal(signal.SIGTERM)
    script.wait_for_log("Stopping on SIGTERM")
    (stage.folder / "release").touch()
    assert script.wait() == 0
    assert (stage.folder / "released").exists()
    assert "for the second time" not in script.log()


@every_shell
def test_a_second_termination_reaches_localq_too(stage: Stage, shell: str, broker: SQLiteBroker) -> None:
    script = start(stage, shell).wait_until_up()
    send(broker, "hold")
    wait_until((stage.folder / "held").exists)
    script.signal(signal.SIGTERM)
    script.wait_for_log("Stopping on SIGTERM")
    script.signal(signal.SIGTERM)
    assert script.wait() == 1
    assert "for the second time" in script.log()


@every_shell
def test_an_interrupt_reaches_localq(stage: Stage, shell: str, broker: SQLiteBroker) -> None:
    script = start(stage, shell).wait_until_up()
    script.signal(signal.SIGINT)
    assert script.wait() == 0
    assert script.log().count("Stopping on") == 1


@every_shell
def test_a_ctrl_c_on_a_terminal_reaches_it_once(stage: Stage, shell: str, broker: SQLiteBroker) -> None:
    send(broker, "hold")
    command = [sys.executable, "-c", ON_A_TERMINAL, shell, str(SCRIPT), "tasks", "-p", "1", "--pid-file", "pid"]
    with (
        open(stage.folder / "terminal", "wb") as terminal,
        subprocess.Popen(
            command, cwd=stage.folder, env=stage.env, stdin=subprocess.PIPE, stdout=terminal
        ) as script,
    ):
        try:
            wait_until((stage.folder / "held").exists)
            assert script.stdin is not None
            script.stdin.write(b"\x03")
            script.stdin.flush()
            shown = stage.folder / "terminal"
            wait_until(lambda: b"Stopping on SIGTERM" in shown.read_bytes(), why="it stops")
            (stage.folder / "release").touch()
            assert script.wait(30) == 0
        finally:
            script.kill()
            if (pid := stage.folder / "pid").exists():  # it goes on without the script
                os.kill(int(pid.read_text()), signal.SIGKILL)
    assert (stage.folder / "released").exists()
    assert b"for the second time" not in shown.read_bytes()


@every_shell
def test_a_hang_up_replaces_the_workers(stage: Stage, shell: str, broker: SQLiteBroker) -> None:
    script = start(stage, shell).wait_until_up()
    script.signal(signal.SIGHUP)
    script.wait_for_log("Worker process is ready", times=2)
    script.stop()


@pytest.fixture
def endless_pauses(stage: Stage) -> None:
    """``sleep`` says so and sleeps for ever, whatever it is told."""
    sleep = shutil.which("sleep")
    folder = stage.folder / "bin"
    folder.mkdir()
    # The first, short one: the script must have come to waiting for it.
    (folder / "sleep").write_text(f"#!/bin/sh\n{sleep} 0.2\necho sleeping >&2\nexec {sleep} 1000\n")
    (folder / "sleep").chmod(0o755)
    stage.env["PATH"] = f"{folder}{os.pathsep}{stage.env['PATH']}"


@every_shell
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.usefixtures("endless_pauses")
def test_a_signal_to_stop_ends_a_pause(stage: Stage, shell: str, number: int) -> None:
    script = start(stage, shell)
    script.wait_for_log("sleeping")
    script.signal(number)
    assert script.wait() == 0
    assert script.log().count("The pool cannot start") == 1


@every_shell
@pytest.mark.usefixtures("endless_pauses")
def test_a_hang_up_in_a_pause_has_it_try_now(stage: Stage, shell: str, make_disk: Callable[[], None]) -> None:
    script = start(stage, shell)
    script.wait_for_log("sleeping")
    make_disk()
    script.signal(signal.SIGHUP)
    script.wait_until_up()
    script.stop()


@every_shell
@pytest.mark.parametrize(
    ("arguments", "status"), [(["nosuch"], 2), (["tasks", "--nosuch"], 2), (["tasks", "--pid-file", "pid"], 4)]
)
def test_any_other_status_is_passed_on(stage: Stage, shell: str, arguments: list[str], status: int) -> None:
    (stage.folder / "pid").write_text("no number")
    script = start(stage, shell, *arguments)
    assert script.wait() == status
    assert "started again" not in script.log()


@every_shell
def test_a_localq_that_is_not_there_is_no_reason_to_go_on(stage: Stage, shell: str, tmp_path: Path) -> None:
    stage.env["PATH"] = os.defpath
    assert start(stage, shell).wait() == 127


@every_shell
def test_words_with_spaces_stay_whole(stage: Stage, shell: str) -> None:
    script = start(stage, shell, "tasks", "-Q", "not a queue")
    assert script.wait() == 2
    assert "'not a queue'" in script.log()


def test_it_can_be_executed() -> None:
    assert os.access(SCRIPT, os.X_OK)
