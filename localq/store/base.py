"""The seam: what a store of messages does, and the records that pass through it.

A store moves bytes and a few columns. It never decodes a message, decides a
retry or runs a hook. The time comes in as an argument (`now`, milliseconds
since the epoch), so that whoever calls owns the clock.

The life of a message; each arrow is a verb::

       put                       claim                    finish(DONE)
    ────────────▶  waiting  ────────────────▶  running  ──────────────▶  (gone)
      put with eta    ▲  ▲                       │ │ │
    ───▶ delayed ─────┘  └── finish(RELEASE) ────┘ │ └── finish(DEAD) ──▶  dead
            ▲   claim, when    reap                │                         │
            │   the eta comes                      │                         │
            └──────────────── finish(RETRY) ───────┘      move(dead, waiting)│
                                                   ▲                         │
                                              waiting ◀──────────────────────┘

    held, cancelled:  move() puts a waiting or delayed message there, and back; finish(CANCELLED)
    cancels, too.
    purge() removes; sweep() removes the dead and the cancelled when their time is over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

WAITING = "waiting"
DELAYED = "delayed"
RUNNING = "running"
DEAD = "dead"
HELD = "held"
CANCELLED = "cancelled"
STATES = (WAITING, DELAYED, RUNNING, DEAD, HELD, CANCELLED)

DONE = "done"
RETRY = "retry"
RELEASE = "release"

THREAD = "thread"
ALONE = "alone"

UNKNOWN_ACTOR = "ActorNotFound"
"""How the reason of a dead letter begins that waits for a worker that knows its actor."""

DEAD_LETTER_TTL = 7 * 24 * 3600 * 1000
"""Milliseconds that a dead letter is kept, as in dramatiq."""


EVENT_TTL = 10 * 60 * 1000
"""Milliseconds that an event is kept."""


def nothing() -> None:
    """What is called where nothing is to be done."""


@dataclass(slots=True)
class Record:
    """A message as a store keeps it: what its sender wrote, and what has become of it.

    All times are milliseconds since the epoch.
    """

    message_id: str
    queue: str
    actor: str
    body: bytes
    encoder: str = "msgpack"
    """Which encoder made the body."""
    wire: int = 1
    """The version of the layout that was encoded."""
    priority: int = 0
    """Lower numbers run first."""
    eta: int | None = None
    """Not before this time."""
    lane: str = THREAD
    """What runs it: a thread, or (ALONE) a process that runs nothing else meanwhile,
    since it is suspected of having crashed one."""
    root: str | None = None
    """The group or pipeline it belongs to."""
    unique_key: str | None = None
    created_at: int = 0

    sequence: int = 0
    """The store's own number for it; given by `put`."""
    state: str = WAITING
    position: int = 0
    """Its place among those of one priority: microseconds of when it became ready to run."""
    owner: int | None = None
    """The worker that claimed it."""
    claim: int = 0
    """Which claim of that worker: a claim is finished at most once."""
    claimed_at: int | None = None
    attempts: int = 0
    """How often it was claimed."""
    crashes: int = 0
    """How often the process that ran it died in it."""
    verdict: str | None = None
    """An ending that a reaper found for it; the next claimer carries it out."""
    reason: str | None = None
    """Why it is dead."""
    died_at: int | None = None
    traceback: str | None = None
    """Where it failed when it died, or was when its process last crashed."""
    flaw: str | None = None
    """What is wrong with it, if somebody else than a store has written it: it cannot be run."""


@dataclass(slots=True)
class Value:
    """Bytes to be kept under a key for `ttl` milliseconds."""

    key: str
    data: bytes
    ttl: int
    until_revived: str | None = None
    """The id of a dead letter: when that message is brought back to life, the value is forgotten."""


@dataclass(slots=True)
class Event:
    """Something that happened, for whoever reads `events`; kept for `ttl` milliseconds."""

    topic: str
    data: bytes
    ttl: int = EVENT_TTL


@dataclass(slots=True)
class Count:
    """One step of a counter; the step that brings it to `target` also stores `puts` and ends it.

    The counter is created at 0 where there is none, and expires `ttl` milliseconds after its
    first step.
    """

    key: str
    target: int
    ttl: int
    puts: list[Record] = field(default_factory=list)
    amount: int = 1
    reached: bool = field(default=False, compare=False)
    """Set by `finish`: whether this was the step that reached the target."""


@dataclass(slots=True)
class Outcome:
    """What became of one message, and all that is written together with that.

    Parameters:
      record: the message, as `claim` returned it (for CANCELLED: or as `browse` did).
      kind: DONE removes it; DEAD buries it with `reason` and `traceback`; RETRY puts `retry` in its place,
        keeping its age and its crashes; RELEASE gives it back to where it was, as if it had
        never been claimed. CANCELLED keeps it from being done, for `reason`, until it is
        moved back; also a message that nobody has claimed.
    """

    record: Record
    kind: str = DONE
    reason: str | None = None
    retry: Record | None = None
    puts: list[Record] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    traceback: str | None = None
    written: bool = field(default=False, compare=False)
    """Set by `finish`: whether it was in force, and so was written."""


@dataclass(slots=True)
class Claim:
    """What a worker asks for: up to `limit` messages of `queues`, but none of the actors in `skip`."""

    worker: int
    queues: Sequence[str]
    limit: int = 1
    skip: frozenset[str] = frozenset()


@dataclass(slots=True)
class Selection:
    """Which messages a person means: those that match every field. None matches all, and an empty
    list matches nothing."""

    states: Sequence[str] | None = None
    queues: Sequence[str] | None = None
    actors: Sequence[str] | None = None
    message_ids: Sequence[str] | None = None
    sequences: Sequence[int] | None = None


@dataclass(slots=True)
class WorkerRecord:
    """One worker process: what it serves and what it declares. `name` is also that of its lock."""

    name: str
    pid: int
    queues: Sequence[str]
    actors: Sequence[str]
    threads: int = 1
    pool: str = ""
    """What the processes of one pool have in common."""
    joined_at: int = 0
    id: int = 0


@dataclass(slots=True)
class Schedule:
    """Something that is due again and again; `body` belongs to whoever put it."""

    name: str
    due_at: int
    body: bytes


class Store(ABC):
    """Where messages, results, counters and schedules are kept.

    Every verb is atomic: it happens whole or not at all, and when it returns, it has happened.
    A store is used from any thread. A verb that cannot be carried out raises a `StoreError`.
    To add an engine: write this class once more, name it in `open_store`, and run
    ``tests/store/contract.py`` on it.
    """

    url: str
    shared: ClassVar[bool]
    """Whether other processes see the same messages."""

    # -- messages

    @abstractmethod
    def put(self, records: Sequence[Record], *, now: int, on_stored: Callable[[], None] = nothing) -> None:
        """Store new messages, all or none, in their order. A future `eta` delays its message.

        `on_stored` is called when they are stored, and before a worker that sleeps is woken for them.
        """

    def claim(self, claim: Claim, *, now: int) -> list[Record]:
        """Take the next messages to run: by priority over all queues, then by age.

        Messages whose eta has come are ready, ordered by eta among the others. A suspect (lane
        ALONE) goes before all and is the only message of its claim. Each record carries the
        token by which `finish` knows this claim.
        """
        return self.finish((), now=now, claim=claim)

    @abstractmethod
    def finish(self, outcomes: Sequence[Outcome], *, now: int, claim: Claim | None = None) -> list[Record]:
        """Write what became of claimed messages and, in the same transaction, claim the next ones.

        An outcome whose claim is not in force any more (it was finished or released before, or
        its worker was taken for dead) is left out with all that it carries. A message that is to be
        buried because nobody knows its actor, while a worker has joined that does, is released
        instead, and what that outcome carries is left out. Safe from any thread.
        """

    @abstractmethod
    def wait(
        self,
        queues: Sequence[str],
        *,
        now: int,
        timeout: float,
        skip: Callable[[], frozenset[str]] = frozenset,
    ) -> bool:
        """Sleep until there may be something to claim, `wake` is called, or the time is over.

        Returns at once when there is. `timeout` in milliseconds. `skip` is asked when a `wake` would
        be heard already. Says whether it is worth a look.
        """

    @abstractmethod
    def wake(self) -> None:
        """End every `wait` and `wait_events` of this process early. Safe in any thread."""

    @abstractmethod
    def counts(self) -> dict[str, dict[str, int]]:
        """For each queue that holds messages: how many are in each state that occurs."""

    @abstractmethod
    def browse(self, selection: Selection, *, limit: int = 100, after: int = 0) -> list[Record]:
        """Look at messages, in order of `sequence`, those after the number `after`."""

    @abstractmethod
    def move(self, selection: Selection, state: str, *, now: int) -> int:
        """Put messages into another state; say how many.

        Only along the arrows of the drawing: running messages stay where they are. A message
        that goes to WAITING runs without delay, and one that was dead or cancelled starts anew: attempts,
        crashes, verdict, reason and traceback are cleared, and values that were kept until then are forgotten.
        """

    @abstractmethod
    def purge(self, selection: Selection) -> int:
        """Remove messages for good; say how many. Running ones stay."""

    # -- workers

    @abstractmethod
    def join(self, worker: WorkerRecord, *, now: int) -> int:
        """Register a worker and return its number.

        From before this call until its process ends the worker holds a lock that only its death
        frees. Dead letters that waited for an actor that it declares are waiting again.
        """

    @abstractmethod
    def leave(self, worker: int, *, now: int) -> None:
        """Sign off. What it still holds goes back uncharged."""

    @abstractmethod
    def reap(self, *, now: int, max_crashes: int = 3) -> int:
        """Give back what dead workers held, and say how many messages that were; and forget what places
        dead processes held.

        A message that was running in a process that crashed is charged with one crash, and at
        `max_crashes` gets a verdict; of several that were running none is charged: they become
        suspects. A death that nobody saw, or that was ordered, charges nobody; one that was ordered
        to end a message gives that one a verdict.
        """

    def worker_path(self, name: str) -> str | None:
        """The file whose lock says that the worker of that name lives; None where there is no such."""
        return None

    @abstractmethod
    def workers(self) -> list[WorkerRecord]:
        """The registered workers, in the order in which they joined."""

    # -- values

    @abstractmethod
    def set_values(self, values: Iterable[Value], *, now: int) -> None:
        """Keep bytes under keys, in the place of what was there, and wake who waits for them."""

    @abstractmethod
    def get_value(self, key: str, *, now: int) -> bytes | None:
        """What is kept under the key, or None if nothing is or its time is over."""

    def wait_value(self, key: str, *, clock: Callable[[], int], timeout: float | None) -> bytes | None:
        """As `get_value`, but sleep up to `timeout` milliseconds (None: for ever) until there is something."""
        return self.wait_values([key], clock=clock, timeout=timeout).get(key)

    @abstractmethod
    def wait_values(
        self, keys: Collection[str], *, clock: Callable[[], int], timeout: float | None
    ) -> dict[str, bytes]:
        """What is kept under any of the keys; if nothing is, sleep up to `timeout` milliseconds (None:
        for ever) until there is. Whoever sets one of them ends the sleep.

        Another thread may change `keys` meanwhile, and then calls `wake`, which has it looked at anew."""

    @abstractmethod
    def delete_values(self, keys: Iterable[str]) -> int:
        """Forget keys; say how many there were. Of two who delete one key one hears 1."""

    # -- counters

    @abstractmethod
    def add(self, key: str, value: int, ttl: int, *, now: int) -> bool:
        """Create a counter unless it is there; say whether it was created."""

    @abstractmethod
    def incr(self, key: str, amount: int, maximum: int, ttl: int, *, now: int) -> bool:
        """Add to a counter (0 if missing) unless it would pass `maximum`; say whether it was done.

        Each step renews its life of `ttl` milliseconds; so do those of `decr` and `incr_and_sum`.
        """

    @abstractmethod
    def decr(self, key: str, amount: int, minimum: int, ttl: int, *, now: int) -> bool:
        """Take from a counter (0 if missing) unless it would fall below `minimum`; say whether."""

    @abstractmethod
    def incr_and_sum(
        self,
        key: str,
        keys: Callable[[], Sequence[str]],
        amount: int,
        maximum: int,
        ttl: int,
        *,
        now: int,
    ) -> bool:
        """As `incr`, but the sum over `keys()` and the amount may not pass `maximum` either."""

    # -- places under a limit

    @abstractmethod
    def hold(self, key: str, maximum: int) -> bool:
        """Take a place under the key for this process, unless so many are taken; say whether it was done.

        It is taken until `let_go`, or until the process has died: no time makes it free, so that there
        are never more inside than `maximum`, however long they stay or were stopped.
        """

    @abstractmethod
    def let_go(self, key: str) -> None:
        """Give back one place of this process, if it has any; a forked child has none of its parent's.

        What cannot be written now is made up for, as soon as it can be.
        """

    # -- events and schedules

    @abstractmethod
    def put_events(self, events: Sequence[Event], *, now: int) -> None:
        """Add events, in their order, and wake who waits for their topics."""

    @abstractmethod
    def wait_events(
        self, topics: Sequence[str], *, after: int, timeout: float, limit: int = 100
    ) -> list[tuple[int, Event]]:
        """As `events`, but if there are none, sleep up to `timeout` milliseconds until there are, or
        until `wake` is called; then they may still be none."""

    @abstractmethod
    def events(self, topics: Sequence[str], *, after: int, limit: int = 100) -> list[tuple[int, Event]]:
        """Events of these topics (of all, where none is named) with a number above `after`."""

    @abstractmethod
    def put_schedule(self, schedule: Schedule) -> None:
        """Store a schedule in the place of the one of its name."""

    @abstractmethod
    def due_schedules(self, *, now: int) -> list[Schedule]:
        """The schedules whose time has come, the earliest first."""

    @abstractmethod
    def advance_schedule(self, schedule: Schedule, due_at: int, puts: Sequence[Record], *, now: int) -> bool:
        """Move a schedule on to `due_at` and store `puts`, unless somebody else already moved it.

        Says whether it was this call that did: so a tick fires once, whoever asks.
        """

    @abstractmethod
    def delete_schedule(self, name: str) -> bool:
        """Forget a schedule; say whether there was one."""

    # -- life

    @abstractmethod
    def sweep(self, *, now: int) -> int:
        """Remove a small batch of what has expired; say how much that was. Call it again if any, a moment
        later: whoever waits to write goes first."""

    def shrink(self) -> bool:
        """Give back to the system, in one short step, what is not needed of the disk; say whether there is
        more to do at once. Call it a moment after `sweep` found nothing, and once a second."""
        return False

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Facts for a person: where it is, how it is set up, its versions."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything this process holds. Closing twice does no harm."""
