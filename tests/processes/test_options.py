"""What the options of ``localq worker`` do."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from .support import CLOSES, Lab, Program, both_start_methods, wait_until

COUNTS_IMPORTS = """
    import os
    import localq, notes

    notes.note("imported", os.getpid())

    @localq.actor
    def who():
        return os.getpid()
"""


@both_start_methods
def test_processes_are_as_many_as_asked_for_each_in_a_session_of_its_own(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "3")
    workers = lab.workers()
    assert len(workers) == 3
    assert {os.getsid(pid) for pid in workers} == workers
    pool.stop()


def test_without_a_number_there_is_one_process_a_core(lab: Lab) -> None:
    pool = lab.start_pool("tasks")
    assert len(lab.workers()) == len(os.sched_getaffinity(0))
    pool.stop()


@both_start_methods
def test_threads_of_one_process_run_messages_at_the_same_time(lab: Lab) -> None:
    messages = [lab.send("hold", name) for name in ("a", "b", "c")]
    pool = lab.start_pool("tasks", "-p", "1", "-t", "3")
    assert len({lab.held(name) for name in ("a", "b", "c")}) == 1
    lab.release("a", "b", "c")
    assert [lab.result(message) for message in messages] == ["a", "b", "c"]
    pool.stop()


def test_a_queue_that_no_actor_belongs_to_is_named_once_with_those_that_there_are(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "-Q", "mial", "other")
    pool.wait_for_log("No actor here belongs to the queue 'mial', but to: 'default', 'mail', 'other'.")
    pool.stop()
    assert pool.log().count("No actor here") == 1


def test_the_log_says_once_where_the_messages_are_and_why_there(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2")
    pool.wait_for_log(f"Messages are in {lab.file}: the environment variable LOCALQ_URL is set.")
    pool.stop()
    assert pool.log().count("Messages are in") == 1


@both_start_methods
@pytest.mark.parametrize(
    "option",
    [["-Q", "mail", "-Q", "default"], ["-Q", "mail,default"], ["-Q", "mail", "default"]],
    ids=["twice", "comma", "words"],
)
def test_only_the_named_queues_are_served(lab: Lab, option: list[str]) -> None:
    left = lab.send("other", 1, queue="other")
    pool = lab.start_pool("tasks", "-p", "1", *option)
    lab.result(lab.send("mail_too", 2, queue="mail"))
    lab.result(lab.send("mail", 3))
    assert lab.notes("mail") == ["mail 2", "mail 3"]
    assert lab.record(left).attempts == 0
    pool.stop()


def test_the_path_says_where_modules_are_found(lab: Lab) -> None:
    for folder in ("here", "there"):
        (lab.folder / folder).mkdir()
        lab.write(
            f"{folder}/of_{folder}.py", f"import localq\n\n@localq.actor\ndef {folder}():\n    return {folder!r}\n"
        )
    lab.write("there/of_here.py", "1 / 0\n")  # the first folder wins
    assert lab.start("of_here", "-p", "1").wait() == 2
    pool = lab.start_pool("of_here", "of_there", "-p", "1", "--path", "here", "--path", "there")
    assert lab.result(lab.send("here")) == "here"
    assert lab.result(lab.send("there")) == "there"
    pool.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ["of_here", "of_there", "-p", "1", "-P", "here", "there"],
        ["-P", "here", "--path", "there", "-p", "1", "of_here", "of_there"],
        ["-P", "here", "of_here", "-P", "there", "-p", "1", "--", "of_there"],
        ["of_here", "--path=here", "of_there", "--path", "there", "-p", "1"],
    ],
    ids=" ".join,
)
def test_options_that_take_several_words_take_none_before_the_module_and_all_behind_it(
    lab: Lab, arguments: list[str]
) -> None:
    for folder in ("here", "there"):
        (lab.folder / folder).mkdir()
        lab.write(
            f"{folder}/of_{folder}.py", f"import localq\n\n@localq.actor\ndef {folder}():\n    return {folder!r}\n"
        )
    pool = lab.start_pool(*arguments)
    assert [lab.result(lab.send(name)) for name in ("here", "there")] == ["here", "there"]
    pool.stop()


@pytest.mark.parametrize("option", ["--use-spawn", "--start-method=spawn"])
def test_processes_may_be_fresh_ones(lab: Lab, option: str) -> None:
    pool = lab.start_pool("tasks", "-p", "2", option)
    commands = [command for pid, command in lab.processes().items() if pid != pool.pid]
    assert len(commands) == 2
    assert all("localq.processes" in command for command in commands)
    assert lab.result(lab.send("who")) in lab.workers()
    pool.stop()


def test_the_application_is_imported_in_every_worker_process(lab: Lab) -> None:
    lab.write("counts.py", COUNTS_IMPORTS)
    pool = lab.start_pool("counts", "-p", "2")
    assert {int(note.split()[1]) for note in lab.notes("imported")} == lab.workers()
    pool.stop()


def test_preload_imports_it_once_in_the_supervisor(lab: Lab) -> None:
    lab.write("counts.py", COUNTS_IMPORTS)
    pool = lab.start_pool("counts", "-p", "2", "--preload")
    assert lab.result(lab.send("who")) in lab.workers()
    (victim, _) = lab.workers()
    lab.kill(victim)
    lab.wait_for_workers(2, without=[victim])
    assert lab.notes("imported") == [f"imported {pool.pid}"]
    assert lab.result(lab.send("who")) in lab.workers()
    pool.stop()


# -- the PID file


def test_the_pid_file_holds_the_main_process_while_it_runs(lab: Lab) -> None:
    file = lab.folder / "pool.pid"
    pool = lab.start_pool("tasks", "-p", "1", "--pid-file", "pool.pid")
    assert int(file.read_text()) == pool.pid
    pool.stop()
    assert not file.exists()


def test_a_hang_up_leaves_the_pid_file_and_the_main_process_as_they_are(lab: Lab) -> None:
    file = lab.folder / "pool.pid"
    pool = lab.start_pool("tasks", "-p", "1", "--pid-file", "pool.pid")
    before = lab.workers()
    pool.signal(signal.SIGHUP)
    lab.wait_for_workers(1, without=before)
    assert int(file.read_text()) == pool.pid
    pool.stop()
    assert not file.exists()


def test_a_stale_pid_file_is_replaced(lab: Lab) -> None:
    file = lab.folder / "pool.pid"
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    file.write_text(str(ended.pid))
    pool = lab.start_pool("tasks", "-p", "1", "--pid-file", "pool.pid")
    assert int(file.read_text()) == pool.pid
    pool.stop()


@pytest.mark.parametrize("content", ["not a number", "", "12 34", "\N{GRINNING FACE}"])
def test_a_pid_file_of_something_else_exits_4_and_stays(lab: Lab, content: str) -> None:
    (file := lab.folder / "pool.pid").write_text(content, "utf-8")
    run = lab.localq("tasks", "-p", "1", "--pid-file", "pool.pid")
    assert run.returncode == 4
    assert "pool.pid" in run.stderr
    assert file.read_text("utf-8") == content


def test_a_pid_file_of_a_pool_that_runs_exits_4_and_leaves_it_alone(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1", "--pid-file", "pool.pid")
    run = lab.localq("tasks", "-p", "1", "--pid-file", "pool.pid")
    assert run.returncode == 4
    assert str(pool.pid) in run.stderr
    assert int((lab.folder / "pool.pid").read_text()) == pool.pid
    assert lab.result(lab.send("add", 1, 2)) == 3
    pool.stop()


def test_a_pid_file_that_cannot_be_written_exits_4(lab: Lab) -> None:
    run = lab.localq("tasks", "-p", "1", "--pid-file", "nosuch/pool.pid")
    assert run.returncode == 4
    assert "nosuch/pool.pid" in run.stderr


def test_a_pool_that_cannot_start_leaves_no_pid_file(lab: Lab) -> None:
    assert lab.localq("nosuch", "-p", "1", "--pid-file", "pool.pid").returncode == 2
    assert not (lab.folder / "pool.pid").exists()


# -- logging


@both_start_methods
def test_the_log_goes_to_the_standard_error_stream_with_the_process_of_each_line(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    (worker,) = lab.workers()
    lab.failure(lab.send("fail", "out of milk"))
    pool.stop()
    assert f"[PID {pool.pid}]" in pool.log()
    assert f"[PID {worker}]" in pool.log()
    assert "ValueError: out of milk" in pool.log()
    assert pool.out() == ""


@both_start_methods
def test_a_log_file_takes_its_place(lab: Lab) -> None:
    pool = lab.start("tasks", "-p", "1", "--log-file", "pool.log")
    lab.failure(lab.send("fail", "out of milk"))
    pool.stop()
    log = (lab.folder / "pool.log").read_text("utf-8")
    assert "worker processes is up" in log
    assert "ValueError: out of milk" in log
    assert pool.log() == ""


def test_a_log_file_that_cannot_be_written_is_described_and_exits_2(lab: Lab) -> None:
    run = lab.localq("tasks", "-p", "1", "--log-file", "nosuch/pool.log")
    assert run.returncode == 2
    assert "nosuch/pool.log" in run.stderr
    assert "Traceback" not in run.stderr


@both_start_methods
def test_skip_logging_leaves_logging_to_the_application(lab: Lab) -> None:
    lab.write(
        "logs.py",
        """
        import logging, sys
        import localq
        logging.basicConfig(level=logging.INFO, format="MINE %(message)s", stream=sys.stdout)

        @localq.actor
        def log(text):
            logging.getLogger("app").info(text)
        """,
    )
    pool = lab.start("logs", "-p", "1", "--skip-logging")
    lab.result(lab.send("log", "good morning"))
    pool.stop()
    assert "MINE good morning" in pool.out()
    assert "MINE Worker process is ready for action." in pool.out()
    assert "[PID" not in pool.log() + pool.out()


def test_verbose_logs_more(lab: Lab) -> None:
    assert "[DEBUG]" in _log_of(lab, "-v")
    assert "[DEBUG]" not in _log_of(lab)


def _log_of(lab: Lab, *options: str) -> str:
    pool: Program = lab.start_pool("tasks", "-p", "1", *options)
    lab.result(lab.send("add", 1, 2))
    pool.stop()
    wait_until(lambda: not lab.processes())
    return pool.log()


@both_start_methods
@pytest.mark.parametrize("closed", ["[0]", "[0, 1, 2]"])
def test_it_needs_no_standard_streams(lab: Lab, closed: str) -> None:
    message = lab.send("add", 1, 2)
    lab.write("closes.py", CLOSES.replace("CLOSED", closed))
    options = ["tasks", "-p", "2", "--log-file", "pool.log", "--start-method", lab.start_method or ""]
    pool = lab.start_python("closes.py", "-m", "localq", *options)
    assert lab.result(message) == 3
    lab.wait_for_workers(2)
    pool.stop()
