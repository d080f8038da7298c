"""Between the rows of the SQLite store and its records, and from a selection to SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import StoreError
from .base import CANCELLED, DEAD, DELAYED, WAITING, Record, Selection

INLINE = 2000
"""Bytes of a body that its row still holds; larger ones lie apart."""


def place_of(record: Record, position: int, now: int) -> tuple[str, int]:
    if record.eta is not None and record.eta > now:
        return DELAYED, record.eta * 1000
    return WAITING, position


def row_of(record: Record, position: int, now: int) -> tuple[Any, ...]:
    if type(record.body) is not bytes:
        raise StoreError(
            f"the body of message {record.message_id!r} is a {type(record.body).__name__}; only bytes are "
            "stored: encode it first"
        )
    state, position = place_of(record, position, now)
    return (
        record.message_id, record.queue, record.actor,
        record.body if len(record.body) <= INLINE else None,
        record.encoder, record.wire, record.priority, record.eta, record.lane, record.root,
        record.unique_key, record.created_at or now, state, position,
    )  # fmt: skip


def record_of(row: Sequence[Any]) -> Record:
    return Record(*row)


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
