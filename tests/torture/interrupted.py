"""The worker processes of `tests.torture.interrupts`: actors that are interrupted all the time.

Each has a tormentor, a thread that raises one interrupt after the other in it, each as soon as the one
before has landed and a random number of microseconds is over. The actor catches them, keeps a journal of
what it had sent by then, and goes on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import localq
from localq.aborting import Abortable
from localq.actor import Actor
from localq.composition import group
from localq.errors import ResultMissing, ResultTimeout
from localq.message import Message
from localq.middleware import CurrentMessage, Shutdown, TimeLimitExceeded
from localq.rate_limits import ConcurrentRateLimiter
from localq.rate_limits.backends import SQLiteBackend
from localq.threading import Abort, Interrupt, raise_thread_exception

FOLDER = Path(os.environ.get("TORTURE_FOLDER", "."))
KINDS: dict[str, type[Interrupt]] = {"time limit": TimeLimitExceeded, "abort": Abort, "shutdown": Shutdown}
PATIENCE = 20
"""Seconds within which an interrupt must have landed, and a lock must be free when all rest."""
LONGEST_DELAY = 0.000_4
"""Seconds until the next interrupt, at most: a few times as long as a send takes."""

broker = localq.get_broker()
limiter = ConcurrentRateLimiter(SQLiteBackend(), "torture", limit=1000)
logger, handler = logging.Logger("of a task"), logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115
logger.addHandler(handler)
runners: dict[str, int] = {}
"""The thread of each message that runs here."""


@localq.actor(queue_name="kept")
def kept(number: str) -> None:
    """Sent, and counted in the queue: no worker serves that."""


@localq.actor(queue_name="echo")
def echo(number: str) -> str:
    return number


# -- interrupts, and where they land


class Tormentor(threading.Thread):
    """Raises interrupts in a thread, each when the one before has landed."""

    def __init__(self, sufferer: Sufferer, thread: int, count: int, seed: str) -> None:
        super().__init__(name="tormentor", daemon=True)
        self._sufferer = sufferer
        self._thread = thread
        self._count = count
        self._random = random.Random(seed)
        self.raised: Counter[str] = Counter()
        self.lost: list[str] = []

    def run(self) -> None:
        while self._sufferer.landed < self._count and not self.lost:
            while not self._sufferer.is_ready:
                time.sleep(0.000_01)
            time.sleep(self._random.uniform(0, LONGEST_DELAY))
            self._raise(self._random.choice(list(KINDS)))

    def _raise(self, kind: str) -> None:
        landed = self._sufferer.landed
        if not raise_thread_exception(self._thread, KINDS[kind]):
            self.lost.append(f"refused: {kind}")
        self.raised[kind] += 1
        broker.store.wake()  # as those do who raise them, so that it also ends our own waits
        give_up = time.monotonic() + PATIENCE
        while self._sufferer.landed == landed:
            if time.monotonic() > give_up:
                self.lost.append(f"{kind}, in {self._sufferer.where_it_is(self._thread)}")
                return
            time.sleep(0.000_02)


PLACES = {
    Actor.send.__code__: "send",
    Actor.asend.__code__: "send",
    Message.get_result.__code__: "get_result",
    Message.aget_result.__code__: "get_result",
    group.run.__code__: "group.run",
    group.arun.__code__: "group.run",
    Abortable.abort.__code__: "abort",
    ConcurrentRateLimiter.acquire.__wrapped__.__code__: "rate limit",  # type: ignore[attr-defined]
}


def place_of(traceback: TracebackType | None) -> str:
    """In what of ours it was raised: the outermost, as the actor sees it."""
    while traceback is not None:
        place = PLACES.get(traceback.tb_frame.f_code)
        if place is not None:
            return place
        traceback = traceback.tb_next
    return "elsewhere"


class Sufferer:
    """What an actor does while it is interrupted, and its journal of that."""

    def __init__(self, seed: str) -> None:
        self.is_ready = False
        """Whether an interrupt would land where it is caught and counted."""
        self.landed = 0
        self.places: Counter[str] = Counter()
        self.attempted: list[list[str]] = []
        """What was about to be sent: each list is stored whole or not at all."""
        self.returned: list[str] = []
        """What was sent, since the call returned."""
        self.cancelled: list[str] = []
        self.wrong: list[str] = []
        self._name = f"{CurrentMessage.get_current_message().message_id}"
        self._numbers = itertools.count()
        self._random = random.Random(seed)

    def where_it_is(self, thread: int) -> str:
        frame, names = sys._current_frames().get(thread), []
        while frame is not None and frame.f_code.co_name != "step_for_ever":
            names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return " < ".join(names)

    def endure(self) -> None:
        """Go on until the next interrupt has landed."""
        try:
            self.is_ready = True
            self.step_for_ever()
        except Interrupt as error:
            self._note_landing(place_of(error.__traceback__))

    def _note_landing(self, place: str) -> None:
        self.is_ready = False
        self.places[place] += 1
        self.landed += 1

    def step_for_ever(self) -> None:
        steps: list[Callable[[], None]] = [
            self._send, self._send, self._send, self._send_group, self._echo, self._wait_in_vain,
            self._look, self._look, self._take_a_place, self._abort, self._log,
        ]  # fmt: skip
        while True:
            self._random.choice(steps)()

    # -- steps

    def _numbered(self, count: int) -> list[str]:
        numbers = [f"{self._name}/{next(self._numbers)}" for _ in range(count)]
        self.attempted.append(numbers)
        return numbers

    def _send(self) -> None:
        (number,) = self._numbered(1)
        kept.send(number)
        self.returned.append(number)

    def _send_group(self) -> None:
        numbers = self._numbered(3)
        group(kept.message(number) for number in numbers).run()
        self.returned += numbers

    def _abort(self) -> None:
        (number,) = self._numbered(1)
        message = kept.send(number)
        self.returned.append(number)
        localq.abort(message.message_id)
        self.cancelled.append(number)

    def _echo(self) -> None:
        number = str(next(self._numbers))
        if echo.send(number).get_result(block=True, timeout=PATIENCE * 1000) != number:
            self.wrong.append(f"the result of another message than {number}")

    def _wait_in_vain(self) -> None:
        try:
            self.wrong.append(kept.message("never sent").get_result(block=True, timeout=5))  # type: ignore[arg-type]
        except ResultTimeout:
            pass

    def _look(self) -> None:
        try:
            self.wrong.append(kept.message("never sent").get_result())  # type: ignore[arg-type]
        except ResultMissing:
            pass

    def _log(self) -> None:
        for _ in range(10):
            logger.warning("again")

    def _take_a_place(self) -> None:
        with limiter.acquire():
            pass

    # -- the same in a coroutine, where an interrupt cancels

    async def endure_async(self) -> None:
        try:
            self.is_ready = True
            await self.step_for_ever_async()
        except asyncio.CancelledError as error:
            if sys.version_info >= (3, 11):
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            self._note_landing(place_of(error.__traceback__))

    async def step_for_ever_async(self) -> None:
        steps = [self._asend, self._asend, self._asend_group, self._aecho, self._await_in_vain, self._alook]
        while True:
            await self._random.choice(steps)()

    async def _asend(self) -> None:
        (number,) = self._numbered(1)
        await kept.asend(number)
        self.returned.append(number)

    async def _asend_group(self) -> None:
        numbers = self._numbered(3)
        await group(kept.message(number) for number in numbers).arun()
        self.returned += numbers

    async def _aecho(self) -> None:
        number = str(next(self._numbers))
        if await (await echo.asend(number)).aget_result(timeout=PATIENCE * 1000) != number:
            self.wrong.append(f"the result of another message than {number}")

    async def _await_in_vain(self) -> None:
        try:
            self.wrong.append(await kept.message("never sent").aget_result(timeout=5))  # type: ignore[arg-type]
        except ResultTimeout:
            pass

    async def _alook(self) -> None:
        try:
            self.wrong.append(await kept.message("never sent").aget_result(block=False))  # type: ignore[arg-type]
        except ResultMissing:
            pass

    def write_journal(self, tormentor: Tormentor | None = None) -> None:
        """For the torture. Not as the actor's result: a coroutine that was cancelled has none."""
        journal = {
            "raised": {} if tormentor is None else dict(tormentor.raised),
            "lost": [] if tormentor is None else tormentor.lost,
            "places": dict(self.places),
            "attempted": self.attempted,
            "returned": self.returned,
            "cancelled": self.cancelled,
            "wrong": self.wrong,
        }
        (FOLDER / f"journal-{self._name}").write_text(json.dumps(journal))


# -- actors that are interrupted so many times


@localq.actor(queue_name="torture", max_retries=0, notify_shutdown=False)
def suffer(seed: str, count: int) -> None:
    sufferer = Sufferer(seed)
    tormentor = Tormentor(sufferer, threading.get_ident(), count, seed)
    tormentor.start()
    for _ in range(count):
        if not tormentor.lost:
            sufferer.endure()
    tormentor.join()
    sufferer.write_journal(tormentor)


@localq.actor(queue_name="torture", max_retries=0, notify_shutdown=False)
async def suffer_async(seed: str, count: int) -> None:
    sufferer = Sufferer(seed)
    thread = runners[CurrentMessage.get_current_message().message_id]
    tormentor = Tormentor(sufferer, thread, count, seed)
    tormentor.start()
    for _ in range(count):
        if not tormentor.lost:
            await sufferer.endure_async()
    await asyncio.to_thread(tormentor.join)
    sufferer.write_journal(tormentor)


# -- actors that are interrupted once, by the middleware whose work that is


@localq.actor(queue_name="torture", max_retries=0)
def suffer_once(seed: str, abort_after: float | None = None) -> None:
    sufferer = Sufferer(seed)
    _abort_soon(abort_after)
    (FOLDER / f"begun-{CurrentMessage.get_current_message().message_id}").touch()
    sufferer.endure()
    sufferer.write_journal()


@localq.actor(queue_name="torture", max_retries=0)
async def suffer_once_async(seed: str, abort_after: float | None = None) -> None:
    sufferer = Sufferer(seed)
    _abort_soon(abort_after)
    (FOLDER / f"begun-{CurrentMessage.get_current_message().message_id}").touch()
    await sufferer.endure_async()
    sufferer.write_journal()


@localq.actor(queue_name="torture", max_retries=0)
def suffer_twice(seed: str, abort_after: float) -> None:
    """Interrupted by its time limit and an abort at nearly the same moment; it catches neither."""
    _abort_soon(abort_after)
    Sufferer(seed).step_for_ever()


@localq.actor(queue_name="torture", max_retries=0)
async def suffer_twice_async(seed: str, abort_after: float) -> None:
    _abort_soon(abort_after)
    await Sufferer(seed).step_for_ever_async()


def _abort_soon(seconds: float | None) -> None:
    if seconds is not None:
        message_id = CurrentMessage.get_current_message().message_id
        threading.Timer(seconds, localq.abort, (message_id,)).start()


# -- whether all is as it should be when all rest


class Inspector(localq.Middleware):
    """Looks into this process whenever the torture says that nothing runs (by another number in the file
    ``rest``), and writes what it found (``rested-NUMBER-PID``)."""

    def after_worker_boot(self, broker: localq.Broker, worker: localq.Worker) -> None:
        faulthandler.register(signal.SIGUSR1)  # where all threads are, when something does not end
        sys.setswitchinterval(0.000_02)  # so that an interrupt is raised between any two bytecodes
        seen = _rests()
        threading.Thread(target=self._look_whenever_asked, args=(worker, seen), daemon=True).start()
        (FOLDER / f"looks-{os.getpid()}").touch()

    def before_process_message(self, broker: localq.Broker, message: Any) -> None:
        runners[message.message_id] = threading.get_ident()

    def _look_whenever_asked(self, worker: localq.Worker, seen: str) -> None:
        while True:
            while (number := _rests()) == seen:
                time.sleep(0.005)
            seen = number
            found = {
                "problems": problems_at_rest(worker),
                "descriptors": len(os.listdir("/proc/self/fd")),
            }
            (fresh := FOLDER / f"fresh-{os.getpid()}").write_text(json.dumps(found))
            fresh.replace(FOLDER / f"rested-{number}-{os.getpid()}")


def _rests() -> str:
    return (FOLDER / "rest").read_text()


def problems_at_rest(worker: localq.Worker) -> list[str]:
    store: Any = worker.broker.store
    database, bells = store.database, store.bells
    problems = [problem for thread in worker.threads for problem in _problems_of(thread)]
    problems += _problem_of_lock("the gate's lock of threads", database.gate._threads)
    problems += _problem_of_lock("the connection's lock", database.lock._lock)
    problems += _problem_of_lock("the doorway to the connection", database.lock._doorway)
    problems += _problem_of_lock("the bells' lock", bells._lock)
    problems += _problem_of_lock("the lock of the log", handler.lock)
    if not problems:
        with database.gate, database.lock:
            if database.connection().in_transaction:
                problems.append("a transaction is open")
    # Each thread of the worker sleeps in one, and so does the one that hears of aborts.
    asleep = len(worker.threads) + 1
    if not _comes_true(lambda: len(bells._busy) <= asleep):
        problems.append(f"{len(bells._busy)} sleepers are taken, of which {asleep} at most sleep")
    return problems


def _problems_of(thread: Any) -> list[str]:
    door = getattr(thread, "door", None)
    if door is None:
        return []  # it has just been started
    problems = _problem_of_lock(f"the door of {thread.name}", door._lock)
    if door._open:
        problems.append(f"the door of {thread.name} is open")
    if not _comes_true(lambda: not door._shields):  # it may be looking for messages right now
        problems.append(f"{thread.name} is shielded {door._shields} times")
    return problems


def _problem_of_lock(name: str, lock: Any) -> list[str]:
    if not lock.acquire(timeout=PATIENCE):
        return [f"{name} is held"]
    lock.release()
    return []


def _comes_true(condition: Callable[[], bool]) -> bool:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


broker.add_middleware(Inspector())
