"""Interrupts at random moments of what tasks do with localq: python -m tests.torture.interrupts --seed 1

Pools of worker processes run the actors of `tests.torture.interrupted`. Time limits, aborts and shutdown
notices land in their sends, looks and waits for results, groups, aborts and rate limits: by a signal (one
thread a process), asynchronously (several threads), and as the cancelling of coroutines. Most are raised in
the way in which the middleware raises them, which takes microseconds; a share of them by the middleware.

After each batch, when all rest: the gate is free, no transaction is open, no lock is held, no sleeper is
missing, every place under the limit is free, and each message is in the queue exactly once if its send
returned, and at most once, with its whole group or not at all, if its send was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import localq
from localq.brokers import SQLiteBroker
from localq.errors import ResultFailure
from localq.locks import try_lock
from localq.message import Message
from localq.rate_limits.backends import SQLiteBackend
from localq.store.base import DELAYED, RUNNING, WAITING, Selection

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120
"""Seconds after which something that was waited for counts as not coming."""
MORE_DESCRIPTORS = 50
"""How many more file descriptors a process may have than at first: each sleeping thread needs some."""
LONGEST_LIMIT = 40
"""Milliseconds of the longest time limit, and of the longest time until an abort."""


@dataclass(frozen=True)
class Way:
    """How interrupts come to a task."""

    name: str
    actor: str
    threads: int
    coroutines: int

    @property
    def width(self) -> int:
        """How many messages a process runs at the same time."""
        return self.coroutines or self.threads


WAYS = {
    way.name: way
    for way in (
        Way("signal", "suffer", threads=1, coroutines=0),
        Way("threads", "suffer", threads=3, coroutines=0),
        Way("coroutines", "suffer_async", threads=1, coroutines=4),
    )
}


class Wrong(Exception):
    """Something was not as it should be."""


@dataclass
class Totals:
    raised: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    interrupted: int = 0
    """Sends that were interrupted, of which so many ..."""
    stored_anyway: int = 0
    dead: int = 0
    """Messages that were interrupted before their actor had begun to catch that."""
    twice: int = 0
    """Messages that were interrupted by two at once."""
    descriptors: list[int] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.raised.items()))
        places = ", ".join(f"{place} {count}" for place, count in self.places.most_common())
        yield f"  raised: {sum(self.raised.values())} ({kinds})"
        yield f"  landed: {sum(self.places.values())} (in {places}), and {self.dead} before the actor caught them"
        yield f"  besides, messages with a time limit and an abort at once: {self.twice}"
        yield f"  sends that returned: {self.sent}, each stored once"
        yield f"  sends that were interrupted: {self.interrupted}, of which {self.stored_anyway} had stored"
        yield f"  file descriptors of a process: {self.descriptors[0]} at first, {max(self.descriptors)} at most"


class Torture:
    """One way, one file, one pool that is interrupted, and one that answers it."""

    def __init__(self, way: Way, folder: Path, seed: int, processes: int) -> None:
        self.way = way
        self.folder = folder
        self.processes = processes
        self.totals = Totals()
        self._random = random.Random(f"{seed} {way.name}")
        self._rests = 0
        (folder / "rest").write_text("0")
        self.broker = SQLiteBroker(folder / "jobs.db")
        self.broker.add_middleware(localq.results.Results(store_results=True))
        self._pools: list[subprocess.Popen[bytes]] = []

    # -- the pools

    def start(self) -> None:
        way = self.way
        width = ["-t", str(way.threads), "--async-concurrency", str(way.coroutines)]
        self._start_pool("-Q", "echo", "-p", "1")
        self._start_pool("-Q", "torture", "-p", str(self.processes), *width)
        self._wait(lambda: len(self._workers()) == self.processes + 1, "all workers are there")

    def _start_pool(self, *arguments: str) -> None:
        env = {
            **os.environ,
            "LOCALQ_URL": f"sqlite:///{self.folder / 'jobs.db'}",
            "TORTURE_FOLDER": str(self.folder),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "localq", "tests.torture.interrupted", *arguments]
        with open(self.folder / "log", "ab") as log:
            pool = subprocess.Popen(
                command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._pools.append(pool)

    def _workers(self) -> set[int]:
        return {worker.pid for worker in self.broker.store.workers()}

    def stop(self) -> None:
        """Stop the pools in order, which must succeed."""
        for pool in self._pools:
            pool.send_signal(signal.SIGTERM)
        codes = [pool.wait(PATIENCE) for pool in self._pools]
        if any(codes):
            raise Wrong(f"the pools ended with {codes}")

    def ask_where_they_are(self) -> None:
        """Have the processes write where all their threads are, for whoever looks into the log."""
        for pid in self._workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1)

    def kill(self) -> None:
        for pool in self._pools:
            with suppress(ProcessLookupError):
                pool.kill()
            pool.wait()
        self.broker.close()

    # -- batches

    def run(self, interrupts: int) -> Totals:
        """Interrupt so many times: one in twenty by the middleware."""
        by_middleware = interrupts // 20
        # Each comes to as many shutdown notices as messages run side by side.
        self._reload(times=min(50, max(1, by_middleware // 10 // (self.processes * self.way.width))))
        while (left := by_middleware - self._raised_by_middleware) > 0:
            self._run_once(min(left, 200))
        self._run_twice(by_middleware // 20)
        while (left := interrupts - sum(self.totals.raised.values())) > 0:
            messages = self.processes * self.way.width
            self._suffer(messages, max(1, min(20, left // messages)))
        return self.totals

    _raised_by_middleware = 0

    def _suffer(self, messages: int, count: int) -> None:
        sent = [self._send(self.way.actor, self._seed(), count) for _ in range(messages)]
        journals = [self._journal(message) for message in sent]
        self._account([journal for journal in journals if journal is not None])

    def _run_once(self, messages: int) -> None:
        """Half of them by time limits, half by aborts."""
        sent = []
        for number in range(messages):
            millis = self._random.uniform(3, LONGEST_LIMIT)
            if number % 2:
                sent.append((self._send_once(millis / 1000), "abort"))
            else:
                sent.append((self._send_once(None, time_limit=int(millis)), "time limit"))
        self._account_once(sent)

    def _run_twice(self, messages: int) -> None:
        """Each by its time limit and by an abort, both at once; nobody counts where those land."""
        sent = []
        for _ in range(messages):
            millis = self._random.randint(5, LONGEST_LIMIT)
            abort_after = max(0.0, millis + self._random.uniform(-2, 0)) / 1000
            actor = self.way.actor.replace("suffer", "suffer_twice")
            sent.append(self._send(actor, self._seed(), abort_after, time_limit=millis))
        for message in sent:
            self._wait_for_end(message)
        self._account([], besides=[message.message_id for message in sent])
        self.totals.twice += messages

    def _reload(self, times: int) -> None:
        """By shutdown notices: the pool is told to replace its workers while they work."""
        for _ in range(times):
            messages = self.processes * self.way.width
            sent = [(self._send_once(None, notify_shutdown=True), "shutdown") for _ in range(messages)]
            for message, _ in sent:
                self._wait((self.folder / f"begun-{message.message_id}").exists, "all have begun")
            before = self._workers()
            self._pools[1].send_signal(signal.SIGHUP)
            self._wait(lambda old=before: len(self._workers() - old) == self.processes, "others are there")
            self._account_once(sent)

    def _account_once(self, sent: list[tuple[Message[Any], str]]) -> None:
        journals = []
        for message, kind in sent:
            self.totals.raised[kind] += 1
            self._raised_by_middleware += 1
            journal = self._journal(message)
            if journal is None:  # it was interrupted before it had begun to keep one, or to send
                self.totals.dead += 1
            else:
                journals.append(journal)
        self._account(journals)

    def _send(self, actor: str, *args: Any, **options: Any) -> Message[Any]:
        return self.broker.enqueue(Message("torture", actor, args, {}, options))

    def _send_once(self, abort_after: float | None, **options: Any) -> Message[Any]:
        return self._send(self.way.actor.replace("suffer", "suffer_once"), self._seed(), abort_after, **options)

    def _seed(self) -> str:
        return str(self._random.getrandbits(64))

    def _journal(self, message: Message[Any]) -> dict[str, Any] | None:
        """What a message has written, when it has ended."""
        self._wait_for_end(message)
        file = self.folder / f"journal-{message.message_id}"
        if not file.exists():
            return None
        journal: dict[str, Any] = json.loads(file.read_bytes())
        file.unlink()
        for problem in ("lost", "wrong"):
            if journal[problem]:
                raise Wrong(f"{problem}: {journal[problem]}")
        self.totals.raised.update(journal["raised"])
        self.totals.places.update(journal["places"])
        return journal

    def _wait_for_end(self, message: Message[Any]) -> None:
        try:
            backend = self.broker.get_results_backend()
            message.get_result(backend=backend, block=True, timeout=PATIENCE * 1000)
        except ResultFailure as error:  # so does a coroutine end that was cancelled
            if error.orig_exc_type not in ("TimeLimitExceeded", "Abort", "Shutdown"):
                raise

    # -- looking at what is left

    def _account(self, journals: list[dict[str, Any]], besides: Sequence[str] = ()) -> None:
        """Look at all that was sent by those who wrote these journals, and `besides` by those messages."""
        self._look_at_rest()
        found = [(number, state) for number, state in self._kept() if number.partition("/")[0] not in besides]
        doubled = [number for number, count in Counter(number for number, _ in found).items() if count > 1]
        states = dict(found)
        returned = [number for journal in journals for number in journal["returned"]]
        cancelled = [number for journal in journals for number in journal["cancelled"]]
        attempted = [numbers for journal in journals for numbers in journal["attempted"]]
        problems = {
            "stored twice": doubled,
            "lost": [number for number in returned if number not in states],
            "out of nowhere": list(states.keys() - {number for numbers in attempted for number in numbers}),
            "not cancelled": [number for number in cancelled if states.get(number) != "cancelled"],
            "halves of groups": [each for each in attempted if 0 < len(states.keys() & set(each)) < len(each)],
        }
        if any(problems.values()):
            raise Wrong(str({name: what for name, what in problems.items() if what}))
        interrupted = {numbers[0] for numbers in attempted} - set(returned)
        self.totals.sent += len(returned)
        self.totals.interrupted += len(interrupted)
        self.totals.stored_anyway += len(interrupted & states.keys())
        self.broker.store.purge(Selection())

    def _kept(self) -> list[tuple[str, str]]:
        store, found, after = self.broker.store, [], 0
        while records := store.browse(Selection(queues=["kept"]), limit=10_000, after=after):
            after = records[-1].sequence
            for record in records:
                message = Message.decode_stored(record.body, record.encoder, record.wire)
                found.append((message.args[0], record.state))
        return found

    def _look_at_rest(self) -> None:
        unfinished = Selection(queues=["torture", "echo"], states=[WAITING, DELAYED, RUNNING])
        self._wait(lambda: not self.broker.store.browse(unfinished, limit=1), "nothing runs")
        workers = self._workers()
        for pid in workers:
            self._wait((self.folder / f"looks-{pid}").exists, f"process {pid} is ready to look")
        self._say_that_all_rest()
        for pid in workers:
            file = self.folder / f"rested-{self._rests}-{pid}"
            self._wait(file.exists, f"process {pid} has looked")
            found = json.loads(file.read_bytes())
            if found["problems"]:
                raise Wrong(f"process {pid}: {found['problems']}")
            self.totals.descriptors.append(found["descriptors"])
            if found["descriptors"] > self.totals.descriptors[0] + MORE_DESCRIPTORS:
                raise Wrong(f"process {pid} has {found['descriptors']} file descriptors open")
        self._look_at_gate()
        backend = SQLiteBackend(self.folder / "jobs.db")
        if not backend.incr("torture", 1000, 1000, 1000) or not backend.decr("torture", 1000, 0, 1000):
            raise Wrong("a place under the rate limit is still taken")

    def _say_that_all_rest(self) -> None:
        self._rests += 1
        (fresh := self.folder / "rest.fresh").write_text(str(self._rests))
        fresh.replace(self.folder / "rest")

    def _look_at_gate(self) -> None:
        descriptor = os.open(self.folder / "jobs.db.localq" / "gate", os.O_RDWR)
        try:
            self._wait(lambda: try_lock(descriptor), "the gate is free")
        finally:
            os.close(descriptor)

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > give_up:
                raise Wrong(f"it did not come true that {what}")
            time.sleep(0.002)


def run(way: Way, *, seed: int, interrupts: int, processes: int) -> Totals:
    """Interrupt so many times, and say what came of it.

    Raises:
      Wrong: something was not as it should be. The folder, whose name it tells, is then kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="localq-interrupts-"))
    torture = Torture(way, folder, seed, processes)
    try:
        torture.start()
        totals = torture.run(interrupts)
        torture.stop()
    except BaseException as error:
        if isinstance(error, Exception):
            torture.ask_where_they_are()
            log = (folder / "log").read_text("utf-8")[-3000:]
            what = f"{way.name}, seed {seed}, folder {folder}\n{type(error).__name__}: {error}"
            raise Wrong(f"...{log}\n{what}") from error
        raise
    finally:
        torture.kill()
    shutil.rmtree(folder)
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--interrupts", type=int, default=100_000, help="of each way")
    parser.add_argument("--way", choices=WAYS, action="append", help="all by default; may be repeated")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, seed {arguments.seed}")
    for name in arguments.way or WAYS:
        began = time.monotonic()
        totals = run(
            WAYS[name], seed=arguments.seed, interrupts=arguments.interrupts, processes=arguments.processes
        )
        print(f"{name}, {time.monotonic() - began:.0f} s")
        print(*totals.lines(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
