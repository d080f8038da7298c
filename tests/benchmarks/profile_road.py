"""Where the microseconds of a message go: on the sender's side, and in one worker thread.

    python -m tests.benchmarks.profile_road [--messages 5000] [--lines 25]

Each side is run three times: plainly, for the true total; with a clock around
every SQL statement; and under cProfile, which makes small Python functions look
dearer than they are: read its figures as shares, not as times.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import localq
from localq.store import statements
from tests.benchmarks.tasks import noop


class Ledger:
    """What the statements took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def reset(self) -> None:
        """Forget what was set up."""
        self.seconds.clear()
        self.calls.clear()

    def connection_class(self) -> type[sqlite3.Connection]:
        """A class of connections that write into this ledger.

        A statement that changes rows and returns some does all its work in the call of `execute`:
        SQLite changes them before it returns the first.
        """
        ledger = self

        class TimedConnection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                with ledger.entry(args[0]):
                    return super().execute(*args)

            def executemany(self, *args: Any) -> sqlite3.Cursor:
                with ledger.entry(args[0]):
                    return super().executemany(*args)

        return TimedConnection

    @contextmanager
    def entry(self, statement: str) -> Iterator[None]:
        """One call."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            name = _name_of(statement)
            self.seconds[name] += time.perf_counter() - begin
            self.calls[name] += 1

    def lines(self, messages: int) -> list[str]:
        """One a statement, the dearest first."""
        ordered = sorted(self.seconds, key=lambda name: -self.seconds[name])
        return [_line(self.seconds[name], self.calls[name], messages, name) for name in ordered]


def _name_of(statement: str) -> str:
    """The name that it has in `statements`; those of functions are known by how they begin."""
    text = _flat(statement)
    for name, value in vars(statements).items():
        if isinstance(value, str) and _flat(value) == text:
            return name
    for name, sample in (("claim", statements.claim(1, 0)), ("remove", statements.remove(1))):
        if text.startswith(_flat(sample)[:38]):
            return f"{name}(...)"
    return text[:60]


def _flat(statement: str) -> str:
    return " ".join(statement.split())


def _line(seconds: float, calls: int, messages: int, name: str) -> str:
    return f"{1e6 * seconds / messages:10.2f} {calls / messages:10.3f}   {name}"


# -- the two sides


class Bench:
    """A queue in a file of its own, with one actor, and a worker of one thread to drain it here."""

    def __init__(self, folder: str) -> None:
        self.broker = localq.connect(f"sqlite:///{folder}/jobs.db")
        self.noop = localq.actor(noop, broker=self.broker)
        self.last = localq.actor(self.stop, actor_name="last", broker=self.broker)
        self.worker = localq.Worker(self.broker, worker_threads=1)

    def send(self, count: int) -> None:
        """One by one."""
        for _ in range(count):
            self.noop.send()

    def send_bulk(self, count: int) -> None:
        """In one call."""
        self.broker.enqueue_many(self.noop.message() for _ in range(count))

    def boot(self) -> None:
        """Have a worker that has not begun; what is sent last will end it."""
        self.last.send()
        self.worker.boot()

    def drain(self) -> None:
        """Run all that is there, on this thread."""
        self.worker.workers[0].run()

    def stop(self) -> None:
        """What the last message runs."""
        self.worker.workers[0].stop()

    def close(self) -> None:
        """Leave, if there is anything to leave."""
        self.worker.stop()
        self.broker.close()


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="localq-profile-") as folder:
        ready = Bench(folder)
        try:
            ready.send(1)  # opens the file
            yield ready
        finally:
            ready.close()


def prepare_sender(ready: Bench, count: int) -> Callable[[], None]:
    """What is timed of the sender."""
    return lambda: ready.send(count)


def prepare_bulk(ready: Bench, count: int) -> Callable[[], None]:
    """What is timed of the sender of many."""
    return lambda: ready.send_bulk(count)


def prepare_worker(ready: Bench, count: int) -> Callable[[], None]:
    """What is timed of the worker."""
    ready.send_bulk(count)
    ready.boot()
    return ready.drain


# -- the three ways of looking


def plainly(prepare: Callable[[Bench, int], Callable[[], None]], count: int) -> float:
    """Seconds."""
    with bench() as ready:
        function = prepare(ready, count)
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin


def by_statement(prepare: Callable[[Bench, int], Callable[[], None]], count: int) -> Ledger:
    """With a clock around each statement."""
    ledger = Ledger()
    connect = sqlite3.connect

    def timed_connect(*args: Any, **options: Any) -> sqlite3.Connection:
        return connect(*args, **options, factory=ledger.connection_class())

    with mock.patch("sqlite3.connect", timed_connect), bench() as ready:
        function = prepare(ready, count)
        ledger.reset()
        function()
        found = Ledger()
        found.seconds.update(ledger.seconds)
        found.calls.update(ledger.calls)
        return found


def by_function(prepare: Callable[[Bench, int], Callable[[], None]], count: int) -> Any:
    """Under cProfile: by (file, line, name) what `pstats` keeps."""
    profile = cProfile.Profile()
    with bench() as ready:
        function = prepare(ready, count)
        profile.runcall(function)
    return vars(pstats.Stats(profile))["stats"]


def report(title: str, prepare: Callable[[Bench, int], Callable[[], None]], count: int, lines: int) -> None:
    """Look in all three ways, and print."""
    seconds = plainly(prepare, count)
    print(f"\n== {title}: {1e6 * seconds / count:.1f} us a message, {count / seconds:,.0f} messages/s\n")
    print("us/message  calls/msg   statement")
    ledger = by_statement(prepare, count)
    print("\n".join(ledger.lines(count)[:12]))
    print(f"{1e6 * sum(ledger.seconds.values()) / count:10.2f}              all statements\n")
    print("us/message  calls/msg   function, own time under cProfile")
    print("\n".join(_function_lines(by_function(prepare, count), count, lines)))


def _function_lines(profile: Any, count: int, lines: int) -> list[str]:
    found = []
    for (file, line, name), (_, calls, own, _, _) in profile.items():
        place = f"{os.path.basename(os.path.dirname(file))}/{os.path.basename(file)}:{line} " if line else ""
        found.append((own, calls, place + name))
    total = sum(own for own, _, _ in found)
    found.sort(reverse=True)
    shown = [_line(own, calls, count, name) for own, calls, name in found[:lines]]
    return [*shown, f"{1e6 * total / count:10.2f}              all functions"]


def main() -> None:
    """Both sides."""
    parser = argparse.ArgumentParser(description="Where the microseconds of a message go.")
    parser.add_argument("--messages", type=int, default=5_000)
    parser.add_argument("--lines", type=int, default=25, help="of each profile")
    options = parser.parse_args()
    for title, prepare in (
        ("send()", prepare_sender),
        ("enqueue_many()", prepare_bulk),
        ("one worker thread", prepare_worker),
    ):
        report(title, prepare, options.messages, options.lines)


if __name__ == "__main__":
    main()
