"""The store that is one SQLite file: messages.

``schema.sql`` has the tables, `statements` every statement, `database` the
connection and its transactions, `rows` what stands between rows and records,
`registry` the workers, `keyed` values, counters, events and schedules, `places`
places under a limit, `bell` how a sleeper is woken, `upkeep` how the file is kept
small, `wal` its write-ahead log, `leftovers` what lies beside the file, `folder` and `network` where it may be.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..threading import Interrupt
from . import statements as sql
from .base import (
    CANCELLED,
    DEAD,
    DELAYED,
    DONE,
    HELD,
    RELEASE,
    RETRY,
    RUNNING,
    STATES,
    UNKNOWN_ACTOR,
    WAITING,
    Claim,
    Outcome,
    Record,
    Selection,
    nothing,
)
from .bell import WANTS_MESSAGE, WANTS_SOME_MESSAGE, Bells, mask
from .database import SCHEMA_VERSION, Database, opening
from .leftovers import size_of
from .registry import RegistrySQLite
from .rows import INLINE, Bodies, bodies_apart, moved_row, place_of, record_of, records_of, row_of, text, where
from .upkeep import Upkeep


class SQLiteStore(RegistrySQLite):
    """Messages in one file, shared by all processes of this machine.

    Parameters:
      path: absolute path of the file; made where there is none, in a folder that exists.
      durability: "normal" survives the death of every process; "full" also power loss, at the
        price of waiting for the disk before each write returns (others may see it already).
      gate_timeout: milliseconds that a writer waits for others before `StoreBusy`.
      busy_timeout: milliseconds that it waits for a program which is not localq.
      network: "allow" to use a network file system all the same.
    """

    shared = True

    def __init__(
        self,
        path: str,
        *,
        durability: str = "normal",
        gate_timeout: float = 30_000,
        busy_timeout: float = 30_000,
        network: str = "refuse",
    ) -> None:
        if durability not in ("normal", "full"):
            raise ValueError(f"durability is 'normal' or 'full', not {durability!r}")
        self.users = 1  # how many brokers and backends of this process share it
        self.path = path
        self.url = f"sqlite:///{path}"
        self.durability = durability
        self.database = Database(
            path,
            full=durability == "full",
            gate_timeout=gate_timeout,
            busy_timeout=busy_timeout,
            on_network=network == "allow",
        )
        try:
            self.bells = Bells(os.path.join(self.database.side, "bells"), self._watch_for_change)
        except BaseException:
            self.database.close()
            raise
        self.database.forget_in_child = self.bells.forget_in_child
        self._tokens = itertools.count(1)
        self._upkeep = Upkeep(self.database)

    def _watch_for_change(self) -> Any:
        seen = self.database.changes()

        def changed() -> bool:
            nonlocal seen
            before, seen = seen, self.database.changes()
            return seen != before

        return changed

    # -- messages

    def put(self, records: Sequence[Record], *, now: int, on_stored: Callable[[], None] = nothing) -> None:
        try:
            with self.database.write as connection:
                self._insert(connection, records, now)
        except (Interrupt, KeyboardInterrupt):  # it has waited for the end of the write: they are stored
            self._ring(records)
            raise
        try:
            on_stored()
        finally:
            self._ring(records)

    def _insert(self, connection: sqlite3.Connection, records: Sequence[Record], now: int) -> None:
        if not records:
            return
        first = self.database.gate.next_position(now, len(records))
        rows = (row_of(record, position, now) for position, record in enumerate(records, first))
        if all(len(record.body) <= INLINE for record in records):
            connection.executemany(sql.INSERT, rows)
            return
        for record, row in zip(records, rows, strict=True):
            sequence = connection.execute(sql.INSERT, row).lastrowid
            if len(record.body) > INLINE:
                connection.execute(sql.INSERT_PAYLOAD, (sequence, record.body))

    def _ring(self, records: Iterable[Record]) -> None:
        # Delayed ones too: who sleeps must learn that there is an earlier eta to wake up for.
        queues: dict[str, int] = {}
        for record in records:
            queues[record.queue] = queues.get(record.queue, 0) + 1
        for queue, count in queues.items():
            self.bells.ring(queue, count)

    def finish(self, outcomes: Sequence[Outcome], *, now: int, claim: Claim | None = None) -> list[Record]:
        rows: list[Any] = []
        bodies: Bodies = {}
        with self.database.write as connection:
            written = self._conclude(connection, outcomes, now) if outcomes else []
            called_back = self._carry(connection, written, now) if written else []
            if claim is not None:
                rows = self._claim(connection, claim, now)
                bodies = bodies_apart(connection, rows)
        claimed = records_of(rows, bodies)  # not inside: others wait for the gate meanwhile
        claimed.sort(key=lambda record: (record.priority, record.position, record.sequence))
        self._tell(written, called_back)
        if claim is not None and len(claimed) == claim.limit:
            # There may be more: whoever was woken for several messages passes the bell on.
            for queue in claim.queues:
                self.bells.pass_on(queue)
        return claimed

    def _conclude(self, connection: sqlite3.Connection, outcomes: Sequence[Outcome], now: int) -> list[Outcome]:
        """Write what became of the messages themselves; the outcomes whose claim was in force."""
        written: list[Outcome] = []
        outcomes = [self._or_release(connection, outcome) for outcome in outcomes]
        for (owner, token, done), group in itertools.groupby(outcomes, _claim_of):
            if done:
                written += self._remove(connection, list(group), owner, token)
            else:
                written += [outcome for outcome in group if self._change(connection, outcome, now)]
        for outcome in written:
            outcome.written = True
        return written

    def _carry(self, connection: sqlite3.Connection, written: list[Outcome], now: int) -> list[Record]:
        """Write all that goes with them; the messages that a counter has called for."""
        self._insert(connection, [record for outcome in written for record in outcome.puts], now)
        self._keep(connection, [value for outcome in written for value in outcome.values], now)
        called_back: list[Record] = []
        for outcome in written:
            for count in outcome.counts:
                if self._count(connection, count, now):
                    called_back += count.puts
            self._put_events(connection, outcome.events, now)
        self._insert(connection, called_back, now)
        return called_back

    def _remove(
        self, connection: sqlite3.Connection, outcomes: list[Outcome], owner: int | None, token: int
    ) -> list[Outcome]:
        sequences = [outcome.record.sequence for outcome in outcomes]
        removed = connection.execute(sql.remove(len(sequences)), (*sequences, owner, token)).fetchall()
        if len(removed) != len(outcomes):
            by_sequence = {outcome.record.sequence: outcome for outcome in reversed(outcomes)}
            outcomes = [by_sequence[sequence] for sequence in sorted(sequence for (sequence,) in removed)]
        for outcome in outcomes:
            if len(outcome.record.body) > INLINE:
                connection.execute(sql.DELETE_PAYLOAD, (outcome.record.sequence,))
        return outcomes

    def _change(self, connection: sqlite3.Connection, outcome: Outcome, now: int) -> bool:
        """Bury, retry or release one message; False if it is not this claim's any more."""
        record = outcome.record
        this_claim = (record.sequence, record.owner, record.claim)
        if outcome.kind == RELEASE:
            return connection.execute(sql.RELEASE, this_claim).rowcount == 1
        if outcome.kind == CANCELLED:
            row = (outcome.reason, now, record.sequence, record.owner, record.owner, record.claim)
            return connection.execute(sql.CANCEL, row).rowcount == 1
        if outcome.kind == DEAD:
            return connection.execute(sql.BURY, (outcome.reason, now, outcome.traceback, *this_claim)).rowcount == 1
        assert outcome.kind == RETRY
        retry = outcome.retry
        assert retry is not None
        state, position = place_of(retry, self.database.gate.next_position(now, 1), now)
        inline = retry.body if len(retry.body) <= INLINE else None
        renewed = (state, position, retry.eta, retry.queue, retry.actor, inline, retry.encoder, retry.wire,
                   retry.priority, retry.lane, retry.root, retry.unique_key)  # fmt: skip
        if connection.execute(sql.RETRY, (*renewed, *this_claim)).rowcount != 1:
            return False
        if inline is None:
            connection.execute(sql.INSERT_PAYLOAD, (record.sequence, retry.body))
        elif len(record.body) > INLINE:
            connection.execute(sql.DELETE_PAYLOAD, (record.sequence,))
        return True

    def _or_release(self, connection: sqlite3.Connection, outcome: Outcome) -> Outcome:
        """The outcome; or a release, if the message is to be buried for an unknown actor, and a worker
        that knows it has just joined: that one looked for dead letters before this was one."""
        # Not for an actor that is only in the body: the row's own may be known, and again, without end.
        if outcome.kind != DEAD or outcome.reason != f"{UNKNOWN_ACTOR}: {outcome.record.actor}":
            return outcome
        (known,) = connection.execute(sql.DECLARED, (outcome.record.actor,)).fetchone()
        return Outcome(outcome.record, RELEASE) if known else outcome

    def _tell(self, written: list[Outcome], called_back: list[Record]) -> None:
        self._ring(called_back)
        for outcome in written:
            if outcome.puts:
                self._ring(outcome.puts)
            for value in outcome.values:
                self.bells.ring_value(value.key)
            for event in outcome.events:
                self.bells.ring_event(event.topic)
            if outcome.kind == RELEASE:
                self.bells.ring(outcome.record.queue)
            elif outcome.retry is not None:
                self.bells.ring(outcome.retry.queue)

    def _claim(self, connection: sqlite3.Connection, claim: Claim, now: int) -> list[Any]:
        queues = list(dict.fromkeys(claim.queues))
        if not queues:
            return []
        connection.execute(sql.promote(len(queues)), (*queues, now * 1000))
        mark = (claim.worker, next(self._tokens), now)
        of_interest = (json.dumps(queues), json.dumps(list(claim.skip)))
        rows = connection.execute(sql.CLAIM_SUSPECT, (*mark, *of_interest)).fetchall()
        if not rows:
            statement = sql.claim(len(queues), len(claim.skip))
            skip, limit = tuple(claim.skip), claim.limit
            each = itertools.chain.from_iterable((queue, *skip, limit) for queue in queues)
            rows = connection.execute(statement, (*mark, *each, limit)).fetchall()
        return rows

    def wait(
        self,
        queues: Sequence[str],
        *,
        now: int,
        timeout: float,
        skip: Callable[[], frozenset[str]] = frozenset,
    ) -> bool:
        sleeper = self.bells.borrow()
        try:
            left_alone = skip()
            sleeper.announce(WANTS_SOME_MESSAGE if left_alone else WANTS_MESSAGE, mask(queues))
            until = self._next_due(queues, left_alone, now)
            if until == 0:
                return True
            if left_alone and self._next_due(queues, frozenset(), now) == 0:
                for queue in queues:  # the bell for what is left alone may have been heard here
                    self.bells.pass_on(queue)
            if until is None or until > timeout:
                return sleeper.wait(timeout)
            sleeper.wait(until)
            return True
        finally:
            sleeper.withdraw()
            self.bells.give_back(sleeper)

    def _next_due(self, queues: Sequence[str], skip: frozenset[str], now: int) -> int | None:
        """Milliseconds until there is something to claim, as far as is known now; None: for ever."""
        if not queues:
            return None
        with self.database.read as connection:
            statement = sql.claimable(len(queues), len(skip))
            if connection.execute(statement, (*queues, *skip)).fetchone()[0]:
                return 0
            (position,) = connection.execute(sql.next_delayed(len(queues)), tuple(queues)).fetchone()
        return None if position is None else max(0, -(-position // 1000) - now)

    def wake(self) -> None:
        self.bells.wake_own()

    def counts(self) -> dict[str, dict[str, int]]:
        with self.database.read as connection:
            rows = connection.execute(sql.COUNTS).fetchall()
        counts: dict[str, dict[str, int]] = {}
        for queue, state, count in rows:
            of_queue = counts.setdefault(text(queue), {})
            of_queue[state] = of_queue.get(state, 0) + count
        return counts

    def browse(self, selection: Selection, *, limit: int = 100, after: int = 0) -> list[Record]:
        condition, values = where(selection)
        statement = (
            f"SELECT {sql.COLUMNS} FROM message WHERE sequence > ? AND {condition} ORDER BY sequence LIMIT ?"
        )
        with self.database.read as connection:
            rows = connection.execute(statement, (after, *values, limit)).fetchall()
            bodies = bodies_apart(connection, rows)
        return records_of(rows, bodies)

    def move(self, selection: Selection, state: str, *, now: int) -> int:
        sources = {
            WAITING: (DELAYED, DEAD, HELD, CANCELLED),
            DEAD: (),
            HELD: (WAITING, DELAYED),
            CANCELLED: (WAITING, DELAYED, HELD),
        }.get(state, ())
        states = [source for source in _states_of(selection) if source in sources]
        condition, values = where(replace(selection, states=states))
        statement = f"SELECT {sql.COLUMNS} FROM message WHERE {condition}"
        with self.database.write as connection:
            records = [record_of(row) for row in connection.execute(statement, values).fetchall()]
            self._move(connection, records, state, now)
        if state == WAITING:
            self._ring(records)
        return len(records)

    def _move(self, connection: sqlite3.Connection, records: list[Record], state: str, now: int) -> None:
        first = self.database.gate.next_position(now, len(records) or 1)
        rows = [moved_row(record, state, first + n, now) for n, record in enumerate(records)]
        connection.executemany(sql.MOVE, rows)
        revived = [(record.message_id,) for record in records if record.state in (DEAD, CANCELLED)]
        connection.executemany(sql.FORGET_VALUES, revived)

    def purge(self, selection: Selection) -> int:
        states = [state for state in _states_of(selection) if state != RUNNING]
        condition, values = where(replace(selection, states=states))
        bodies = f"SELECT sequence FROM message WHERE {condition}"
        with self.database.write as connection:
            connection.execute(f"DELETE FROM payload WHERE sequence IN ({bodies})", values)
            return connection.execute(f"DELETE FROM message WHERE {condition}", values).rowcount

    # -- life

    def sweep(self, *, now: int) -> int:
        return self._upkeep.sweep(now)

    def shrink(self) -> bool:
        return self._upkeep.shrink()

    def info(self) -> dict[str, Any]:
        with self.database.read as connection:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        return {
            "store": "sqlite",
            "file": self.path,
            "side_folder": self.database.side,
            "size": size_of(self.path),
            "sqlite_version": sqlite3.sqlite_version,
            "journal_mode": mode,
            "schema_version": version,
            "newest_known_schema": SCHEMA_VERSION,
            "durability": self.durability,
        }

    def close(self) -> None:
        with opening:
            self.users -= 1
            if self.users > 0:
                return
        self._close_holder()
        self.bells.close()
        self._upkeep.end()
        self.database.close()


def _states_of(selection: Selection) -> Sequence[str]:
    return STATES if selection.states is None else selection.states


def _claim_of(outcome: Outcome) -> tuple[int | None, int, bool]:
    return outcome.record.owner, outcome.record.claim, outcome.kind == DONE
