"""The store in this process's memory: for tests, and for programs that keep nothing.

Real semantics under one lock, the same as a file's. Records hold bytes, and are
copied on their way in and out, so that nobody shares one with the store.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ..threading import shielded
from .base import (
    ALONE,
    CANCELLED,
    DEAD,
    DEAD_LETTER_TTL,
    DELAYED,
    DONE,
    HELD,
    RELEASE,
    RUNNING,
    STATES,
    UNKNOWN_ACTOR,
    WAITING,
    Claim,
    Outcome,
    Record,
    Selection,
    WorkerRecord,
    nothing,
)
from .memory_keyed import KeyedMemory, milliseconds
from .shelves import Heap, Key, Shelf, check, check_outcome

SWEEP_BATCH = 1000

ARROWS = {
    WAITING: (DELAYED, DEAD, HELD, CANCELLED),
    HELD: (WAITING, DELAYED),
    CANCELLED: (WAITING, DELAYED, HELD),
}
"""Where `move` leads to, and from which states."""


class MemoryStore(KeyedMemory):
    """Messages, results, counters and schedules of this process; they end with it."""

    shared = False

    def __init__(self, url: str = "memory://") -> None:
        super().__init__()
        self.url = url
        self._last_sequence = self._last_position = self._last_claim = self._last_worker = 0
        self._messages: dict[int, Record] = {}  # in order of sequence, as they were put
        self._by_id: dict[str, set[int]] = {}
        self._tally: Counter[tuple[str, str]] = Counter()
        self._shelves: dict[str, dict[str, Shelf]] = {}
        self._aside = {state: Heap() for state in STATES if state not in (WAITING, DELAYED)}
        self._workers: dict[int, WorkerRecord] = {}

    # -- messages

    def put(self, records: Sequence[Record], *, now: int, on_stored: Callable[[], None] = nothing) -> None:
        check(records)
        with shielded(), self._lock:
            self._add(records, now)
        try:
            on_stored()
        finally:
            with shielded(), self._lock:
                self._changed.wake()

    def finish(self, outcomes: Sequence[Outcome], *, now: int, claim: Claim | None = None) -> list[Record]:
        for outcome in outcomes:  # all of them before the first write: a bad one leaves no half
            check_outcome(outcome)
        with shielded(), self._lock:
            for outcome in outcomes:
                self._settle(outcome, now)
            if outcomes:
                self._changed.wake()
            return [] if claim is None else self._take(claim, now)

    def wait(
        self,
        queues: Sequence[str],
        *,
        now: int,
        timeout: float,
        skip: Callable[[], frozenset[str]] = frozenset,
    ) -> bool:
        started, wakes = milliseconds(), self._wakes
        while True:
            with shielded(), self._lock:
                shelves = self._looked_at(queues, skip())
                due = min((shelf.due() for shelf in shelves), default=math.inf)
                passed = milliseconds() - started
                if due <= now + passed:
                    return True
                if passed >= timeout or wakes != self._wakes:
                    return False
                alarm = self._changed.prepare()
            self._changed.sleep(alarm, min(timeout, due - now) - passed)

    def wake(self) -> None:
        with shielded(), self._lock:
            self._wakes += 1
            self._changed.wake()
            self._happened.wake()

    def counts(self) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        with shielded(), self._lock:
            for (queue, state), number in self._tally.items():
                counts.setdefault(queue, {})[state] = number
        return counts

    def browse(self, selection: Selection, *, limit: int = 100, after: int = 0) -> list[Record]:
        with shielded(), self._lock:
            later = (record for record in self._matching(selection) if record.sequence > after)
            return [replace(record) for record in islice(later, limit)]

    def move(self, selection: Selection, state: str, *, now: int) -> int:
        sources = ARROWS.get(state, ())
        with shielded(), self._lock:
            moved = [record for record in self._matching(selection) if record.state in sources]
            self._move(moved, state, now)
            self._changed.wake()
            return len(moved)

    def purge(self, selection: Selection) -> int:
        with shielded(), self._lock:
            gone = [record for record in self._matching(selection) if record.state != RUNNING]
            for record in gone:
                self._remove(record)
            return len(gone)

    # -- workers

    def join(self, worker: WorkerRecord, *, now: int) -> int:
        with shielded(), self._lock:
            self._last_worker += 1
            number = self._last_worker
            self._workers[number] = _copy_of(worker, id=number, joined_at=now)
            self._move([record for record in self._set_aside(DEAD) if _waited_for(worker, record)], WAITING, now)
            self._changed.wake()
            return number

    def leave(self, worker: int, *, now: int) -> None:
        with shielded(), self._lock:
            self._workers.pop(worker, None)
            for record in self._set_aside(RUNNING):
                if record.owner == worker:
                    self._exit(record)
                    _give_back(record)
                    self._enter(record)
            self._changed.wake()

    def reap(self, *, now: int, max_crashes: int = 3) -> int:
        return 0  # a worker of this store cannot die without it

    def workers(self) -> list[WorkerRecord]:
        with shielded(), self._lock:
            return [_copy_of(worker) for worker in self._workers.values()]

    # -- life

    def sweep(self, *, now: int) -> int:
        expiring = (self._values, self._counters, self._events)
        with shielded(), self._lock:
            swept = self._sweep_dead_letters(now)
            swept += sum(each.sweep(now, SWEEP_BATCH) for each in expiring)
            self._clear_empty_shelves()
            return swept

    def info(self) -> dict[str, Any]:
        with shielded(), self._lock:
            return {"store": "memory", "url": self.url, "messages": len(self._messages)}

    def close(self) -> None:
        self.wake()

    # -- the steps of the verbs, all under the lock

    def _add(self, records: Iterable[Record], now: int) -> None:
        for given in records:
            self._last_sequence += 1
            record = Record(
                given.message_id,
                given.queue,
                given.actor,
                given.body,
                given.encoder,
                given.wire,
                given.priority,
                given.eta,
                given.lane,
                given.root,
                given.unique_key,
                created_at=given.created_at or now,
                sequence=self._last_sequence,
            )
            self._messages[record.sequence] = record
            self._by_id.setdefault(record.message_id, set()).add(record.sequence)
            self._line_up(record, now)
            self._enter(record)

    def _remove(self, record: Record) -> None:
        self._exit(record)
        del self._messages[record.sequence]
        namesakes = self._by_id[record.message_id]
        namesakes.remove(record.sequence)
        if not namesakes:
            del self._by_id[record.message_id]

    def _line_up(self, record: Record, now: int) -> None:
        """Let a message wait for its eta, if that is still to come, or else for its turn."""
        if record.eta is not None and record.eta > now:
            record.state, record.position = DELAYED, record.eta * 1000
        else:
            record.state, record.position = WAITING, self._next_position(now)

    def _next_position(self, now: int) -> int:
        # Always past the last one: a clock that jumps back must not let the young overtake.
        self._last_position = max(now * 1000, self._last_position + 1)
        return self._last_position

    def _enter(self, record: Record) -> None:
        """Put a message where its state belongs; `_exit` takes it out before that changes."""
        self._tally[record.queue, record.state] += 1
        self._heap_of(record).add(_key(record))

    def _exit(self, record: Record) -> None:
        self._heap_of(record).remove(_key(record))
        self._tally[record.queue, record.state] -= 1
        if not self._tally[record.queue, record.state]:
            del self._tally[record.queue, record.state]

    def _heap_of(self, record: Record) -> Heap:
        if record.state not in (WAITING, DELAYED):
            return self._aside[record.state]
        actors = self._shelves.setdefault(record.queue, {})
        shelf = actors.get(record.actor)
        if shelf is None:
            shelf = actors[record.actor] = Shelf()
        if record.state == DELAYED:
            return shelf.delayed
        return shelf.suspects if record.lane == ALONE else shelf.waiting

    def _set_aside(self, state: str) -> list[Record]:
        return [self._messages[number] for number in sorted(key[-1] for key in self._aside[state])]

    def _looked_at(self, queues: Iterable[str], skip: Collection[str]) -> Iterator[Shelf]:
        for queue in dict.fromkeys(queues):
            for actor, shelf in self._shelves.get(queue, {}).items():
                if actor not in skip:
                    yield shelf

    def _take(self, claim: Claim, now: int) -> list[Record]:
        self._last_claim += 1
        shelves = list(self._looked_at(claim.queues, claim.skip))
        for shelf in shelves:
            self._promote(shelf, now)
        suspects = heapq.merge(*(shelf.suspects.up_to() for shelf in shelves))
        chosen = [self._start(key, claim, now) for key in islice(suspects, min(1, claim.limit))]
        if chosen:
            return chosen
        ready = heapq.merge(*(shelf.waiting.up_to() for shelf in shelves))
        return [self._start(key, claim, now) for key in islice(ready, claim.limit)]

    def _promote(self, shelf: Shelf, now: int) -> None:
        for key in shelf.delayed.up_to(now * 1000):
            record = self._messages[key[-1]]
            self._exit(record)
            record.state = WAITING  # at its old position, which is its eta
            self._enter(record)

    def _start(self, key: Key, claim: Claim, now: int) -> Record:
        record = self._messages[key[-1]]
        self._exit(record)
        record.state, record.attempts = RUNNING, record.attempts + 1
        record.owner, record.claim, record.claimed_at = claim.worker, self._last_claim, now
        self._enter(record)
        return replace(record)

    def _settle(self, outcome: Outcome, now: int) -> None:
        record = self._messages.get(outcome.record.sequence)
        if record is None or not _in_force(outcome, record):
            return
        outcome.written = True
        if self._has_found_its_actor(outcome):
            outcome = Outcome(outcome.record, RELEASE)
        self._conclude(record, outcome, now)
        self._add(outcome.puts, now)
        self._keep(outcome.values, now)
        for count in outcome.counts:
            self._count(count, now)
        self._put_events(outcome.events, now)

    def _conclude(self, record: Record, outcome: Outcome, now: int) -> None:
        if outcome.kind == DONE:
            self._remove(record)
            return
        self._exit(record)
        if outcome.kind == RELEASE:
            _give_back(record)
        elif outcome.kind in (DEAD, CANCELLED):
            record.state, record.reason, record.died_at = outcome.kind, outcome.reason, now
            record.traceback = outcome.traceback
            record.owner = record.claimed_at = record.verdict = None
        elif outcome.retry is not None:
            _renew(record, outcome.retry)
            self._line_up(record, now)
        self._enter(record)

    def _has_found_its_actor(self, outcome: Outcome) -> bool:
        unknown = outcome.kind == DEAD and outcome.reason == f"{UNKNOWN_ACTOR}: {outcome.record.actor}"
        return unknown and any(outcome.record.actor in worker.actors for worker in self._workers.values())

    def _move(self, records: Sequence[Record], state: str, now: int) -> None:
        revived = {record.message_id for record in records if record.state in (DEAD, CANCELLED)}
        if revived:
            self._values.drop_all(lambda value: value.until_revived in revived)
        for record in records:
            self._shift(record, state, now)

    def _shift(self, record: Record, state: str, now: int) -> None:
        self._exit(record)
        if record.state in (DEAD, CANCELLED):
            record.attempts = record.crashes = 0
            record.verdict = record.reason = record.died_at = record.traceback = None
        record.state = state
        if state == CANCELLED:
            record.died_at = now
        if state == WAITING:
            record.eta, record.position = None, self._next_position(now)
        self._enter(record)

    def _matching(self, selection: Selection) -> Iterator[Record]:
        """The messages that are meant, in order of sequence."""
        fields = {
            "state": selection.states,
            "queue": selection.queues,
            "actor": selection.actors,
            "message_id": selection.message_ids,
        }
        given = [(name, frozenset(wanted)) for name, wanted in fields.items() if wanted is not None]
        for number in self._numbers(selection):
            record = self._messages.get(number)
            if record and all(getattr(record, name) in wanted for name, wanted in given):
                yield record

    def _numbers(self, selection: Selection) -> Iterable[int]:
        if selection.sequences is not None:
            return sorted(set(selection.sequences))
        if selection.message_ids is not None:
            ids = set(selection.message_ids)
            return sorted(number for each in ids for number in self._by_id.get(each, ()))
        return self._messages

    def _sweep_dead_letters(self, now: int) -> int:
        swept = 0
        for state in (DEAD, CANCELLED):
            for key in islice(self._aside[state].up_to(now - DEAD_LETTER_TTL), SWEEP_BATCH):
                self._remove(self._messages[key[-1]])
                swept += 1
        return swept

    def _clear_empty_shelves(self) -> None:
        for queue, shelves in list(self._shelves.items()):
            for actor in [actor for actor, shelf in shelves.items() if not shelf]:
                del shelves[actor]
            if not shelves:
                del self._shelves[queue]


def _copy_of(worker: WorkerRecord, **changes: Any) -> WorkerRecord:
    lists: dict[str, Any] = {"queues": list(worker.queues), "actors": list(worker.actors)}
    return replace(worker, **lists, **changes)


def _key(record: Record) -> Key:
    """Where a message stands in the heap of its state."""
    if record.state == WAITING:
        return record.priority, record.position, record.sequence
    if record.state == DELAYED:
        return record.position, record.sequence
    return record.died_at or 0, record.sequence


def _in_force(outcome: Outcome, record: Record) -> bool:
    claimed = outcome.record
    if outcome.kind == CANCELLED and claimed.owner is None:
        return record.state in ARROWS[CANCELLED]
    same_claim = (claimed.owner, claimed.claim) == (record.owner, record.claim)
    return record.state == RUNNING and same_claim


def _give_back(record: Record) -> None:
    """As if it had never been claimed: uncharged, and at its old position."""
    record.state, record.attempts = WAITING, record.attempts - 1
    record.owner = record.claimed_at = None


def _renew(record: Record, retry: Record) -> None:
    """Take over what was sent anew, and keep what has become of the message so far."""
    record.body, record.encoder, record.wire = retry.body, retry.encoder, retry.wire
    record.queue, record.actor, record.lane = retry.queue, retry.actor, retry.lane
    record.priority, record.eta = retry.priority, retry.eta
    record.root, record.unique_key = retry.root, retry.unique_key
    record.owner = record.claimed_at = record.verdict = None


def _waited_for(worker: WorkerRecord, record: Record) -> bool:
    return (
        (record.reason or "").startswith(f"{UNKNOWN_ACTOR}:")
        and record.actor in worker.actors
        and (not worker.queues or record.queue in worker.queues)
    )
