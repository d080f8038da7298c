"""What these tests share: a queue that others write into by other means, and values that are hard to bear."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import localq
from localq.brokers import SQLiteBroker, with_results
from localq.store import Record, Selection
from localq.store.base import DEAD

PATIENCE = 20
"""Seconds after which something that was waited for counts as not coming."""

NASTY_TEXTS = [
    "",
    " ",
    "'; DROP TABLE message; --",
    '"; DELETE FROM message; --',
    "a'b\"c`d",
    "$(touch pwned) `touch pwned`; touch pwned",
    "%s %d %n {0} {x!r}",
    "line\nanother\r\nlast\t",
    "\x1b[31mred\x1b]0;title\x07",
    "before\0after",
    "\N{PILE OF POO}\N{ZERO WIDTH JOINER}\N{RIGHT-TO-LEFT OVERRIDE}",
    "../../../../etc/passwd",
    "\ud800",
    "x" * 100_000,
    "NULL",
    "-1",
    "*",
]

any_text = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(st.characters(exclude_categories=[]), max_size=50))

cells = st.one_of(
    st.none(),
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 999]),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0.5, math.inf, -math.inf, 1e300]),
    st.sampled_from([text for text in NASTY_TEXTS if "\ud800" not in text]),
    st.sampled_from([b"", b"\xff\xfe", b"\x80" * 5000, b"default"]),
    st.text(max_size=20),
    st.binary(max_size=20),
)
"""What SQLite keeps in any column, whatever its type is called."""


class Queue:
    """A queue file with a broker of this process, actors on it, and a way to write behind its back."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.file = folder / "jobs.db"
        self.side = folder / "jobs.db.localq"
        self.broker = SQLiteBroker(self.file, with_results())
        self.ran: list[Any] = []
        self.add = localq.actor(broker=self.broker, actor_name="add", max_retries=0)(self._add)
        self.broker.store.counts()

    def _add(self, x: int, y: int) -> int:
        self.ran.append((x, y))
        return x + y

    def execute(self, statement: str, values: Any = ()) -> None:
        """Run a statement by SQLite alone."""
        with contextlib.closing(sqlite3.connect(self.file, timeout=PATIENCE)) as connection, connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoints belong behind the gate
            connection.execute(statement, values)

    def insert(self, table: str = "message", **columns: Any) -> bool:
        """Put a row into the table behind the library's back; False if the table itself refuses it."""
        row: dict[str, Any] = {}
        if table == "message":
            row = {"message_id": "m", "queue": "default", "actor": "add", "lane": "thread", "priority": 0}
            row |= {"position": 0, "state": "waiting", "encoder": "msgpack", "wire": 1, "created_at": 1}
            row |= {"body": self.add.message(1, 2).copy(message_id="m").encode()}
        row |= columns
        marks = ", ".join("?" * len(row))
        try:
            self.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        except sqlite3.IntegrityError:
            return False
        return True

    def records(self, **fields: Any) -> list[Record]:
        return self.broker.store.browse(Selection(**fields), limit=10_000)

    def dead(self) -> list[Record]:
        return self.records(states=[DEAD])

    def work(self, until: Callable[[], Any]) -> None:
        """Run what there is until the condition holds; then an ordinary message must still run."""
        worker = localq.Worker(self.broker, worker_threads=1, worker_timeout=20)
        worker.start()
        try:
            wait_until(until)
            backend = self.broker.get_results_backend()
            assert self.add.send(20, 22).get_result(backend=backend, block=True, timeout=PATIENCE * 1000) == 42
            assert all(thread.is_alive() for thread in worker.threads)
            assert worker.timekeeper is not None
            assert worker.timekeeper.is_alive()
        finally:
            worker.stop(timeout=10_000)
        assert worker.has_ended

    def nothing_waits(self) -> bool:
        """Whether all there is to do is done, or dead with a reason."""
        return all(set(counts) <= {DEAD} for counts in self.broker.store.counts().values())

    def close(self) -> None:
        self.broker.close()


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until the condition gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {seconds} s still not: {condition}"
        time.sleep(0.002)
    return found


def run_as(user: int, work: Callable[[], None]) -> int:
    """Run something in a child that belongs to another user; returns its exit status."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setgid(user)
            os.setuid(user)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
