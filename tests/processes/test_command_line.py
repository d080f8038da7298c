"""``python -m localq MODULE``: how the application is found, and what is said when it is not."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .support import Lab, both_start_methods

NAMED_BROKERS = """
    import os, types
    import localq
    from localq.brokers import SQLiteBroker
    from localq.middleware import default_middleware
    from localq.results import Results

    broker = SQLiteBroker("named.db", [*(make() for make in default_middleware), Results(store_results=True)])
    holder = types.SimpleNamespace(inner=types.SimpleNamespace(broker=broker))

    @localq.actor(broker=broker)
    def double(x):
        return 2 * x

    @localq.actor
    def triple(x):
        return 3 * x

    def set_up():
        localq.connect("sqlite:///named.db")

    number = 42
"""


@pytest.fixture
def named(lab: Lab) -> Lab:
    """A lab whose module `named` has brokers of its own, at another file than LOCALQ_URL says."""
    lab.write("named.py", NAMED_BROKERS)
    return lab


@pytest.mark.parametrize("prefix", [[], ["worker"]], ids=["", "worker"])
def test_a_module_runs_the_messages_of_its_actors(lab: Lab, prefix: list[str]) -> None:
    message = lab.send("add", 1, 2)
    pool = lab.start_pool(*prefix, "tasks", "-p", "1")
    assert lab.result(message) == 3
    pool.stop()


@pytest.mark.parametrize("attribute", ["broker", "holder.inner.broker"])
def test_a_module_and_an_attribute_run_the_messages_of_that_broker(named: Lab, attribute: str) -> None:
    broker = named.broker_of(named.folder / "named.db")
    message = broker.enqueue(named.message("double", 4))
    pool = named.start_pool(f"named:{attribute}", "-p", "1")
    assert named.result(message, broker=broker) == 8
    pool.stop()


def test_a_function_is_called_and_sets_the_global_broker(named: Lab) -> None:
    broker = named.broker_of(named.folder / "named.db")
    message = broker.enqueue(named.message("triple", 4))
    pool = named.start_pool("named:set_up", "-p", "1")
    assert named.result(message, broker=broker) == 12
    pool.stop()


def test_further_modules_are_imported_too(lab: Lab) -> None:
    lab.write("further.py", "import localq\n\n@localq.actor\ndef further():\n    return 'yes'\n")
    pool = lab.start_pool("tasks", "further", "-p", "1")
    assert lab.result(lab.send("further")) == "yes"
    pool.stop()


def test_a_module_that_declares_no_actor_is_named_once(lab: Lab) -> None:
    pool = lab.start_pool("json", "-p", "2")
    pool.wait_for_log("No actor is declared by 'json'")
    pool.stop()
    assert pool.log().count("No actor is declared") == 1


def test_a_subcommand_wins_over_a_module_of_its_name(lab: Lab) -> None:
    lab.write("status.py", "import localq\n\n@localq.actor\ndef actor_of_status():\n    return 'module'\n")
    assert lab.localq("status").stdout.startswith("queue")
    pool = lab.start_pool("worker", "status", "-p", "1")
    assert lab.result(lab.send("actor_of_status")) == "module"
    pool.stop()


@pytest.mark.parametrize("file", ["worker.py", "worker/__init__.py"])
def test_a_module_named_worker_needs_no_second_word(lab: Lab, file: str) -> None:
    (lab.folder / "worker").mkdir()
    lab.write(file, "import localq\n\n@localq.actor\ndef of_worker():\n    return 'module'\n")
    pool = lab.start_pool("worker", "-p", "1")
    assert lab.result(lab.send("of_worker")) == "module"
    pool.stop()


def test_without_arguments_it_tells_how_it_is_used(lab: Lab) -> None:
    run = lab.localq()
    assert "localq MODULE[:BROKER]" in run.stdout + run.stderr
    for command in ("dead", "info", "status", "worker"):
        assert command in run.stdout + run.stderr


# -- what is wrong with the application


@both_start_methods
@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("nosuch", ["nosuch", "ModuleNotFoundError"]),
        ("named:nosuch", ["'named'", "'nosuch'"]),
        ("named:holder.nosuch", ["'named'", "'holder.nosuch'"]),
        ("named:number", ["'named:number' is not a Broker"]),
        ("raises", ["'raises'", "ZeroDivisionError", "division by zero", "raises.py", "line 3"]),
        ("imports_in_vain", ["imports_in_vain", "No module named 'nosuch'"]),
        ("no_python", ["no_python", "SyntaxError"]),
        ("leaves", ["'leaves'", "SystemExit"]),
        ("named nosuch", ["nosuch", "ModuleNotFoundError"]),
    ],
)
def test_an_application_that_cannot_be_used_is_described_and_exits_2(named: Lab, app: str, said: list[str]) -> None:
    named.write("raises.py", "\n\n1 / 0\n")
    named.write("imports_in_vain.py", "import nosuch\n")
    named.write("no_python.py", "def (:\n")
    named.write("leaves.py", "raise SystemExit(0)\n")
    program = named.start(*app.split(), "-p", "2")
    assert program.wait() == 2
    for text in said:
        assert text in program.log()
    assert program.log().count("The pool cannot start") == 1
    named.wait_until_empty()


@both_start_methods
@pytest.mark.parametrize(
    ("app", "remedy"),
    [
        ("nosuch", "name another folder with --path"),
        ("json.nosuch", "name another folder with --path"),
        ("named.py", "without .py"),
        ("./named.py", "without .py"),
        ("named nosuch", "name another folder with --path"),
    ],
)
def test_a_module_that_is_not_there_is_told_in_one_line_with_the_remedy(named: Lab, app: str, remedy: str) -> None:
    program = named.start(*app.split(), "-p", "1")
    assert program.wait() == 2
    (line,) = [line for line in program.log().splitlines() if "The pool cannot start" in line]
    assert remedy in line
    assert "Traceback" not in program.log()


@both_start_methods
def test_the_traceback_of_a_module_begins_in_that_module(lab: Lab) -> None:
    lab.write("raises.py", "import json\n\njson.loads('')\n")
    program = lab.start("raises", "-p", "1")
    assert program.wait() == 2
    frames = [line for line in program.log().splitlines() if line.startswith('  File "')]
    assert "raises.py" in frames[0]
    assert "decoder.py" in frames[-1]


def test_a_function_that_raises_is_described_and_exits_2(lab: Lab) -> None:
    lab.write("sets_up.py", "def set_up():\n    raise OSError('no such luck')\n")
    program = lab.start("sets_up:set_up", "-p", "1")
    assert program.wait() == 2
    assert "OSError: no such luck" in program.log()


def test_a_broken_module_exits_2_with_preload_too(lab: Lab) -> None:
    lab.write("raises.py", "1 / 0\n")
    program = lab.start("raises", "-p", "2", "--preload")
    assert program.wait() == 2
    assert "ZeroDivisionError" in program.log()


@both_start_methods
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_stub_broker_is_served_by_each_process_for_itself(lab: Lab, threads: str) -> None:
    lab.write(
        "private.py",
        """
        import localq, notes
        from localq.brokers.stub import StubBroker

        class Sends(localq.Middleware):
            def after_worker_boot(self, broker, worker):
                act.send()

        broker = StubBroker([Sends()])
        localq.set_broker(broker)

        @localq.actor
        def act():
            notes.note("ran")
        """,
    )
    pool = lab.start_pool("private:broker", "-p", "2", "-t", threads)
    lab.wait_for_notes("ran", 2)
    before = lab.processes().keys()
    pool.signal(signal.SIGHUP)
    lab.wait_for_notes("ran", 4)
    assert lab.processes().keys() & before == {pool.pid}
    pool.stop()
    assert pool.log().count("the worker processes run what they send themselves") == 2  # once a start


# -- what is wrong with the store


@both_start_methods
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nosuch/folder/jobs.db", ["/nosuch/folder", "does not exist"]),
        ("sqlite:///no_database", ["no_database", "is not an SQLite database"]),
        ("sqlite:///of_another.db", ["of_another.db", "another program"]),
        ("mysql://jobs", ["'mysql://jobs'", "sqlite:///jobs.db"]),
        ("memory://", ["'memory://'", "sqlite:///jobs.db"]),
    ],
)
def test_a_store_that_cannot_be_used_is_described_and_exits_with_an_error(
    lab: Lab, url: str, said: list[str]
) -> None:
    files = store_of_others(lab.folder)
    program = lab.start("tasks", "-p", "2", LOCALQ_URL=url)
    assert program.wait() == (2 if url == "memory://" else 3)
    for text in said:
        assert text in program.log()
    assert "Traceback" not in program.log()
    assert {file: file.read_bytes() for file in files} == files


def store_of_others(folder: Path) -> dict[Path, bytes]:
    """Two files that are no queues, and what is in them."""
    (folder / "no_database").write_bytes(b"a letter to my mother " * 100)
    with closing(sqlite3.connect(folder / "of_another.db")) as connection:
        connection.execute("CREATE TABLE recipe (name TEXT)")
    return {folder / name: (folder / name).read_bytes() for name in ("no_database", "of_another.db")}


@pytest.mark.parametrize("app", ["connects", "connects:broker"])
def test_a_store_that_the_module_itself_cannot_open_exits_3(lab: Lab, app: str) -> None:
    lab.write("connects.py", "import localq\n\nbroker = localq.connect('sqlite:////nosuch/jobs.db')\n")
    program = lab.start(app, "-p", "1")
    assert program.wait() == 3
    assert "/nosuch" in program.log()
    assert "Traceback" not in program.log()


# -- what is wrong with the options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker"], "MODULE"),
        (["tasks", "-p", "0"], "-p"),
        (["tasks", "-p", "many"], "many"),
        (["tasks", "-t", "0"], "-t"),
        (["tasks", "-Q", "not a queue"], "'not a queue'"),
        (["tasks", "-Q", "mail,"], "''"),
        (["tasks", "--start-method", "thread"], "thread"),
        (["tasks", "--preload", "--start-method", "spawn"], "preload"),
        (["tasks", "--worker-shutdown-timeout", "-1"], "--worker-shutdown-timeout"),
        (["tasks", "--nosuch"], "--nosuch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_are_described_and_exit_2(lab: Lab, arguments: list[str], said: str) -> None:
    run = lab.localq(*arguments)
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("soon", "worker-fork-timeout be a number."),
        ("", "worker-fork-timeout be a number."),
        ("-5", "worker-fork-timeout too small (minimum recommended: 10ms)."),
        ("9", "worker-fork-timeout too small (minimum recommended: 10ms)."),
        ("9.99", "worker-fork-timeout too small (minimum recommended: 10ms)."),
        ("nan", "worker-fork-timeout too small (minimum recommended: 10ms)."),
        ("3_600_000", "worker-fork-timeout too large (maximum: 30 minutes)."),
        ("1800001", "worker-fork-timeout too large (maximum: 30 minutes)."),
        ("inf", "worker-fork-timeout too large (maximum: 30 minutes)."),
    ],
)
def test_a_fork_timeout_is_a_number_in_a_sensible_range(lab: Lab, value: str, said: str) -> None:
    run = lab.localq("tasks", "--worker-fork-timeout", value)
    assert run.returncode == 2
    assert said in run.stderr


@pytest.mark.parametrize("value", ["10", "1_800_000", "1e3"])
def test_a_fork_timeout_in_that_range_is_accepted(lab: Lab, value: str) -> None:
    lab.start_pool("tasks", "-p", "1", "--worker-fork-timeout", value).stop()
