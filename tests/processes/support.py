"""What the tests about processes share: a lab of its own for each, with programs that run in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

import localq
from localq.brokers import SQLiteBroker
from localq.middleware import default_middleware
from localq.results import Results
from localq.store.base import DEAD, RUNNING, Record, Selection

T = TypeVar("T")

ROOT = Path(localq.__file__).resolve().parents[1]
APPS = Path(__file__).resolve().parent / "apps"

DIES_WITH_THE_TESTS = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
"""What a program is started by, so that none goes on for ever when the tests themselves are killed."""

DEADLINE = 30
"""Seconds after which a wait has failed: long, since machines that run tests are busy."""

CLOSES = """
import os, sys
for number in CLOSED:
    os.close(number)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""A script that becomes another program, without the descriptors that it closes first."""

both_start_methods = pytest.mark.parametrize("start_method", ["fork", "spawn"], indirect=True)


def wait_until(condition: Callable[[], T], *, seconds: float = DEADLINE, why: str = "") -> T:
    """Wait until the condition gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {seconds} s still not: {why or condition}"
        time.sleep(0.01)
    return found


class Program:
    """A program that a test has started, in a process group of its own, as a shell would."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str], name: str) -> None:
        self.name = name
        self._out, self._log = folder / f"{name}.out", folder / f"{name}.log"
        with open(self._out, "wb") as out, open(self._log, "wb") as log:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def out(self) -> str:
        """What it has printed."""
        return self._out.read_text("utf-8")

    def log(self) -> str:
        """What it and its processes have written to the standard error stream."""
        return self._log.read_text("utf-8")

    def wait_for_log(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= times, why=f"{text!r} in the log of {self.name}")

    def wait_until_up(self) -> Program:
        """Wait until all of its worker processes are ready."""
        wait_until(
            lambda: "worker processes is up" in self.log() or not self.runs(),
            why=f"{self.name} is up",
        )
        assert self.runs(), f"{self.name} ended with {self.wait()}: {self.log()}"
        return self

    def runs(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for its end; returns the code as `subprocess` has it."""
        return self._popen.wait(seconds)

    def stop(self) -> None:
        """Stop it in order, which must succeed."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.log()

    def kill(self) -> None:
        """As ``kill -9`` would."""
        self.signal(signal.SIGKILL)
        self.wait()


class Lab:
    """A folder with a queue in it, programs that run there, and what can be seen of them.

    Parameters:
      folder: an empty one.
      start_method: how the pools that are started here start their processes; None: as they like.
    """

    def __init__(self, folder: Path, start_method: str | None) -> None:
        self.folder = folder
        self.start_method = start_method
        self.file = folder / "jobs.db"
        self.url = f"sqlite:///{self.file}"
        self.programs: list[Program] = []
        self._notes = folder / "notes"
        self._mark = f"LAB={uuid4().hex}".encode()
        self._brokers: dict[Path, SQLiteBroker] = {}
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "LOCALQ_URL": self.url,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)]),
            # Tests edit modules, several times a second: bytecode would be taken for current.
            "PYTHONDONTWRITEBYTECODE": "1",
            "LAB": self._mark.decode().partition("=")[2],
            "LAB_FOLDER": str(folder),
            "LAB_START_METHOD": start_method or "fork",
        }

    # -- programs

    def write(self, name: str, text: str) -> Path:
        """Write a module or a script into the folder, where programs find it."""
        path = self.folder / name
        # In one step: a process may be importing it right now.
        (fresh := path.with_suffix(".fresh")).write_text(textwrap.dedent(text), "utf-8")
        fresh.replace(path)
        return path

    def start(self, *arguments: str, **env: str) -> Program:
        """Start ``python -m localq`` with these arguments."""
        if self.start_method is not None:
            arguments = (*arguments, "--start-method", self.start_method)
        return self._start(["-m", "localq", *arguments], "localq", env)

    def start_pool(self, *arguments: str, **env: str) -> Program:
        """As `start`, and wait until its processes are ready."""
        return self.start(*arguments, **env).wait_until_up()

    def start_script(self, text: str, *arguments: str, **env: str) -> Program:
        """Start a script of this text."""
        script = self.write(f"script{len(self.programs)}.py", text)
        return self._start([script.name, *arguments], "script", env)

    def start_python(self, *arguments: str, **env: str) -> Program:
        return self._start(list(arguments), "python", env)

    def _start(self, arguments: list[str], name: str, env: dict[str, str]) -> Program:
        command = [*DIES_WITH_THE_TESTS, sys.executable, *arguments]
        program = Program(command, self.folder, {**self.env, **env}, f"{name}{len(self.programs)}")
        self.programs.append(program)
        return program

    def localq(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m localq`` with these arguments to its end."""
        return subprocess.run(
            [sys.executable, "-m", "localq", *arguments],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
        )

    # -- messages

    @property
    def broker(self) -> SQLiteBroker:
        return self.broker_of(self.file)

    def broker_of(self, file: Path) -> SQLiteBroker:
        """A broker of this very process, without any actor."""
        if file not in self._brokers:
            middleware = [*(make() for make in default_middleware), Results(store_results=True)]
            self._brokers[file] = SQLiteBroker(file, middleware)
        return self._brokers[file]

    def message(self, actor: str, *args: Any, queue: str = "default", **options: Any) -> localq.Message[Any]:
        return localq.Message(queue, actor, args, {}, options)

    def send(self, actor: str, *args: Any, delay: int | None = None, **options: Any) -> localq.Message[Any]:
        """Send a message to the actor of that name, which some module declares."""
        return self.broker.enqueue(self.message(actor, *args, **options), delay=delay)

    def send_many(self, actor: str, arguments: Iterable[Any]) -> list[localq.Message[Any]]:
        return self.broker.enqueue_many([self.message(actor, argument) for argument in arguments])

    def result(self, message: localq.Message[Any], *, broker: SQLiteBroker | None = None) -> Any:
        backend = (broker or self.broker).get_results_backend()
        return message.get_result(backend=backend, block=True, timeout=DEADLINE * 1000)

    def failure(self, message: localq.Message[Any]) -> localq.errors.ResultFailure:
        with pytest.raises(localq.errors.ResultFailure) as caught:
            self.result(message)
        return caught.value

    def records(self, **fields: Any) -> list[Record]:
        """The messages in the queue, in the order in which they were sent."""
        return self.broker.store.browse(Selection(**fields), limit=100_000)

    def record(self, message: localq.Message[Any]) -> Record:
        (record,) = self.records(message_ids=[message.message_id])
        return record

    def decoded(self, record: Record) -> localq.Message[Any]:
        """The message that a record holds."""
        return localq.Message.decode_stored(record.body, record.encoder, record.wire)

    def states(self) -> dict[str, int]:
        """How many messages are in each state that occurs, over all queues."""
        states: dict[str, int] = {}
        for counts in self.broker.store.counts().values():
            for state, count in counts.items():
                states[state] = states.get(state, 0) + count
        return states

    def wait_until_dead(self, message: localq.Message[Any]) -> Record:
        """Wait until the message is a dead letter."""
        ids = [message.message_id]
        (record,) = wait_until(lambda: self.records(states=[DEAD], message_ids=ids), why=f"{message} is dead")
        return record

    def wait_until_done(self) -> None:
        """Wait until nothing is left to do; dead letters may be there."""
        wait_until(lambda: not self.states().keys() - {DEAD}, why="all messages have ended")

    def reap(self) -> None:
        """Give back what dead workers held, as the next worker that starts would.

        Only while none lives. A process that ends lets go of its files a moment after it was last seen.
        """
        store = self.broker.store
        wait_until(lambda: store.reap(now=_now()) or RUNNING not in self.states(), why="nothing runs")

    def is_intact(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def insert(self, message_id: str, *, body: bytes, **columns: Any) -> None:
        """Put a row into the file behind the library's back."""
        row = {"queue": "default", "actor": "add", "lane": "thread", "priority": 0, "position": 0}
        row |= {"state": "waiting", "encoder": "msgpack", "wire": 1, "created_at": _now()}
        row |= {"message_id": message_id, "body": body, **columns}
        self.states()  # makes the tables
        with contextlib.closing(sqlite3.connect(self.file, timeout=DEADLINE)) as connection, connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoints belong behind the gate
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO message ({names}) VALUES ({marks})", list(row.values()))

    # -- what the apps tell, see apps/notes.py

    def notes(self, first: str = "") -> list[str]:
        """The lines that the apps have noted and that begin with this word."""
        if not self._notes.exists():
            return []
        lines = self._notes.read_text("utf-8").splitlines()
        return [line for line in lines if not first or line.partition(" ")[0] == first]

    def wait_for_notes(self, first: str, count: int = 1) -> list[list[str]]:
        """Wait until there are so many notes that begin with this word; returns the words of all."""
        wait_until(lambda: len(self.notes(first)) >= count, why=f"{count} notes {first!r}")
        return [line.split() for line in self.notes(first)]

    def held(self, name: str, times: int = 1) -> int:
        """Wait until the message that holds on to that name has been started so often; returns the
        process that does it now."""

        def starts() -> list[str]:
            return [note for note in self.notes("held") if note.split()[1] == name]

        wait_until(lambda: len(starts()) >= times, why=f"{name!r} is held for the {times}. time")
        return int(starts()[-1].split()[2])

    def release(self, *names: str) -> None:
        """Let the messages that hold on to these names go on."""
        for name in names:
            (self.folder / f"release-{name}").touch()

    # -- processes

    def workers(self) -> set[int]:
        """The worker processes that have joined and live."""
        return {worker.pid for worker in self.broker.store.workers()} & set(self.processes())

    def wait_for_workers(self, count: int, *, without: Iterable[int] = ()) -> set[int]:
        """Wait until so many worker processes live, and none of those."""
        gone = set(without)
        wait_until(
            lambda: len(self.workers()) == count and not self.workers() & gone,
            why=f"{count} workers, none of them in {gone}",
        )
        return self.workers()

    def processes(self) -> dict[int, str]:
        """All living processes that were started here, however far down, with their command lines."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    if self.owns(int(folder.name)):
                        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        found[int(folder.name)] = command.strip()
        return found

    def owns(self, pid: int) -> bool:
        """Whether a process lives and was started here."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return self._mark in environment.split(b"\0")  # that of a zombie is empty

    def kill(self, pid: int) -> None:
        """``kill -9``, of a process that was started here only."""
        assert self.owns(pid)
        os.kill(pid, signal.SIGKILL)

    def wait_until_empty(self, seconds: float = 10) -> None:
        """Wait until no process that was started here is left."""
        wait_until(lambda: not self.processes(), seconds=seconds, why="all processes have gone")

    def close(self) -> None:
        """Kill the programs that still run, alone; what they had started must then end by itself."""
        for program in self.programs:
            if program.runs():
                program.kill()
        for broker in self._brokers.values():
            broker.close()
        try:
            self.wait_until_empty()
        except AssertionError:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail(f"processes were left behind: {json.dumps(left, indent=2)}")
        finally:
            for program in self.programs:  # shown with a test that failed
                print(f"--- {program.name}: {program.out()}\n{program.log()[-10_000:]}")


def _now() -> int:
    return time.time_ns() // 1_000_000
