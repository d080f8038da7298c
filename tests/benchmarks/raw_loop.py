"""The bare loop: what localq does to SQLite for a message, and nothing else.

The same statements on the same tables, one flock around every transaction, the
same bytes, six calls where localq has hooks, the function, and its result kept.
No library between: what localq reaches is divided by what this reaches.

    python -m tests.benchmarks.raw_loop --messages 20000
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from operator import itemgetter
from typing import Any

from msgpack import packb, unpackb

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from localq.message import generate_unique_id
from localq.store import statements as sql
from localq.store.base import THREAD, WAITING
from localq.store.gate import FIRST_NAP, LONGEST_NAP
from localq.store.rows import INLINE
from tests.benchmarks import forks
from tests.benchmarks.forks import in_processes

BURST = 32
HOOKS = 6
QUEUE = "default"
OF_INTEREST = '["default"]'
RESULT_TTL = 600_000
EMPTY_NAP = 0.000_5
"""Seconds that a worker waits when it finds nothing; it has no bell."""

_columns = [name.strip() for name in sql.COLUMNS.split(",")]
ID, BODY, SEQUENCE = (_columns.index(name) for name in ("message_id", "body", "sequence"))
POSITION = _columns.index("position")
_GIVEN_BODY = 3  # in what `message_row` makes

Row = tuple[Any, ...]


class RawQueue:
    """A file with localq's tables, set up as localq does, and the lock around its transactions.

    Parameters:
      path: of the file.
      full: whether each commit waits for the disk, as with `durability=full`.
    """

    def __init__(self, path: str, full: bool = False) -> None:
        self._synchronous = "FULL" if full else "NORMAL"
        self._gate = os.open(path + ".gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, cached_statements=256)
        self.execute, self.executemany = self._connection.execute, self._connection.executemany
        self._take_gate()
        try:
            self._set_up()
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _set_up(self) -> None:
        if self.execute("PRAGMA schema_version").fetchone()[0] == 0:
            self.execute("PRAGMA page_size = 2048")
            self.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self.execute("PRAGMA journal_mode = WAL").fetchone()
        settings = (f"synchronous = {self._synchronous}", "wal_autocheckpoint = 8000", "journal_size_limit = -1")
        for setting in settings:
            self.execute(f"PRAGMA {setting}").fetchall()
        self.execute("PRAGMA mmap_size = 0").fetchall()
        self.execute("PRAGMA temp_store = MEMORY")
        if not self.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._connection.executescript(files("localq.store").joinpath("schema.sql").read_text("utf-8"))

    def _take_gate(self) -> None:
        nap = FIRST_NAP
        while True:
            try:
                return fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(nap)
                nap = min(nap * 1.5, LONGEST_NAP)

    def begin(self) -> None:
        self._take_gate()
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.execute("COMMIT")
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def close(self) -> None:
        self._take_gate()
        self._connection.close()
        os.close(self._gate)


# -- what is timed


def send_each(queue: RawQueue, count: int, *args: Any) -> None:
    """Messages of a transaction each."""
    for _ in range(count):
        row = message_row(*args)
        queue.begin()
        insert(queue, row)
        queue.commit()


def insert(queue: RawQueue, row: Row) -> None:
    """Write a message; a body that is too large for its row lies apart."""
    body = row[_GIVEN_BODY]
    if len(body) <= INLINE:
        queue.execute(sql.INSERT, row)
    else:
        sequence = queue.execute(sql.INSERT, (*row[:_GIVEN_BODY], None, *row[_GIVEN_BODY + 1 :])).lastrowid
        queue.execute(sql.INSERT_PAYLOAD, (sequence, body))


def send_bulk(queue: RawQueue, count: int) -> None:
    """All messages in one transaction."""
    rows = [message_row() for _ in range(count)]
    queue.begin()
    queue.executemany(sql.INSERT, rows)
    queue.commit()


def message_row(*args: Any) -> Row:
    """A message for the no-op, as localq stores it."""
    now = time.time_ns()
    millis, message_id = now // 1_000_000, generate_unique_id()
    fields = {
        "queue_name": QUEUE,
        "actor_name": "noop",
        "args": args,
        "kwargs": {},
        "options": {},
        "message_id": message_id,
        "message_timestamp": millis,
    }
    given = (message_id, QUEUE, "noop", packb(fields), "msgpack", 1, 0, None, THREAD, None, None, millis)
    return (*given, WAITING, now // 1000)


def work(queue: RawQueue, worker: int, burst: int, is_over: Callable[[], bool]) -> None:
    """Run what is there, until it is over and nothing is left.

    The finish of one burst and the claim of the next share a transaction.
    """
    claimed: list[Row] = []
    results: list[Row] = []
    token = 0
    while True:
        over, token = is_over(), token + 1
        queue.begin()
        if claimed:
            finish(queue, worker, token - 1, claimed, results)
        claimed = claim(queue, worker, token, burst)
        queue.commit()
        if not claimed and over:
            return
        if not claimed:
            time.sleep(EMPTY_NAP)
        results = [run(row) for row in claimed]


def finish(queue: RawQueue, worker: int, token: int, done: list[Row], results: list[Row]) -> None:
    """Remove what was run, and keep its results."""
    sequences = [row[SEQUENCE] for row in done]
    removed = queue.execute(sql.remove(len(done)), (*sequences, worker, token)).fetchall()
    assert len(removed) == len(done)
    for row in done:
        if len(row[BODY]) > INLINE:
            queue.execute(sql.DELETE_PAYLOAD, (row[SEQUENCE],))
    queue.executemany(sql.SET_VALUE, results)


def claim(queue: RawQueue, worker: int, token: int, burst: int) -> list[Row]:
    """Take the next messages, in their order."""
    now = time.time_ns() // 1_000_000
    mark = (worker, token, now)
    queue.execute(sql.promote(1), (QUEUE, now * 1000))
    rows = queue.execute(sql.CLAIM_SUSPECT, (*mark, OF_INTEREST, "[]")).fetchall()
    if not rows:
        rows = queue.execute(sql.claim(1, 0), (*mark, QUEUE, burst, burst)).fetchall()
    rows.sort(key=itemgetter(POSITION))
    return [row if row[BODY] is not None else _with_body(queue, row) for row in rows]


def _with_body(queue: RawQueue, row: Row) -> Row:
    (body,) = queue.execute(sql.SELECT_PAYLOAD, (row[SEQUENCE],)).fetchone()
    return (*row[:BODY], body, *row[BODY + 1 :])


def run(row: Row) -> Row:
    """Decode a message, call what localq calls hooks, call the function; returns its result to keep."""
    message = unpackb(row[BODY])
    for _ in range(HOOKS):
        hook(message)
    result = noop(*message["args"], **message["kwargs"])
    until = time.time_ns() // 1_000_000 + RESULT_TTL
    return key_of(row[ID]), packb({"result": result}), until, None


def key_of(message_id: str) -> str:
    """Under which the result of a message is kept."""
    return message_id.replace("-", "")


def hook(message: dict[str, Any]) -> None:
    """What a middleware would do."""


def noop(*args: Any) -> None:
    """What an actor would do."""


# -- messages per second


def enqueue_each(count: int, *, full: bool = False) -> float:
    """One by one, by one process."""
    return _rate(count, lambda path: in_processes([partial(_prepare, path, full, send_each, count)]).seconds)


def enqueue_bulk(count: int) -> float:
    """In one transaction, by one process."""
    return _rate(count, lambda path: in_processes([partial(_prepare, path, False, send_bulk, count)]).seconds)


def drain(count: int, *, processes: int = 2, burst: int = BURST) -> float:
    """Messages that are there already, by several processes."""

    def measure(path: str) -> float:
        in_processes([partial(_prepare, path, False, send_bulk, count)])
        return in_processes(_workers(path, processes, burst, lambda: True)).seconds

    return _rate(count, measure)


def together(count: int, *, processes: int = 2, burst: int = BURST) -> float:
    """Sent one by one by one process while several others run them."""

    def measure(path: str) -> float:
        sent = forks.context.Event()

        def send(queue: RawQueue) -> None:
            send_each(queue, count)
            sent.set()

        workers = _workers(path, processes, burst, sent.is_set)
        return in_processes([partial(_prepare, path, False, send), *workers]).seconds

    return _rate(count, measure)


def carry(data: bytes, count: int, *, processes: int = 2, burst: int = BURST) -> float:
    """Messages with something large: sent one by one by one process, and then run by several others."""

    def measure(path: str) -> float:
        sending = in_processes([partial(_prepare, path, False, send_each, count, data)])
        return sending.seconds + in_processes(_workers(path, processes, burst, lambda: True)).seconds

    return _rate(count, measure)


def _workers(
    path: str, processes: int, burst: int, is_over: Callable[[], bool]
) -> list[Callable[[], Callable[[], None]]]:
    return [partial(_prepare, path, False, work, number, burst, is_over) for number in range(1, processes + 1)]


def _prepare(path: str, full: bool, function: Callable[..., None], *args: Any) -> Callable[[], None]:
    """Open the queue; what comes back is what is timed."""
    return partial(function, RawQueue(path, full), *args)


def _rate(count: int, measure: Callable[[str], float]) -> float:
    with tempfile.TemporaryDirectory(prefix="localq-raw-") as folder:
        path = os.path.join(folder, "raw.db")
        RawQueue(path).close()
        return count / measure(path)


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description="The bare loop that localq is measured beside.")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--burst", type=int, default=BURST)
    options = parser.parse_args()
    workers = {"processes": options.processes, "burst": options.burst}
    print(f"enqueue one by one {enqueue_each(options.messages):12,.0f} messages/s")
    print(f"enqueue in bulk    {enqueue_bulk(options.messages):12,.0f}")
    print(f"drain              {drain(options.messages, **workers):12,.0f}  ({options.processes} processes)")
    print(f"both at once       {together(options.messages, **workers):12,.0f}")


if __name__ == "__main__":
    main()
