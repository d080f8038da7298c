"""How large the file grows, how small it becomes again, and how long a sender waits meanwhile.

    python -m tests.torture.bounded flow|reader|pile|sweep [--messages 1000000]

flow    messages are sent as fast as two workers run them
reader  the same, beside a program that keeps reading transactions open, each for long
pile    all messages wait before the first one runs
sweep   as many dead letters as half the messages, and as many results, expire at once

While `sweep` and the second half of `pile` clean up, somebody sends a message every few milliseconds and
measures how long each took. (Beside `flow` he would measure how long a thousand messages keep the gate.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import localq
from localq.store.base import DEAD, DEAD_LETTER_TTL, Claim, Outcome, Record, Value, WorkerRecord

FORK = multiprocessing.get_context("fork")
MB = 1_000_000
ENOUGH, SMALL = 200, 10
"""Megabytes: of the file, while messages run as fast as they come; of it and its log, when all is done."""
LONGEST_WAIT = 250
"""Milliseconds."""
BATCH = 1000
BACKLOG = 20_000
"""Messages that the sender of `flow` is ahead at most."""
READING, PAUSE = 20.0, 1.0
"""Seconds of one reading transaction, and until the next."""


@localq.actor(store_results=False, queue_name="load")
def swallow(text):
    pass


@localq.actor(store_results=False, queue_name="load")
def probe(number):
    pass


@dataclass
class Report:
    """What was seen; sizes in megabytes, times in seconds but for the waits."""

    messages: int
    seconds: float = 0
    largest_file: float = 0
    largest_log: float = 0
    file_at_last: float = 0
    log_at_last: float = 0
    small_again_after: float = 0
    """From when everything had run (and the reader had gone) until file and log were small."""
    sends: int = 0
    longest_wait: float = 0
    """Milliseconds that one send took, of the one who sent beside the load."""
    waits_over_100: int = 0

    def __str__(self) -> str:
        return json.dumps({name: round(value, 3) for name, value in vars(self).items()})


class Place:
    """A folder with a queue in it.

    Parameters:
      folder: an empty one.
      report: where sizes are noted.
    """

    def __init__(self, folder: Path, report: Report) -> None:
        self.file = str(folder / "jobs.db")
        self.report = report
        self.broker = localq.connect(f"sqlite:///{self.file}")

    def look(self) -> tuple[float, float]:
        """Note the sizes of now, of the file and of its log."""
        sizes = tuple(_size(self.file + suffix) for suffix in ("", "-wal"))
        self.report.largest_file = max(self.report.largest_file, sizes[0])
        self.report.largest_log = max(self.report.largest_log, sizes[1])
        self.report.file_at_last, self.report.log_at_last = sizes
        return sizes[0], sizes[1]

    def left(self) -> int:
        return sum(sum(states.values()) for states in self.broker.store.counts().values())

    def wait_until_done(self) -> None:
        while self.left() > 50:  # those of the one who measures come and go
            self.look()
            time.sleep(0.2)

    def wait_until_small(self, seconds: float = 120) -> None:
        """Wait until the file is as small as it will be."""
        started = time.monotonic()
        deadline = started + seconds
        while sum(self.look()) > SMALL and time.monotonic() < deadline:
            time.sleep(0.05)
        self.report.small_again_after = time.monotonic() - started


def _size(path: str) -> float:
    try:
        return os.stat(path).st_size / MB
    except FileNotFoundError:
        return 0


# -- who does something beside


def _send_and_measure(file: str, connection: Connection) -> None:
    localq.connect(f"sqlite:///{file}")
    waits: list[float] = []
    while not waits or not connection.poll(0.005):  # once at least: it may have been long in coming
        started = time.monotonic()
        probe.send(len(waits))
        waits.append((time.monotonic() - started) * 1000)
    connection.send((len(waits), max(waits), sum(wait > 100 for wait in waits)))


def _read_for_long(file: str, connection: Connection) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as reader:
        while True:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM worker").fetchall()
            told = connection.poll(READING)
            reader.execute("ROLLBACK")
            if told or connection.poll(PAUSE):
                connection.send(None)
                return


@contextlib.contextmanager
def _beside(work: Callable[[str, Connection], None], file: str) -> Iterator[Callable[[], object]]:
    """A process that does that; calling what is given ends it, and returns what it has to say."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=work, args=(file, theirs), daemon=True)
    process.start()

    def end() -> object:
        ours.send("end")
        return ours.recv()

    try:
        yield end
    finally:
        process.kill()
        process.join()


# -- the loads


def flow(place: Place, messages: int, *, bounded: bool = True) -> None:
    text = os.urandom(1000).hex()
    for sent in range(0, messages, BATCH):
        place.broker.enqueue_many([swallow.message(text) for _ in range(min(BATCH, messages - sent))])
        if sent // BATCH % 10 == 0:
            place.look()
            while bounded and place.left() > BACKLOG:
                time.sleep(0.01)


def run_flow(folder: Path, messages: int, *, reader: bool = False) -> Report:
    place = Place(folder, report := Report(messages))
    started = time.monotonic()
    with localq.pool(processes=2), contextlib.ExitStack() as stack:
        end_reading = stack.enter_context(_beside(_read_for_long, place.file)) if reader else None
        flow(place, messages)
        place.wait_until_done()
        report.seconds = time.monotonic() - started
        if end_reading is not None:
            end_reading()
        place.wait_until_small()
    place.broker.close()
    return report


def run_reader(folder: Path, messages: int) -> Report:
    return run_flow(folder, messages, reader=True)


def run_pile(folder: Path, messages: int) -> Report:
    place = Place(folder, report := Report(messages))
    flow(place, messages, bounded=False)
    started = time.monotonic()
    with localq.pool(processes=2):
        place.wait_until_done()
        report.seconds = time.monotonic() - started
        with _beside(_send_and_measure, place.file) as measured:
            place.wait_until_small(seconds=5)  # beside somebody who writes all the time
            _note(report, measured())
        place.wait_until_small()
    place.broker.close()
    return report


def run_sweep(folder: Path, messages: int) -> Report:
    place = Place(folder, report := Report(messages))
    store, now = place.broker.store, time.time_ns() // MB
    _bury(place, messages // 2, died_at=now - DEAD_LETTER_TTL - 1)
    for first in range(0, messages // 2, BATCH):
        store.set_values([Value(f"v{first + n}", os.urandom(500), 1) for n in range(BATCH)], now=now - 10)
    place.look()
    started = time.monotonic()
    with localq.pool(processes=2), _beside(_send_and_measure, place.file) as measured:
        place.wait_until_done()
        report.seconds = time.monotonic() - started
        _note(report, measured())
        place.wait_until_small()
    place.broker.close()
    return report


def _bury(place: Place, count: int, *, died_at: int) -> None:
    store, text = place.broker.store, os.urandom(2000)
    worker = store.join(WorkerRecord("undertaker", os.getpid(), [], []), now=died_at)
    for first in range(0, count, BATCH):
        store.put([Record(f"m{first + n}", "old", "nobody", text) for n in range(BATCH)], now=died_at)
        claimed = store.claim(Claim(worker, ["old"], BATCH), now=died_at)
        store.finish([Outcome(record, DEAD, "it failed") for record in claimed], now=died_at)
    store.leave(worker, now=died_at)


def _note(report: Report, measured: object) -> None:
    report.sends, report.longest_wait, report.waits_over_100 = measured  # type: ignore[misc]


RUNS = {"flow": run_flow, "reader": run_reader, "pile": run_pile, "sweep": run_sweep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", choices=RUNS)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--longest-wait", type=int, default=LONGEST_WAIT, help="milliseconds")
    parser.add_argument("--folder", help="where to put the files; by default where temporary files are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = RUNS[options.load](Path(folder), options.messages)
    print(options.load, report)
    is_small = report.file_at_last + report.log_at_last <= SMALL
    was_small = report.largest_file <= ENOUGH or options.load not in ("flow", "reader")
    if not is_small or not was_small or report.longest_wait > options.longest_wait:
        sys.exit("a promise was broken")


if __name__ == "__main__":
    main()
