"""The bare loop again, for latency: a pipe where localq has its bells.

A worker sleeps in a read of the pipe. Whoever sends commits a row and writes a
byte; the worker claims, runs, finishes, and writes a byte back.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgpack import unpackb

from localq.store import statements as sql

from . import forks, raw_loop
from .raw_loop import RawQueue
from .spread import gaps


@dataclass(slots=True)
class Worker:
    """A process that sleeps at the pipe, as its sender sees it."""

    queue: RawQueue
    bell: int
    answer: int
    report: Any

    def send(self) -> str:
        """Send a message and ring; returns the key of its result."""
        row = raw_loop.message_row()
        self.queue.begin()
        self.queue.execute(sql.INSERT, row)
        self.queue.commit()
        os.write(self.bell, b"!")
        return raw_loop.key_of(row[0])

    def wait(self) -> None:
        """Until the message that was sent is finished."""
        os.read(self.answer, 1)

    def result(self, key: str) -> Any:
        """What is kept under the key."""
        (data,) = self.queue.execute(sql.GET_VALUE, (key, time.time_ns() // 1_000_000)).fetchone()
        return unpackb(data)["result"]

    def starts(self) -> list[int]:
        """End the worker; returns when each message was started, in nanoseconds."""
        os.close(self.bell)
        self.bell = -1
        starts: list[int] = self.report.recv()
        return starts


def pick_up(count: int) -> list[int]:
    """From before a message is made to right before its function would be called; in nanoseconds."""
    pauses = gaps()
    sent = []
    with _worker() as worker:
        for _ in range(count):
            time.sleep(next(pauses))
            sent.append(time.monotonic_ns())
            worker.send()
            worker.wait()
        starts = worker.starts()
    return [start - begin for start, begin in zip(starts, sent, strict=True)]


def round_trip(count: int) -> list[int]:
    """From before a message is made to its result in hand; in nanoseconds."""
    times = []
    with _worker() as worker:
        for _ in range(count):
            begin = time.monotonic_ns()
            key = worker.send()
            worker.wait()
            worker.result(key)
            times.append(time.monotonic_ns() - begin)
    return times


@contextmanager
def _worker() -> Iterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="localq-raw-") as folder:
        path = os.path.join(folder, "raw.db")
        RawQueue(path).close()
        bell, bell_in = os.pipe()
        answer, answer_in = os.pipe()
        report, report_in = forks.context.Pipe(duplex=False)
        theirs = (bell, bell_in, answer_in, report_in)
        process = forks.context.Process(target=_serve, args=(path, *theirs), daemon=True)
        process.start()
        os.close(bell)
        os.close(answer_in)
        report_in.close()
        worker = Worker(RawQueue(path), bell_in, answer, report)
        try:
            yield worker
        finally:
            process.kill()
            process.join()
            worker.queue.close()
            for ours in (worker.bell, answer):
                if ours >= 0:
                    os.close(ours)


def _serve(path: str, bell: int, bell_in: int, answer: int, report: Any) -> None:
    os.close(bell_in)  # or the end of the other side would not be seen
    queue, token = RawQueue(path), 0
    starts: list[int] = []
    while os.read(bell, 1):
        token += 1
        queue.begin()
        (row,) = raw_loop.claim(queue, 1, token, 1)
        queue.commit()
        starts.append(time.monotonic_ns())
        result = raw_loop.run(row)
        queue.begin()
        raw_loop.finish(queue, 1, token, [row], [result])
        raw_loop.claim(queue, 1, token, 1)
        queue.commit()
        os.write(answer, b"!")
    report.send(starts)
