"""What must hold after a round: every message is accounted for, and all that follows from it.

Two witnesses are compared. The notes are lines that senders and actors append to a file: what they saw,
whatever became of the queue. The journal is a table in the queue's own file, which triggers write when a
message is stored, removed, buried or cancelled: part of the same transactions, it counts what no process
could count that is killed at any moment.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import localq
from localq.errors import ResultError, ResultFailure
from localq.locks import try_lock
from localq.message import Message as MessageType
from localq.store.bell import SLOTS

from ..processes.support import Lab
from .limits import PER_SECOND, PLACES
from .noting import whole

STORED, REMOVED = "stored", "removed"
ENDS = ("dead", "cancelled")

JOURNAL = """
CREATE TABLE journal (number INTEGER PRIMARY KEY, what TEXT, message_id TEXT, actor TEXT, encoder TEXT, wire INT,
                      body BLOB);
CREATE TRIGGER stored AFTER INSERT ON message BEGIN
  INSERT INTO journal (what, message_id, actor, encoder, wire, body)
  VALUES ('stored', new.message_id, new.actor, new.encoder, new.wire, iif(new.actor = 'told', new.body, NULL));
END;
CREATE TRIGGER removed AFTER DELETE ON message BEGIN
  INSERT INTO journal (what, message_id, actor) VALUES ('removed', old.message_id, old.actor);
END;
"""


def keep_journal(file: Path) -> None:
    """Have the file of a queue that is not yet in use write down what is stored and removed."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(JOURNAL)


@dataclass
class Counts:
    """What a round, or several, came to."""

    accepted: int = 0
    done: int = 0
    waiting: int = 0
    delayed: int = 0
    dead: int = 0
    cancelled: int = 0
    crashed: int = 0
    """Of the dead: those that killed processes have buried."""
    stored: int = 0
    """All messages, with those that follow from others."""
    runs: int = 0
    steps: int = 0
    callbacks: int = 0
    results: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted} = done {self.done} + waiting {self.waiting} + delayed {self.delayed} + "
            f"dead {self.dead} ({self.crashed} of kills) + cancelled {self.cancelled}; stored {self.stored}, "
            f"runs {self.runs}, steps {self.steps}, callbacks {self.callbacks}, results {self.results}"
        )


@dataclass
class Ledger:
    """All that is known of one queue at the end of a round.

    Parameters:
      lab: where it is; none of its processes lives any more.
      killed: when each process was killed, by the monotonic clock.
    """

    lab: Lab
    killed: dict[int, float]
    problems: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.notes: dict[str, list[list[str]]] = defaultdict(list)
        self.lines = whole(self.lab.notes())
        for line in self.lines:
            word, *rest = line.split(" ", 3)
            self.notes[word].append(rest)
        self.plans = {number: json.loads(plan) for number, _, plan in self.notes["try"]}
        self.accepted = {number for number, _ in self.notes["sent"]}
        self.begun = Counter(message_id for message_id, *_ in self.notes["begin"])
        self.succeeded = {message_id for message_id, _, how in self.notes["end"] if how == "ok"}
        self.aborted = {message_id for message_id, *_ in self.notes["aborting"]}
        self._read_the_file()

    def _read_the_file(self) -> None:
        with contextlib.closing(sqlite3.connect(self.lab.file)) as connection:
            rows = connection.execute("SELECT what, message_id, actor, encoder, wire, body FROM journal").fetchall()
            self.orphans = connection.execute(
                "SELECT count(*) FROM payload WHERE sequence NOT IN (SELECT sequence FROM message)"
            ).fetchone()[0]
            self.intact = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        self.stored = Counter(message_id for what, message_id, *_ in rows if what == STORED)
        self.removed = Counter(message_id for what, message_id, *_ in rows if what == REMOVED)
        self.actor = {message_id: actor for what, message_id, actor, *_ in rows if what == STORED}
        self.told: Counter[str] = Counter()
        for what, _, actor, encoder, wire, body in rows:
            if (what, actor) == (STORED, "told"):
                self.told[MessageType.decode_stored(body, encoder, wire).args[0]["message_id"]] += 1
        self.records = {record.message_id: record for record in self.lab.records()}

    # -- the state of a message

    def state(self, message_id: str | None) -> str:
        """``absent``, ``done``, or the state of its row."""
        if message_id in self.records:
            return self.records[message_id].state
        return "done" if self.stored[message_id] else "absent"

    def ends(self, chain: list[str]) -> bool:
        """Whether messages that follow each other have come to their end."""
        return self.state(chain[-1]) == "done" or any(self.state(each) in ENDS for each in chain)

    # -- the checks

    def check(self) -> list[str]:
        """Everything that does not hold."""
        for one in (
            self._each_message, self._what_was_accepted, self._steps, self._groups, self._told, self._results,
            self._dead, self._aborts, self._limits, self._what_is_left,
        ):  # fmt: skip
            self.problems += one()
        self._count()
        return self.problems

    def _each_message(self) -> Iterator[str]:
        planned = {message_id for plan in self.plans.values() for message_id in _ids_of(plan)}
        for message_id, times in self.stored.items():
            if times != 1:
                yield f"{self._name(message_id)} was stored {times} times"
            if message_id not in planned and self.actor[message_id] != "told":
                yield f"{self._name(message_id)} comes from nowhere"
            if message_id in self.records:
                if self.removed[message_id]:
                    yield f"{self._name(message_id)} was removed, and is there"
                if self.records[message_id].state not in ENDS:
                    yield f"{self._name(message_id)} is still {self.records[message_id].state}"
            elif self.removed[message_id] != 1:
                yield f"{self._name(message_id)} was removed {self.removed[message_id]} times"
            elif message_id not in self.succeeded and self.actor[message_id] != "told":
                yield f"{self._name(message_id)} is gone, but never ran to its end"
        for message_id in self.records:
            if not self.stored[message_id]:
                yield f"{message_id} is there, but was never stored"

    def _what_was_accepted(self) -> Iterator[str]:
        for seed, _, error in self.notes["broken"]:
            yield f"the sender {seed} failed: {error}"
        for number, plan in self.plans.items():
            absent = [message_id for message_id in plan["firsts"] if not self.stored[message_id]]
            if absent and number in self.accepted:
                yield f"{len(absent)} of {len(plan['firsts'])} messages were accepted and lost: {absent}"
            elif absent and len(absent) < len(plan["firsts"]):
                yield f"of messages that are sent together, {len(absent)} of {len(plan['firsts'])} were not stored"

    def _steps(self) -> Iterator[str]:
        for plan in self.plans.values():
            for before, after in plan["steps"]:
                expected = int(self.state(before) == "done")
                if self.stored[after] != expected:
                    yield (
                        f"the step after {self._name(before)} ({self.state(before)}) was stored "
                        f"{self.stored[after]} times: {self._name(after)}"
                    )
                self.counts.steps += expected

    def _groups(self) -> Iterator[str]:
        for plan in self.plans.values():
            if not plan["members"] or self.state(plan["members"][0][0]) == "absent":
                continue
            states = [self.state(chain[-1]) for chain in plan["members"]]
            succeeded = int(all(state == "done" for state in states))
            ended = int(all(map(self.ends, plan["members"])))
            if self.stored[plan["success"]] != succeeded:
                yield f"the callback of a group was stored {self.stored[plan['success']]} times: members {states}"
            if self.stored[plan["end"]] != ended:
                yield f"what fires on failure was stored {self.stored[plan['end']]} times: members {states}"
            self.counts.callbacks += succeeded + ended

    def _told(self) -> Iterator[str]:
        for plan in self.plans.values():
            for message_id in plan["told"]:
                expected = int(self.state(message_id) == "done")
                if self.told[message_id] != expected:
                    yield f"the success of {self._name(message_id)} was told {self.told[message_id]} times"

    def _results(self) -> Iterator[str]:
        values: dict[str, Any] = {}
        for plan in self.plans.values():
            values |= plan["values"] | {key: "x" * length for key, length in plan["lengths"].items()}
        backend = self.lab.broker.get_results_backend()
        for message_id in self.stored:
            if self.actor[message_id] == "told":
                continue
            message = localq.Message("default", self.actor[message_id], (), {}, {}, message_id)
            try:
                value = backend.get_result(message)
            except ResultFailure as error:
                if self.state(message_id) not in ENDS:
                    yield f"{self._name(message_id)} is {self.state(message_id)}, but its result is {error!r}"
            except ResultError as error:
                yield f"{self._name(message_id)} is {self.state(message_id)}, and has no result: {error!r}"
            else:
                self.counts.results += 1
                if self.state(message_id) != "done" or value != values[message_id]:
                    yield f"{self._name(message_id)} is {self.state(message_id)}, and has the result {value!r:.60}"
        for message_id, _, value in self.notes["got"]:
            if json.loads(value) != values[message_id] or self.state(message_id) != "done":
                yield f"who waited for {self._name(message_id)} ({self.state(message_id)}) got {value!r:.60}"
        for message_id, _, how in self.notes["refused"]:
            if how == "ResultFailure" and self.state(message_id) not in ENDS:
                yield f"who waited for {self._name(message_id)} ({self.state(message_id)}) heard of a failure"

    def _dead(self) -> Iterator[str]:
        for message_id, record in self.records.items():
            reason, aborted = record.reason or "", message_id in self.aborted
            expected = (
                (reason.startswith("WorkerCrashed: ") and "signal 9 (SIGKILL)" in reason and record.crashes >= 3)
                or (reason == "RuntimeError: hopeless" and record.actor == "hopeless")
                or (reason.startswith("Abort") and aborted)
            )
            if record.state in ENDS and not expected:
                yield f"{self._name(message_id)} is {record.state} of {reason!r}, with {record.crashes} crashes"
            if record.state == "cancelled" and not aborted:
                yield f"{self._name(message_id)} was cancelled, and nobody asked for that"

    def _aborts(self) -> Iterator[str]:
        """What was aborted before does not begin. An abort reaches a message that is being claimed a moment
        later, by interrupting it: so one that begins is looked at only if it has come long after."""
        when = {message_id: float(rest.split()[1]) for message_id, _, rest in self.notes["aborted"]}
        for message_id, _, began in self.notes["begin"]:
            if message_id in when and float(began) > when[message_id] + 5:
                yield f"{self._name(message_id)} began {float(began) - when[message_id]:.1f} s after it was aborted"

    def _limits(self) -> Iterator[str]:
        edges: list[tuple[float, int]] = []
        order = [line.split() for line in self.lines if line.startswith(("in ", "out "))]
        open_since: dict[str, list[float]] = defaultdict(list)
        for word, _, pid, time in order:
            if word == "in":
                open_since[pid].append(float(time))
            else:
                # Which of a process's threads left does not matter for how many were inside.
                edges += [(open_since[pid].pop(), 1), (float(time), -1)]
        for pid, begins in open_since.items():
            for begin in begins:
                edges += [(begin, 1), (max(begin, self.killed.get(int(pid), begin)), -1)]
        now = most = 0
        for _, change in sorted(edges):
            now += change
            most = max(most, now)
        if most > PLACES:
            yield f"{most} were inside of a limit of {PLACES}"
        for second, times in Counter(second for second, _ in self.notes["second"]).items():
            if times > PER_SECOND:
                yield f"{times} were let in during the second {second}, with a limit of {PER_SECOND}"

    def _what_is_left(self) -> Iterator[str]:
        if not self.intact:
            yield "PRAGMA integrity_check does not say ok"
        if self.orphans:
            yield f"{self.orphans} large bodies belong to no message"
        if left := self.lab.processes():
            yield f"processes are left: {left}"
        if workers := self.lab.broker.store.workers():
            yield f"workers are left in the registry: {workers}"
        side = Path(f"{self.lab.file}.localq")
        if files := list((side / "workers").iterdir()):
            yield f"{len(files)} files of dead workers are left: {sorted(file.name for file in files)[:5]}"
        for file in (side / "gate", *(side / "bells").glob("*.lock")):
            with open(file, "rb") as opened:
                if not try_lock(opened.fileno()):
                    yield f"the lock {file.name!r} is still held"
        table = (side / "bells" / "table").read_bytes()[:SLOTS]
        if asleep := [slot for slot in range(SLOTS) if table[slot]]:
            yield f"the bells {asleep} still wait for dead sleepers"

    # -- counting

    def _count(self) -> None:
        counts = self.counts
        for number in self.accepted:
            for message_id in self.plans[number]["firsts"]:
                counts.accepted += 1
                state = self.state(message_id)
                if state in counts.__dataclass_fields__:
                    setattr(counts, state, getattr(counts, state) + 1)
                if state == "dead":
                    counts.crashed += (self.records[message_id].reason or "").startswith("WorkerCrashed")
        counts.stored, counts.runs = sum(self.stored.values()), sum(self.begun.values())
        whereabouts = counts.done + counts.waiting + counts.delayed + counts.dead + counts.cancelled
        if counts.accepted != whereabouts:
            self.problems.append(f"accepted {counts.accepted}, but found {whereabouts}")

    def _name(self, message_id: str) -> str:
        return f"{self.actor.get(message_id, 'message')} {message_id}"


def _ids_of(plan: dict[str, Any]) -> Iterator[str]:
    yield from plan["firsts"]
    for _, after in plan["steps"]:
        yield after
    for message_id in (plan["success"], plan["end"]):
        if message_id is not None:
            yield message_id
