"""One runner of messages: claim, execute, finish.

What a burst of short messages came to and the claim of the next ones share one
transaction. A burst is a bet that its messages are short; it is lost when one
of them takes longer than `OVERRUN`. The timekeeper then calls `give_back` from
its own thread, so that nobody waits behind a slow task. That is why a burst
lives in two deques: their ends can be taken from two threads without a lock,
and each message by one of them only.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from . import current
from .clock import clock
from .errors import StoreError, StoreReplaced, text_of
from .execution import Execution
from .logging import get_logger
from .store import Claim, Outcome, Record
from .store.base import ALONE, DEAD, RELEASE, nothing
from .threading import Interrupt, Interruptible

if TYPE_CHECKING:
    from .cells import Cell
    from .consumer import MessageProxy
    from .worker import Worker

LONGEST_BURST = 32
BURST_WORK = 4.0
"""Milliseconds of work that a burst should take."""
OVERRUN = 20.0
"""Milliseconds after which a running message is not what its burst bet on."""

GATHERING = 0.5
"""Milliseconds that messages of a stream come together before they are claimed. Each claim keeps all others out of
the gate, and one of many costs little more than one of few."""
LONG_SLEEP = 10_000
"""Milliseconds that an idle thread sleeps if no bell rings. The housekeeper looks every second; but the bell may
have rung for a process that is stopped, and that may be the housekeeper itself."""
FIRST_PAUSE = 0.1
"""Seconds until the second try while the store cannot be used; it doubles."""
TELL_INTERVAL = 30_000
"""Milliseconds between two lines of a thread about a store that cannot be used: on a disk that is almost full, some
writes succeed and others do not."""

Ended = tuple[Outcome, Callable[[], None]]
"""What became of a message, and what is to be called when that is written."""

no_lock: AbstractContextManager[None] = nullcontext()
"""What is entered where there is nobody to keep out."""


class WorkerThread(threading.Thread):
    """A runner of messages; `run` is its whole life, on a thread of its own or on the caller's.

    Parameters:
      worker: what it belongs to.
      number: which of its threads, from 0.
    """

    def __init__(self, worker: Worker, number: int) -> None:
        super().__init__(name=f"localq worker {number}", daemon=True)
        self.logger = get_logger("localq.worker", type(self))
        self.worker = worker
        self.broker = worker.broker
        self.number = number
        self.paused = False
        self.paused_event = threading.Event()
        self.ended = threading.Event()
        self.telling = 0
        """How many writes are not yet told to all hooks."""
        self._telling = threading.Lock()
        self.idle = False
        self.bursting = False
        """Whether there is a bet that the timekeeper must watch."""
        self.started_at = 0.0
        """When the message that runs now was started, in monotonic milliseconds; 0 for none."""
        self._resumed = threading.Event()
        self._stopping = False
        self._claimed: deque[Record] = deque()
        self._ended: deque[Ended] = deque()
        self._burst = 1
        self._longest = 0.0
        self._is_in_a_stream = False
        """Whether several messages are there at each claim, and are so short that none is left at the next."""
        self._failures = 0
        self._cell: Cell | None = None
        self._has_told, self._told_at = False, -math.inf
        self._execution: Execution

    # -- orders from other threads

    def stop(self) -> None:
        """Start no further message."""
        self._stopping = True
        self._resumed.set()

    def pause(self) -> None:
        """Start no further message until `resume`; `paused_event` tells when none runs."""
        self._resumed.clear()
        self.paused = True
        if self.idle:
            self.broker.store.wake()

    def resume(self) -> None:
        """Go on after `pause`."""
        self.paused = False
        self.paused_event.clear()
        self._resumed.set()

    def give_back(self) -> bool:
        """Write what has ended, and give back what was claimed but not started; say whether that could be done."""
        not_started = take(self._claimed)
        ended = take(self._ended)
        if not not_started and not ended:
            return True
        try:
            self._write([*ended, *map(released, not_started)])
        except StoreReplaced as error:
            self.worker.strand(error)
            return False
        except StoreError as error:
            # `_write` keeps what it could not write; it is tried again with the next claim.
            if not_started:
                self.logger.warning("Cannot give back %d messages now: %s", len(not_started), error)
            return False
        return True

    # -- the life of the thread

    def run(self, *, by_signal: bool = False) -> None:
        """Claim, execute, finish, until told to stop.

        `by_signal`: it runs on the main thread of a process of ours, so that interrupts can end
        blocking calls too.
        """
        self.door = Interruptible(by_signal=by_signal)
        cells = self.worker.cells
        self._cell = current.thread.cell = None if cells is None else cells.of_thread(self.number)
        self.broker.emit_after("consumer_thread_boot", self)
        self.broker.emit_after("worker_thread_boot", self)
        try:
            while not self._stopping:
                self._rest_while_paused()
                self._work_or_sleep()
            self.give_back()
        finally:
            self.broker.announce("consumer_thread_shutdown", self)
            self.broker.announce("worker_thread_shutdown", self)
            self.door.forget()
            current.thread.cell = None
            self.ended.set()

    def _rest_while_paused(self) -> None:
        if self.paused:
            self.give_back()
            self.paused_event.set()
            self._resumed.wait()

    def _work_or_sleep(self) -> None:
        try:
            if self._is_in_a_stream:
                time.sleep(GATHERING / 1000)
            most, count = self._burst, self._claim()
            if count:
                self._run_burst()
            else:
                self._sleep()
            self._is_in_a_stream = 1 < count < most and count * self._longest < GATHERING
            self._failures = 0
        except StoreError as error:
            self._pause_after(error)

    def _claim(self) -> int:
        """Claim messages, of which those of async actors are started; say how many."""
        worker = self.worker
        return len(self._write(take(self._ended), Claim(worker.id, worker.queues, self._burst)))

    def _sleep(self) -> None:
        worker = self.worker
        self.idle = True
        try:
            if not self.paused:  # from here on who pauses it sees that it is idle, and wakes it
                now = clock.wall()
                self.broker.store.wait(worker.queues, now=now, timeout=LONG_SLEEP, skip=worker.left_alone)
        finally:
            self.idle = False

    def _pause_after(self, error: StoreError) -> None:
        if isinstance(error, StoreReplaced):
            self.worker.strand(error)
            return
        self._has_told = self._has_told and self._failures > 0
        if not self._has_told and clock.monotonic() - self._told_at > TELL_INTERVAL:
            self._has_told, self._told_at = True, clock.monotonic()
            self.logger.error("The store cannot be used; trying again until it can: %s", error)
        pause = min(FIRST_PAUSE * 2**self._failures, self.worker.longest_pause)
        self._failures += 1
        self._resumed.clear()
        if not self._stopping:
            self._resumed.wait(pause)

    # -- a burst

    def _run_burst(self) -> None:
        self._longest = 0.0
        if len(self._claimed) > 1:
            self.bursting = True
            self.worker.watch_bursts()
        while not self._stopping and not self.paused:
            try:
                record = self._claimed.popleft()
            except IndexError:
                break
            self._run_one(record)
        self.bursting = False
        size = BURST_WORK / self._longest if self._longest else LONGEST_BURST
        self._burst = max(1, min(self._burst * 2, int(size), LONGEST_BURST))

    def _run_one(self, record: Record) -> None:
        worker = self.worker
        try:
            is_for_others = record.actor not in self.broker.actors and worker.leave_to_others(record.actor)
        except StoreError:
            self._ended.append(released(record))
            raise
        if is_for_others:
            self._ended.append(released(record))
            return
        if self._claimed and not worker.is_short(record.actor):
            self.give_back()  # what may be slow runs as a burst of its own
        try:
            with worker.turn_for(record):
                self._execute(record)
                if record.lane == ALONE:
                    self.give_back()  # written before the next suspect may end this process
        except Interrupt:
            # It landed outside the actor after all, between two of our own lines.
            self.logger.warning("Message %s was interrupted too late; it runs again.", record.message_id)
            self._ended.append(released(record))
        except BaseException as error:  # a hook wants to end the program, or one of our lines is wrong
            self.logger.critical("Message %s is a dead letter.", record.message_id, exc_info=True)
            self._ended.append((Outcome(record, DEAD, f"{type(error).__name__}: {text_of(error)}"), nothing))

    def _execute(self, record: Record) -> None:
        cell = self._cell
        started = self.started_at = time.monotonic() * 1000
        if cell is not None:
            cell.enter(record.sequence, record.claim)
        execution = self._execution = Execution(self.broker, record, self.door)
        try:
            self.process_message(execution.message)
        finally:
            del self._execution  # it holds what the actor returned
        if cell is not None:
            cell.leave()
        self.started_at = 0.0
        self._ended.append((execution.outcome, execution.tell))
        usual = self.worker.learn(record.actor, time.monotonic() * 1000 - started)
        self._longest = max(self._longest, usual)

    def process_message(self, message: MessageProxy) -> None:
        """Run the actor of the message that was claimed, and all hooks around it. For tracers, which replace
        this method by one that calls it."""
        self._execution.run()

    # -- writing

    def _write(self, ended: list[Ended], claim: Claim | None = None) -> list[Record]:
        """Write what became of messages, and claim the next ones, in one transaction."""
        with self._telling:
            self.telling += 1
        try:
            return self._write_and_tell(ended, claim)
        finally:
            with self._telling:
                self.telling -= 1

    def _write_and_tell(self, ended: list[Ended], claim: Claim | None) -> list[Record]:
        outcomes = [outcome for outcome, _ in ended]
        try:
            claimed = self._finish(outcomes, claim)
        except StoreError:
            self._ended.extendleft(reversed(ended))
            raise
        except Exception as error:
            if len(ended) == 1 and claim is None:
                self._bury_unwritable(outcomes[0], error)
            else:
                # One of them cannot be written at all: find it, so that the others are not lost with it.
                self.logger.exception("Cannot write %d outcomes at once; trying one by one.", len(ended))
                for one in ended:
                    self._write([one])
            return []
        for _, tell in ended:
            tell()
        return claimed

    def _finish(self, outcomes: list[Outcome], claim: Claim | None) -> list[Record]:
        """As the store's. What was claimed has been handed over to the lane, or else is in `_claimed`."""
        store, lane = self.broker.store, self.worker.lane
        if claim is None:
            return store.finish(outcomes, now=clock.wall())
        with lane.filling if lane is not None else no_lock:
            claim.skip = self.worker.left_alone()
            if lane is not None:
                claim.limit = min(claim.limit, lane.room or claim.limit)  # from here on it can only grow
            claimed = store.finish(outcomes, now=clock.wall(), claim=claim)
            for record in claimed:
                if lane is None or not lane.run(record):
                    self._claimed.append(record)
        return claimed

    def _bury_unwritable(self, outcome: Outcome, error: Exception) -> None:
        reason = f"its outcome cannot be written: {type(error).__name__}: {error}"
        self.logger.error("Message %s is a dead letter: %s", outcome.record.message_id, reason)
        dead = Outcome(outcome.record, DEAD, reason.encode("utf-8", "backslashreplace").decode())
        self.broker.store.finish([dead], now=clock.wall())


def take(queue: deque[Any]) -> list[Any]:
    """Empty a deque from its front, also while another thread does."""
    taken = []
    while True:
        try:
            taken.append(queue.popleft())
        except IndexError:
            return taken


def released(record: Record) -> Ended:
    return Outcome(record, RELEASE), nothing
