"""One pool with its senders, and how they are killed: a round of that, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from localq.store.base import CANCELLED, DEAD

from ..processes.support import Lab, Program, wait_until
from .ledger import Counts, Ledger, keep_journal

PACE = 0.06
"""Seconds between two kills, on average."""
PATIENCE = 120
"""Seconds in which a pool that nobody disturbs must have done all that is left."""

KINDS = {"worker": 12, "reporter": 8, "sender": 6, "supervisor": 1, "tree": 1}
"""What is killed, and how often: a worker process; whoever has just noted something; a sender; the
supervisor alone; the whole pool with its senders, in any order."""


@dataclass
class Report:
    """What a round was, and what did not hold."""

    seed: str
    shape: str
    kills: Counter[str] = field(default_factory=Counter)
    processes: int = 0
    """How many processes were killed: of a whole tree, all."""
    counts: Counts = field(default_factory=Counts)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        total = sum(self.kills.values())
        return f"{self.shape}: {total} kills ({kinds}; {self.processes} processes); {self.counts}"


class Arena:
    """A queue in a folder of its own, under attack.

    Parameters:
      folder: an empty one.
      seed: what all that is random here follows from.
      start_method: how its pool starts processes.
      processes, threads: of the pool; by default as the seed has it.
      senders: how many processes send.
    """

    def __init__(
        self,
        folder: Path,
        seed: str,
        *,
        start_method: str,
        processes: int | None = None,
        threads: int | None = None,
        senders: int = 2,
    ) -> None:
        self.rnd = random.Random(seed)
        several, many = self.rnd.choice([(1, 1), (2, 1), (3, 1), (2, 2), (1, 4)])
        self.processes, self.threads, self.senders = processes or several, threads or many, senders
        self.lab = Lab(folder, start_method)
        del self.lab.env["PYTHONDONTWRITEBYTECODE"]  # no module is edited here, and processes start all the time
        self.report = Report(seed, f"{start_method}, {self.processes} x {self.threads}")
        self.killed: dict[int, float] = {}
        self._pool: Program | None = None
        self._nursery: Program | None = None
        self._read = 0

    def round(self, kills: int) -> Report:
        """Kill so often, the whole tree at last; let a fresh pool do what is left; see what holds."""
        try:
            self.attack(kills)
            ledger = self.settle()
            self.report.problems += ledger.check()
            self.report.counts = ledger.counts
        except AssertionError as error:
            self.report.problems.append(str(error))
        finally:
            self.end()
        return self.report

    def attack(self, kills: int) -> None:
        """Kill so often, the whole tree at last."""
        self.lab.states()  # makes the tables
        keep_journal(self.lab.file)
        while sum(self.report.kills.values()) < kills - 1:
            self._see_that_all_run()
            time.sleep(self.rnd.expovariate(1 / PACE))
            self._kill_something()
        while sum(self.report.kills.values()) < kills:
            self._see_that_all_run()
            self._kill_tree()
        self.lab.wait_until_empty()

    def settle(self) -> Ledger:
        """Let a fresh pool do what is left, undisturbed; then all is known that can be."""
        pool = self.lab.start_pool("tests.torture.actors", "-p", "2", "-t", "2")
        wait_until(
            lambda: not self.lab.states().keys() - {DEAD, CANCELLED},
            seconds=PATIENCE,
            why="all messages have ended",
        )
        pool.stop()
        self.lab.wait_until_empty()
        return Ledger(self.lab, self.killed)

    def end(self) -> None:
        """Leave no process behind."""
        for pid in self.lab.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self.lab.programs:
            program.wait()
        self.lab.broker.close()

    def _see_that_all_run(self) -> None:
        if self._pool is None or not self._pool.runs():
            shape = ("-p", str(self.processes), "-t", str(self.threads))
            self._pool = self.lab.start("tests.torture.actors", *shape)
            self._seldom_disturb_its_start()
        if self._nursery is None or not self._nursery.runs():
            seed = f"{self.report.seed}/{len(self.lab.programs)}"
            self._nursery = self.lab.start_python("-m", "tests.torture.sender", seed, str(self.senders))

    def _seldom_disturb_its_start(self) -> None:
        pool = self._pool
        assert pool is not None
        if self.rnd.random() < 0.8:
            wait_until(lambda: "is ready for action" in pool.log() or not pool.runs(), why="the pool starts")

    # -- killing

    def _kill_something(self) -> None:
        kind = self.rnd.choices(list(KINDS), list(KINDS.values()))[0]
        assert self._pool is not None
        assert self._nursery is not None
        if kind == "tree":
            self._kill_tree()
            return
        if kind == "reporter":
            victims = self._who_reports()
        elif kind == "supervisor":
            victims = [self._pool.pid]
        else:
            victims = children(self._pool.pid if kind == "worker" else self._nursery.pid)
        if victims and self._kill(self.rnd.choice(victims)):
            self.report.kills[kind] += 1

    def _kill_tree(self) -> None:
        victims = list(self.lab.processes())
        self.rnd.shuffle(victims)
        killed = sum(map(self._kill, victims))
        self.report.kills["tree"] += bool(killed)

    def _kill(self, pid: int) -> bool:
        """Kill a process of ours; False if it is gone already."""
        if not self.lab.owns(pid):
            return False
        self.killed[pid] = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.report.processes += 1
            return True
        return False

    def _who_reports(self) -> list[int]:
        """Whoever notes something from now on, as soon as it does."""
        notes = self.lab.folder / "notes"
        deadline = time.monotonic() + 0.2
        with contextlib.suppress(FileNotFoundError), open(notes, "rb") as file:
            file.seek(0, os.SEEK_END)
            while time.monotonic() < deadline:
                lines = file.read().split(b"\n")
                # Each line ends in one write, so the last piece is empty or was not wholly seen.
                pids = [int(line.split(b" ", 3)[2]) for line in lines[:-1] if line.count(b" ") >= 2]
                if pids:
                    return pids[-1:]
                time.sleep(0.0005)
        return []


def children(pid: int) -> list[int]:
    """The processes that this one has started and that live."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
