"""A process dies at each boundary inside put, claim and finish: what others find then is what was before or
what is after, never anything in between, and they go on."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import localq
from localq.brokers import SQLiteBroker
from localq.errors import ResultError
from localq.locks import try_lock
from localq.store import Selection
from localq.store.base import DEAD, DELAYED, WAITING
from localq.store.bell import SLOTS, WANTS_MESSAGE, WANTS_VALUE

from .boundaries import BOUNDARIES
from .fault_points import Watch, die_at
from .scenarios import AFTER, OURS, SCENARIOS, Summary, broker_at, settled, summary, work

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

SOON = 15_000
"""Milliseconds within which all must go on: less than a worker sleeps that nothing wakes."""

Start = Callable[..., tuple[BaseProcess, Connection]]
Passed = list[tuple[str, Summary]]


def act(file: Path, name: str, watch: Watch) -> None:
    scenario = SCENARIOS[name]
    broker = broker_at(file, knows_all=scenario.knows_all)
    (scenario.act or work)(broker, watch.install)


def be_killed(file: Path, name: str, boundary: str, passes: int, connection: Connection) -> None:
    act(file, name, Watch(die_at(boundary, passes)))


def record(file: Path, name: str, connection: Connection) -> None:
    """Tell what is passed, and what others see there; and which functions had an effect in between."""
    act(file, name, Watch(lambda boundary: connection.send((boundary, summary(file)))))
    os.kill(os.getpid(), signal.SIGKILL)


def record_effects(file: Path, name: str, connection: Connection) -> None:
    told: list[tuple[str, str]] = []


    def hear(kind: str) -> Callable[[str], None]:
        return lambda what: told.append((kind, what))

    act(file, name, Watch(hear("boundary"), hear("effect")))
    connection.send(told)
    os.kill(os.getpid(), signal.SIGKILL)


def serve(file: Path, queue: str, connection: Connection) -> None:
    localq.Worker(broker_at(file), queues=[queue], worker_threads=1, async_concurrency=0).start()
    signal.pause()


def wait_for_result(file: Path, message: localq.Message[Any], connection: Connection) -> None:
    try:
        value = message.get_result(backend=broker_at(file).get_results_backend(), block=True, timeout=SOON)
    except ResultError as error:
        value = repr(error)
    connection.send(str(value))
    connection.recv()


class Stage:
    """A queue, a worker that sleeps until something follows, and somebody who waits for a result."""

    def __init__(self, file: Path, name: str, start: Start, until: Callable[..., Any]) -> None:
        self.file, self.scenario, self._start, self._until = file, SCENARIOS[name], start, until
        self.broker: SQLiteBroker = broker_at(file)
        self.broker.store.counts()  # makes the tables
        self.worker, _ = start(serve, file, AFTER)
        self._put_to_sleep()
        self.waiting: Connection | None = None
        message = self.scenario.prepare(self.broker)
        self.before = summary(file)
        if message is not None:
            _, self.waiting = start(wait_for_result, file, message)
            until(lambda: self._asleep(WANTS_VALUE), "somebody waits for the result")

    def _asleep(self, what: bytes) -> bool:
        """Whether just one sleeps for that: the worker's housekeeper lies down beside it for a moment."""
        table = Path(f"{self.file}.localq", "bells", "table")
        return table.exists() and table.read_bytes()[:SLOTS].count(what) == 1

    def _put_to_sleep(self) -> None:
        """Stop the worker where it sleeps, and holds nothing."""

        def sleeps() -> bool:
            assert self.worker.pid is not None
            if self._asleep(WANTS_MESSAGE):
                os.kill(self.worker.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, self.worker.pid, os.WSTOPPED)
                if self._asleep(WANTS_MESSAGE) and self.gate_is_free():
                    return True
                os.kill(self.worker.pid, signal.SIGCONT)
            return False

        self._until(sleeps, "the worker sleeps")

    def gate_is_free(self) -> bool:
        with open(f"{self.file}.localq/gate", "rb") as gate:
            return try_lock(gate.fileno())

    def is_intact(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def go_on(self) -> tuple[Summary, Any]:
        """Let the others do what is left; what is there then, and what the one heard who waits for a result."""
        assert self.worker.pid is not None
        os.kill(self.worker.pid, signal.SIGCONT)
        begun = time.monotonic()
        self._until(lambda: not self._left_in(AFTER), f"all in the queue {AFTER!r} is done")
        if self._left_in(OURS):
            self._start(serve, self.file, OURS)
        self._until(lambda: not self._left_in(OURS) and not self._left_in(AFTER), "all is done")
        assert (time.monotonic() - begun) * 1000 < SOON
        heard = None
        if self.waiting is not None:
            heard = self.waiting.recv()
        return settled(summary(self.file)), heard

    def _left_in(self, queue: str) -> bool:
        left = self.broker.store.counts().get(queue, {}).keys() - {DEAD}
        if queue == OURS and DELAYED in left:  # a retry, whose delay keeps it from the process that is to die
            self.broker.store.move(Selection(states=[DELAYED], queues=[OURS]), WAITING, now=0)
        return bool(left)

    def ran(self) -> Counter[str]:
        file = Path(f"{self.file}.ran")
        return Counter(file.read_text().split() if file.exists() else ())

    def close(self) -> None:
        self.broker.close()


@pytest.fixture
def set_stage(tmp_path: Path, start: Start, until: Callable[..., Any]) -> Any:
    stages: list[Stage] = []

    def set_stage(name: str) -> Stage:
        stages.append(Stage(tmp_path / f"{len(stages)}.db", name, start, until))
        return stages[-1]

    yield set_stage
    for stage in stages:
        stage.close()


def received(connection: Connection) -> list[Any]:
    things = []
    with contextlib.suppress(EOFError):
        while True:
            things.append(connection.recv())
    return things


def ended_by_kill(process: BaseProcess) -> bool:
    process.join(SOON / 1000)
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, tuple[Passed, Summary, Any, Counter[str]]]:
    """By scenario: what is passed and seen where nobody is killed before its end, and what it comes to."""
    return {}


@pytest.fixture
def undisturbed_run(
    set_stage: Callable[[str], Stage], start: Start, undisturbed: dict[str, Any]
) -> Callable[[str], tuple[Passed, Summary, Any, Counter[str]]]:
    def undisturbed_run(name: str) -> tuple[Passed, Summary, Any, Counter[str]]:
        if name not in undisturbed:
            stage = set_stage(name)
            process, connection = start(record, stage.file, name)
            passed = received(connection)
            assert ended_by_kill(process)
            undisturbed[name] = (passed, *stage.go_on(), stage.ran())
        return undisturbed[name]

    return undisturbed_run


def deaths() -> list[Any]:
    """Each boundary at its first pass, and at its last where there are several."""
    return [
        pytest.param(name, boundary, passes, id=f"{name} - {boundary}{f' ({passes})' if passes > 1 else ''}")
        for name, boundaries in BOUNDARIES.items()
        for boundary, count in Counter(boundaries).items()
        if boundary.startswith(SCENARIOS[name].dies_in)
        for passes in sorted({1, count})
    ]


@pytest.mark.parametrize(("name", "boundary", "passes"), deaths())
def test_a_death_at_a_boundary_leaves_what_was_before_or_what_is_after_and_the_others_go_on(
    name: str,
    boundary: str,
    passes: int,
    set_stage: Callable[[str], Stage],
    start: Start,
    undisturbed_run: Callable[[str], tuple[Passed, Summary, Any, Counter[str]]],
) -> None:
    passed, at_the_end, heard, ran = undisturbed_run(name)
    seen_there = [seen for passing, seen in passed if passing == boundary][passes - 1]
    stage = set_stage(name)

    process, _ = start(be_killed, stage.file, name, boundary, passes)

    assert ended_by_kill(process)
    assert stage.gate_is_free()
    assert summary(stage.file) == seen_there
    assert stage.is_intact()
    was_not_sent = name.startswith("put") and seen_there == stage.before
    assert stage.go_on() == ((settled(stage.before), None) if was_not_sent else (at_the_end, heard))
    assert stage.is_intact()
    if not was_not_sent:
        again = stage.ran() - ran
        assert ran - stage.ran() == Counter()
        assert sum(again.values()) <= 1  # what was running may run again, and nothing else does
        assert again["follow"] == 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_others_see_a_change_only_where_it_is_committed(
    name: str, undisturbed_run: Callable[[str], tuple[Passed, Summary, Any, Counter[str]]]
) -> None:
    passed, *_ = undisturbed_run(name)
    changes = [
        (boundary, following)
        for (boundary, seen), (following, seen_then) in pairwise(passed)
        if seen != seen_then
    ]
    assert changes
    for before, after in changes:
        assert before.endswith(": before COMMIT")
        assert after.endswith(": after COMMIT")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_list_of_boundaries_is_complete(name: str, set_stage: Callable[[str], Stage], start: Start) -> None:
    """Each statement and each call with a lasting effect has a boundary before it and behind it."""
    stage = set_stage(name)
    process, connection = start(record_effects, stage.file, name)
    (told,) = received(connection)
    assert ended_by_kill(process)
    assert [what for kind, what in told if kind == "boundary"] == BOUNDARIES[name]
    effects = {what for kind, what in told if kind == "effect"}
    assert effects >= {"fcntl.flock", "Connection.execute"}
    side_by_side = [
        (first, second)
        for (kind, first), (then, second) in pairwise(told)
        if kind == then == "effect"
    ]
    assert side_by_side == []
    assert (told[0][0], told[-1][0]) == ("boundary", "boundary")
