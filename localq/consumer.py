"""Messages on their way to their actor: one by one, for who wants no worker, and as hooks see them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

from .cells import Cells
from .clock import Deadline, clock
from .errors import DecodeError
from .logging import get_logger
from .message import Message
from .names import dq_name, q_name
from .store import Claim, Outcome, Record, Store, WorkerRecord
from .store.base import DEAD, DONE, RELEASE

SAFETY_LOOK = 1000
"""Milliseconds after which a consumer looks again: who sent a message may have died before it rang."""


class Consumer:
    """The messages of one queue, one after the other: iterate over it.

    This is what `Broker.consume` gives, whatever the broker: a base without a constructor, for who writes a
    broker of their own.
    """

    def __iter__(self) -> Iterator[MessageProxy | None]:
        return self

    def __next__(self) -> MessageProxy | None:
        """The next message, or None if none comes in time."""
        raise NotImplementedError

    def ack(self, message: Any) -> None:
        """The message is done."""
        raise NotImplementedError

    def nack(self, message: Any) -> None:
        """The message is a dead letter."""
        raise NotImplementedError

    def requeue(self, messages: Iterable[Any]) -> None:
        """The messages go back to where they were."""

    def close(self) -> None:
        """Give back what is still held."""


class StoreConsumer(Consumer):
    """The messages of one queue in a store.

    Whoever iterates ends each message with `ack`, `nack` or `requeue`. What is still held when the
    consumer is closed, or its process dies, goes back to the queue. No hook runs.

    Parameters:
      store: where the messages are.
      queue_name: the queue. Its form for delayed messages (``X.DQ``) gives none: they wait in the store.
      timeout: milliseconds that each step waits for a message.
    """

    def __init__(self, store: Store, queue_name: str, timeout: int) -> None:
        self.logger = get_logger("localq.broker", type(self))
        self.queue_name = queue_name
        self.timeout = timeout
        self._store = store
        self._queues = [] if queue_name == dq_name(queue_name) else [q_name(queue_name)]
        self._cells: Cells | None = None
        self._closed = False
        self._id = self._join()

    def _join(self) -> int:
        name = uuid4().hex
        path = self._store.worker_path(name)
        if path is not None:
            self._cells = Cells(path, 1, 0)  # before the store hears of it: then a free lock means death
        worker = WorkerRecord(name, os.getpid(), self._queues, [])
        return self._store.join(worker, now=clock.wall())

    def __next__(self) -> MessageProxy | None:
        """The next message, or None if none comes in time."""
        deadline = Deadline(self.timeout)
        while True:
            for record in self._store.claim(Claim(self._id, self._queues), now=clock.wall()):
                message = self._decode(record)
                if message is not None:
                    return message
            if deadline.passed():
                return None
            self._store.wait(self._queues, now=clock.wall(), timeout=min(deadline.left() or 0, SAFETY_LOOK))

    def _decode(self, record: Record) -> MessageProxy | None:
        try:
            message = message_in(record)
        except DecodeError as error:
            self.logger.error("Cannot decode the message %s: %s", record.message_id, error)
            self._reject(record, error)
            return None
        return MessageProxy(message, record)

    def _reject(self, record: Record, error: DecodeError) -> None:
        self._finish(record, DEAD, f"DecodeError: {error}")

    def ack(self, message: Any) -> None:
        """The message is done; one that this consumer does not hold is left alone."""
        self._finish(_record_of(message), DONE)

    def nack(self, message: Any) -> None:
        """The message is a dead letter; one that this consumer does not hold is left alone."""
        self._finish(_record_of(message), DEAD, "rejected by its consumer")

    def requeue(self, messages: Iterable[Any]) -> None:
        """The messages go back to where they were."""
        for message in messages:
            self._finish(_record_of(message), RELEASE)

    def _finish(self, record: Record | None, kind: str, reason: str | None = None) -> None:
        if record is not None:
            self._store.finish([Outcome(record, kind, reason)], now=clock.wall())

    def close(self) -> None:
        """Give back what is still held. Closing twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._store.leave(self._id, now=clock.wall())
        if self._cells is not None:
            self._cells.close()


def message_in(record: Record) -> Message[Any]:
    """The message that a record holds.

    Raises:
      DecodeError: whatever is wrong with it.
    """
    if record.flaw is not None:
        raise DecodeError(record.flaw, record.body)
    return Message.decode_stored(record.body, record.encoder, record.wire)


def unreadable_message(record: Record) -> Message[Any]:
    """What is known of a message whose bytes are none: what its sender wrote beside them."""
    return Message(record.queue, record.actor, (), {}, {}, record.message_id)


def _record_of(message: Any) -> Record | None:
    record = getattr(message, "_record", None)
    return record if isinstance(record, Record) else None


class MessageProxy:
    """A message on its way through the hooks and its actor; has the message's attributes.

    Attributes can be set on it: the same object is given to every hook.
    """

    cancelled = False
    """Whether nobody wanted it any more before it ran: it is set aside, and no dead letter."""

    failure_is_told = False
    """Whether those who wait for its result are told that it failed."""

    def __init__(self, message: Message[Any], record: Record | None = None) -> None:
        self.failed = False
        self._message = message
        self._record = record
        self._exception: BaseException | None = None

    @property
    def _message(self) -> Message[Any]:
        """The message itself. A hook may put another in its place, which the hooks after it and the actor get."""
        return self._its_message

    @_message.setter
    def _message(self, message: Message[Any]) -> None:
        # A message never changes, so that its fields can stand here too: a hook reads many.
        self._its_message = message
        self.__dict__.update(message.__dict__)

    def cancel(self) -> None:
        """Mark it as failed, and as one that nobody wants any more."""
        self.failed = self.cancelled = True

    def fail(self) -> None:
        """Mark it as failed for good: it becomes a dead letter."""
        self.failed = True

    def stuff_exception(self, exception: BaseException) -> None:
        """Remember what the actor raised, for the hooks that follow."""
        self._exception = exception

    def clear_exception(self) -> None:
        """Forget it, since it refers to frames, which refer to everything."""
        self._exception = None

    def __getattr__(self, name: str) -> Any:
        if name in ("_message", "_its_message"):  # not yet set: a copy, or an unpickled one
            raise AttributeError(name)
        return getattr(self._message, name)

    def __str__(self) -> str:
        return str(self._message)

    def __repr__(self) -> str:
        return f"MessageProxy({self._message!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MessageProxy):
            return self._message == other._message
        return self._message == other

    def __lt__(self, other: Any) -> bool:
        return bool(self._message < getattr(other, "_message", other))

    __hash__ = None  # type: ignore[assignment]  # as its message: options can be written to
