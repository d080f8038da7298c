"""Between the rows of the SQLite store and its records, and from a selection to SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import StoreError
from .base import CANCELLED, DEAD, DELAYED, WAITING, Record, Selection
from .statements import COLUMNS, SELECT_PAYLOAD

INLINE = 1500
"""Bytes of a body that its row still holds; larger ones lie apart."""

Bodies = dict[int, Any]
"""Bodies that lie apart, by the sequence of their message; None where there should be one."""


def place_of(record: Record, position: int, now: int) -> tuple[str, int]:
    if record.eta is not None and record.eta > now:
        return DELAYED, record.eta * 1000
    return WAITING, position


def row_of(record: Record, position: int, now: int) -> tuple[Any, ...]:
    body = record.body
    if type(body) is not bytes:
        raise StoreError(
            f"the body of message {record.message_id!r} is a {type(body).__name__}; only bytes are stored: encode "
            "it first"
        )
    state, position = place_of(record, position, now)
    return (
        record.message_id, record.queue, record.actor, body if len(body) <= INLINE else None,
        record.encoder, record.wire, record.priority, record.eta, record.lane, record.root,
        record.unique_key, record.created_at or now, state, position,
    )  # fmt: skip


def record_of(row: Sequence[Any]) -> Record:
    """The record in a row of all `COLUMNS`.

    SQLite keeps any value in any column. What a store never wrote there is left out, and the record
    says so by its `flaw`.
    """
    if tuple(map(type, row)) in _sound:
        return Record(*row)
    values = list(row)
    wrong = [place for place, value in enumerate(row) if not isinstance(value, _TYPES[place])]
    for place in wrong:
        values[place] = _instead_of(row[place], _TYPES[place])
    record = Record(*values)
    if wrong:
        fields = ", ".join(f"{_NAMES[place]} is a {type(row[place]).__name__}" for place in wrong)
        record.flaw = f"its row is damaged: {fields}"
    elif len(_sound) < 100:
        _sound.add(tuple(map(type, row)))
    return record


_NAMES = COLUMNS.split(", ")
_BODY, _SEQUENCE = _NAMES.index("body"), _NAMES.index("sequence")
_OPTIONAL = {"eta", "owner", "claimed_at", "died_at"}
_TYPES: list[tuple[type, ...]] = [
    (bytes, type(None)) if name == "body"
    else (str, type(None)) if name in ("root", "unique_key", "verdict", "reason", "traceback")
    else (str,) if name in ("message_id", "queue", "actor", "encoder", "lane", "state")
    else (int, type(None)) if name in _OPTIONAL
    else (int,)
    for name in _NAMES
]  # fmt: skip
_sound: set[tuple[type, ...]] = set()
"""Types of rows that were found to be in order: there are only a few."""


def _instead_of(value: Any, kinds: tuple[type, ...]) -> Any:
    if type(None) in kinds:
        return b"" if bytes in kinds else None
    return text(value) if str in kinds else whole(value)


def text(value: Any) -> str:
    """What should be a text, as one that can be shown."""
    return value if isinstance(value, str) else ascii(value)[:100]


def whole(value: Any) -> int:
    """What should be a whole number; 0 where it is none."""
    return value if isinstance(value, int) else 0


def bodies_apart(connection: sqlite3.Connection, rows: list[Any]) -> Bodies:
    """What lies in the table of large bodies for these rows, by their sequence."""
    sequences = [row[_SEQUENCE] for row in rows if row[_BODY] is None]
    bodies: Bodies = {}
    for sequence in sequences:
        (bodies[sequence],) = connection.execute(SELECT_PAYLOAD, (sequence,)).fetchone() or (None,)
    return bodies


def records_of(rows: list[Any], bodies: Bodies) -> list[Record]:
    """The records in rows of all `COLUMNS`, with what `bodies_apart` found for them."""
    records = [record_of(row) for row in rows]
    for record in records:
        if record.body is None:
            body = bodies[record.sequence]
            record.body = body if isinstance(body, bytes) else b""
            if body is not record.body:
                record.flaw = record.flaw or "its row is damaged: its body is missing"
    return records


def moved_row(record: Record, state: str, position: int, now: int) -> tuple[Any, ...]:
    anew = record.state in (DEAD, CANCELLED)
    died_at = now if state == CANCELLED else record.died_at
    eta = None if state == WAITING else record.eta
    tries = (0, 0, None, None, None, None) if anew else (
        record.attempts, record.crashes, record.verdict, record.reason, died_at, record.traceback)  # fmt: skip
    return state, position, eta, *tries, record.sequence


def where(selection: Selection) -> tuple[str, list[Any]]:
    conditions = ["1"]
    values: list[Any] = []
    for column, wanted in _fields(selection):
        conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
        values += wanted
    return " AND ".join(conditions), values


def _fields(selection: Selection) -> Iterator[tuple[str, Sequence[Any]]]:
    for column, wanted in (
        ("state", selection.states),
        ("queue", selection.queues),
        ("actor", selection.actors),
        ("message_id", selection.message_ids),
        ("sequence", selection.sequences),
    ):
        if wanted is not None:
            yield column, wanted
