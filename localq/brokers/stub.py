"""The broker for tests: everything in memory, to be looked into and joined."""

from __future__ import annotations

import queue
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from ..broker import Broker
from ..clock import Deadline, clock
from ..consumer import Consumer, MessageProxy, StoreConsumer, unreadable_message
from ..encoder import name_of
from ..errors import DecodeError, QueueNotFound
from ..message import WIRE_VERSION, Message, get_encoder
from ..middleware import Middleware
from ..names import dq_name, q_name
from ..store import Record, Selection
from ..store.base import DELAYED, RUNNING, WAITING
from ..store.memory import MemoryStore

_StubMessageProxy = MessageProxy  # dramatiq's name for what its consumer gives, which packages take from here


class StubBroker(Broker):
    """Sends messages to a store in memory of its own.

    ``queues`` shows its waiting and (``X.DQ``) delayed messages as queues of encoded messages.

    Parameters:
      middleware: instances; None for fresh ones of ``default_middleware``, an empty list for none.
      fail_fast_default: whether `join` raises what a dead letter died of, where it is not told.
    """

    is_private = True
    looks_hooks_up_each_time = True
    forgets_failures = True  # suites count what was acknowledged and what was not

    def __init__(self, middleware: Iterable[Middleware] | None = None, *, fail_fast_default: bool = True) -> None:
        self.fail_fast_default = fail_fast_default
        self.dead_letters_by_queue: defaultdict[str, list[MessageProxy]] = defaultdict(list)
        """What died in each queue, with its exception."""
        self.memory = MemoryStore()
        super().__init__(middleware, url="memory://")
        self._store = self.memory

    @property
    def dead_letters(self) -> list[MessageProxy]:
        """What died in any queue."""
        return [message for letters in self.dead_letters_by_queue.values() for message in letters]

    def _add_queue(self, queue_name: str) -> None:
        self.queues[queue_name] = QueueView(self, queue_name, WAITING, RUNNING)
        self.queues[dq_name(queue_name)] = QueueView(self, dq_name(queue_name), DELAYED)

    def bury(self, message: Any) -> None:
        """A message is about to become a dead letter, and is not yet: then `join` finds it here."""
        letter = MessageProxy(getattr(message, "_message", message))  # the worker clears its own
        letter.failed = True
        letter._exception = getattr(message, "_exception", None)
        self.dead_letters_by_queue[q_name(letter.queue_name)].append(letter)

    def enqueue_many(
        self,
        messages: Iterable[Message[Any] | tuple[Message[Any], int | None]],
        *,
        delay: int | None = None,
    ) -> list[Message[Any]]:
        """As `Broker.enqueue_many`.

        Raises:
          QueueNotFound: a queue is not declared here.
        """
        pairs = [pair if isinstance(pair, tuple) else (pair, delay) for pair in messages]
        for message, _ in pairs:
            self._check(message.queue_name)
        return super().enqueue_many(pairs)

    def _scheduled(self, message: Message[Any], delay: int | None, now: int) -> Message[Any]:
        scheduled = super()._scheduled(message, delay, now)
        name = scheduled.queue_name
        return scheduled.copy(queue_name=q_name(name) if delay is None else dq_name(name))

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        """As `Broker.consume`.

        Raises:
          QueueNotFound: the queue is not declared here.
        """
        self._check(queue_name)
        return StubConsumer(self, queue_name, timeout)

    def join(self, queue_name: str, *, timeout: int | None = None, fail_fast: bool | None = None) -> None:
        """As `Broker.join`, and then raise what the first dead letter of the queue died of.

        Parameters:
          queue_name: the queue.
          timeout: milliseconds.
          fail_fast: whether to raise that; by default ``fail_fast_default``.

        Raises:
          QueueNotFound: the queue is not declared here.
          QueueJoinTimeout: something is left after `timeout` milliseconds.
        """
        self._check(queue_name)
        super().join(queue_name, timeout=timeout)
        letters = self.dead_letters_by_queue[q_name(queue_name)]
        if letters and (self.fail_fast_default if fail_fast is None else fail_fast):
            raise (letters[0]._exception or Exception(f"the message {letters[0]} failed")) from None

    def flush(self, queue_name: str) -> None:
        """Empty a queue, and forget what died in it."""
        self._check(queue_name)
        super().flush(queue_name)
        self.dead_letters_by_queue[q_name(queue_name)].clear()
        for name in (q_name(queue_name), dq_name(queue_name)):
            self.queues[name].taken = 0

    def close(self) -> None:
        """End what waits. The messages stay: they are this object's own."""
        self.memory.close()

    def _check(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)


class StubConsumer(StoreConsumer):
    """A consumer whose dead letters the broker shows."""

    def __init__(self, broker: StubBroker, queue_name: str, timeout: int) -> None:
        super().__init__(broker.store, queue_name, timeout)
        self._broker = broker

    def nack(self, message: Any) -> None:
        """The message is a dead letter."""
        self._broker.bury(message)
        super().nack(message)

    def _reject(self, record: Record, error: DecodeError) -> None:
        unreadable = MessageProxy(unreadable_message(record))
        unreadable.stuff_exception(error)
        self._broker.bury(unreadable)
        super()._reject(record, error)


class QueueView(queue.Queue[bytes]):
    """The messages of one queue that are in a state, as a queue of their bytes.

    Parameters:
      broker: whose messages.
      name: the queue's.
      state: what `get` takes.
      also: states that count as unfinished too.
    """

    # Not initialised as a queue: it holds nothing itself.
    def __init__(self, broker: StubBroker, name: str, state: str, *also: str) -> None:
        self.maxsize = 0
        self.taken = 0
        """How many messages `get` took that `task_done` has not been called for."""
        self._broker = broker
        self._name = name
        self._state = state
        self._states = (state, *also)

    @property
    def queue(self) -> deque[bytes]:
        """A copy of what is in it, the oldest first."""
        selection = Selection(states=[self._state], queues=[q_name(self._name)])
        return deque(record.body for record in self._broker.store.browse(selection, limit=2**62))

    @property
    def unfinished_tasks(self) -> int:  # type: ignore[override]
        """What is in it, is running, or was taken by `get` without a `task_done` since."""
        counts = self._broker.store.counts().get(q_name(self._name), {})
        return sum(counts.get(state, 0) for state in self._states) + self.taken

    def qsize(self) -> int:
        """How many messages are in it."""
        return self._broker.store.counts().get(q_name(self._name), {}).get(self._state, 0)

    def empty(self) -> bool:
        """Whether there are none."""
        return not self.qsize()

    def full(self) -> bool:
        """Never."""
        return False

    def put(self, item: bytes, block: bool = True, timeout: float | None = None) -> None:
        """Add the bytes of a message, or others, which will be a dead letter."""
        self._broker.store.put([self._record_of(item)], now=clock.wall())

    def _record_of(self, item: bytes) -> Record:
        try:
            message = Message.decode(item)
        except DecodeError:
            return Record("", q_name(self._name), "", item, name_of(get_encoder()), WIRE_VERSION)
        now = clock.wall()
        record = self._broker.record_of(self._broker._scheduled(message, None, now), now)
        record.queue, record.body = q_name(self._name), item
        return record

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Take the oldest message out.

        Parameters:
          block: whether to wait for one.
          timeout: seconds.

        Raises:
          queue.Empty: there is none, or none came in time.
        """
        deadline = Deadline(timeout * 1000 if timeout is not None and block else None)
        while (item := self._take()) is None:
            if not block or deadline.passed():
                raise queue.Empty
            time.sleep(0.001)  # a test looks; nothing rings for it
        return item

    def _take(self) -> bytes | None:
        selection = Selection(states=[self._state], queues=[q_name(self._name)])
        for record in self._broker.store.browse(selection):
            if self._broker.store.purge(Selection(sequences=[record.sequence])):  # of two one hears 1
                self.taken += 1
                return record.body
        return None

    def task_done(self) -> None:
        """What `get` took is done.

        Raises:
          ValueError: nothing was taken.
        """
        if not self.taken:
            raise ValueError("task_done() called too many times")
        self.taken -= 1

    def join(self) -> None:
        """Wait until nothing is unfinished."""
        while self.unfinished_tasks:
            time.sleep(0.001)
