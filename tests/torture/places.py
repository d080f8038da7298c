"""Processes that take places under a limit and are killed or stopped at any moment.

    python -m tests.torture.places [--processes 40] [--limit 3] [--seconds 60] [--seed 1]

Whoever is inside locks one of as many files as there are places. If none is free then,
there were too many inside: the kernel says so, and nothing of localq.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from localq.rate_limits import ConcurrentRateLimiter
from localq.rate_limits.backends import SQLiteBackend

FORK = multiprocessing.get_context("fork")
TTL = 100
"""Milliseconds of the limiter's: stops and stays are longer than that."""


@dataclass
class Report:
    entered: int = 0
    kills: int = 0
    stops: int = 0
    too_many: list[str] = field(default_factory=list)
    """Who found more inside than there are places."""
    free_again_after: float = 0
    """Seconds from the last kill until all places were free."""
    left_behind: list[str] = field(default_factory=list)


def storm(folder: Path, *, processes: int, limit: int, seconds: float, seed: int) -> Report:
    """Let so many processes enter and leave, kill and stop them at random, and say what was seen."""
    chance, report = random.Random(seed), Report()
    for number in range(limit):
        (folder / f"token{number}").touch()
    crowd = [_start(folder, limit, seed + number) for number in range(processes)]
    stopped: list[tuple[float, BaseProcess]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0, 0.05))
        while stopped and stopped[0][0] < time.monotonic():
            _signal(stopped.pop(0)[1], signal.SIGCONT)
        place = chance.randrange(processes)
        victim = crowd[place]
        if chance.random() < 0.3:
            _signal(victim, signal.SIGSTOP)
            stopped.append((time.monotonic() + 2 * TTL / 1000, victim))
            report.stops += 1
        else:
            victim.kill()
            report.kills += 1
            victim.join()
            crowd[place] = _start(folder, limit, seed + processes + report.kills)
    for process in crowd:
        process.kill()
    for process in crowd:
        process.join()
    _look(folder, limit, report)
    return report


def _start(folder: Path, limit: int, seed: int) -> BaseProcess:
    process = FORK.Process(target=_enter_and_leave, args=(folder, limit, seed), daemon=True)
    process.start()
    return process


def _signal(process: BaseProcess, number: int) -> None:
    if process.is_alive():
        os.kill(process.pid or 0, number)


def _enter_and_leave(folder: Path, limit: int, seed: int) -> None:
    chance = random.Random(seed)
    # Open before any file of localq's: when a process dies, what it opened first is let go of first.
    tokens = [os.open(folder / f"token{number}", os.O_RDWR) for number in range(limit)]
    notes = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    limiter = ConcurrentRateLimiter(SQLiteBackend(folder / "jobs.db"), "k", limit=limit, ttl=TTL)
    while True:
        with limiter.acquire(raise_on_failure=False) as inside:
            if inside:
                token = next(filter(_lock, tokens), None)
                os.write(notes, b"entered\n" if token is not None else f"too many: {os.getpid()}\n".encode())
                time.sleep(chance.choice([0, 0.01, 2 * TTL / 1000]))
                if token is not None:
                    fcntl.lockf(token, fcntl.LOCK_UN)
        time.sleep(chance.uniform(0, 0.02))


def _lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _look(folder: Path, limit: int, report: Report) -> None:
    store = SQLiteBackend(folder / "jobs.db").store
    started = time.monotonic()
    while sum(store.hold("k", limit) for _ in range(limit + 1)) != limit:
        for _ in range(limit):
            store.let_go("k")
    report.free_again_after = time.monotonic() - started
    for _ in range(limit):
        store.let_go("k")
    store.reap(now=0)
    store.close()
    report.left_behind = os.listdir(folder / "jobs.db.localq" / "holders")
    notes = (folder / "notes").read_text().splitlines()
    report.entered = notes.count("entered")
    report.too_many = [note for note in notes if note != "entered"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=40)
    parser.add_argument("--limit", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = storm(Path(folder), **vars(options))
    print(report)
    if report.too_many or report.left_behind or report.free_again_after > 1:
        sys.exit("a promise was broken")


if __name__ == "__main__":
    main()
