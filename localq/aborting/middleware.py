"""The middleware that carries out aborts, and the functions that ask for them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any

from .. import current
from ..broker import Broker, MessageProxy, get_broker
from ..clock import clock
from ..errors import DecodeError, SkipMessage
from ..logging import get_logger
from ..message import Message
from ..middleware import Middleware
from ..middleware.middleware import option
from ..store import Outcome, Record, Selection, Store
from ..store.base import CANCELLED, DELAYED, HELD, RUNNING, WAITING
from ..threading import Interrupt, current_platform, supported_platforms
from .backend import Event, EventBackend
from .backends import StoreBackend
from .running import Keys, Running

if TYPE_CHECKING:
    from ..actor import Actor
    from ..worker import Worker

DEFAULT_ABORT_TTL = 90_000
WAIT_TIMEOUT = 1000
"""Milliseconds that the watcher listens before it looks whether it is still needed."""


class Abort(Interrupt):
    """Raised in an actor whose message was aborted. Such a message is not retried."""

    def __init__(self, message: str = "the message was aborted") -> None:
        super().__init__(message)


class Aborted(SkipMessage):
    """Keeps the actor of a message from running that was aborted before."""


class AbortMode(Enum):
    """What `abort` ends."""

    ABORT = "abort"
    """A message that waits does not run; one that runs is interrupted."""
    CANCEL = "cancel"
    """A message that waits does not run; one that runs is left alone."""
    KILL = "kill"
    """As ABORT, by killing the process: not available yet, `abort` refuses it."""


class Abortable(Middleware):
    """Lets messages be aborted. Add it after `Retries`, so that an aborted one is not retried.

    A message that waits in the broker's own store is ``cancelled`` there at once, and whoever
    waits for its result hears of it. The interrupt of a running one lands between two
    bytecodes, or, on a process's main thread, also in a blocking call.

    Parameters:
      backend: what carries the requests; by default the broker's own store.
      abortable: whether messages are abortable where neither the actor nor the message has the
        option of that name.
      abort_ttl: milliseconds that a request is kept for a message that cannot be found now.
    """

    def __init__(
        self,
        *,
        backend: EventBackend | None = None,
        abortable: bool = True,
        abort_ttl: int = DEFAULT_ABORT_TTL,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.backend = backend
        self.abortable = abortable
        self.abort_ttl = abort_ttl
        self.wait_timeout = WAIT_TIMEOUT
        self._broker: Broker | None = None
        self._own: StoreBackend | None = None
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._workers = 0
        self._running = Running()
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None

    @property
    def actor_options(self) -> set[str]:
        return {"abortable"}

    def is_abortable(self, actor: Actor[Any, Any] | None, message: Any) -> bool:
        """Whether a message of that actor can be aborted."""
        return bool(option("abortable", message, actor, self.abortable))

    def abort(
        self,
        message_id: str,
        abort_ttl: int | None = None,
        mode: AbortMode = AbortMode.ABORT,
        abort_timeout: int = 0,
    ) -> None:
        """As the function `abort`."""
        if mode is AbortMode.KILL:
            raise NotImplementedError("AbortMode.KILL is not available yet; use AbortMode.ABORT")
        ttl = self.abort_ttl if abort_ttl is None else abort_ttl
        events = [Event(f"{AbortMode.CANCEL.value}:{message_id}", {})]
        if mode is AbortMode.ABORT:
            events.append(Event(f"{AbortMode.ABORT.value}:{message_id}", {"abort_timeout": abort_timeout}))
        if self.backend is not None:
            self.backend.notify(events, ttl)
        else:
            broker = self._broker or get_broker()
            if self._cancel(broker, message_id) or not _is_running(broker.store, message_id):
                return
            self._backend_of(broker).notify(events, ttl)
            self._cancel(broker, message_id)  # it may have gone back to its queue meanwhile

    def get_abort_request(self, message_id: str | None = None) -> float | None:
        """Milliseconds until a message that runs here (None: on this thread) is interrupted, or None."""
        return self._running.left(message_id)

    # -- hooks

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self._broker = broker

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        if current_platform not in supported_platforms:
            warnings.warn(
                f"Abortable cannot interrupt running messages on {current_platform!r}, only on CPython.",
                category=RuntimeWarning,
                stacklevel=2,
            )
            return
        if self._process != os.getpid():
            self._forget()
        with self._lock:
            self._workers += 1
            if self._watcher is None:
                arguments = (broker, self._backend_of(broker))
                self._watcher = threading.Thread(
                    target=self._watch, args=arguments, name="localq aborts", daemon=True
                )
                self._watcher.start()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        with self._lock:
            self._workers = max(0, self._workers - 1)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if not self.is_abortable(broker.actors.get(message.actor_name), message):
            return
        backend = self._backend_of(broker)
        self._running.add(message.message_id)
        if backend.may_hold_any() and backend.poll(f"{AbortMode.CANCEL.value}:{message.message_id}") is not None:
            self._running.remove(message.message_id)
            raise Aborted("it was aborted before it ran")

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        self._running.remove(message.message_id)
        if isinstance(exception, Abort):
            message.fail()
            # One that is brought back to life later is not meant any more.
            self._backend_of(broker).poll(f"{AbortMode.CANCEL.value}:{message.message_id}")

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self._running.remove(message.message_id)
        if isinstance(message._exception, Aborted):
            message.stuff_exception(Abort())
            message.fail()

    # -- the watcher

    def _watch(self, broker: Broker, backend: EventBackend) -> None:
        keys = Keys(self._running, f"{AbortMode.ABORT.value}:")
        while self._is_needed():
            try:
                self._listen(backend, keys)
            except Exception as error:  # a backend's own
                if self._workers:
                    self.logger.error("Cannot listen for aborts now: %s: %s", type(error).__name__, error)
                clock.wait(threading.Event(), self.wait_timeout)
            for thread in self._running.interrupt_due(Abort):
                self.logger.info("A message was aborted: interrupting thread %r.", thread)
                if broker.is_open:
                    broker.store.wake()  # so that it also ends our own waits

    def _is_needed(self) -> bool:
        with self._lock:
            if self._workers or self._running.untouched():
                return True
            self._watcher = None
            return False

    def _listen(self, backend: EventBackend, keys: Keys) -> None:
        due = self._running.next_due()
        timeout = self.wait_timeout if due is None else min(due, self.wait_timeout)
        if backend.rereads_keys:
            event = backend.wait_many(keys, timeout)
        else:
            event = self._listen_in_steps(backend, list(keys), timeout)
        if event is not None:
            message_id = event.key.partition(":")[2]
            self._running.request(message_id, event.params.get("abort_timeout", 0))

    def _listen_in_steps(self, backend: EventBackend, keys: list[str], timeout: float) -> Event | None:
        if not keys or timeout < self.wait_timeout:
            clock.wait(threading.Event(), timeout)
            return None
        return backend.wait_many(keys, self.wait_timeout)

    # -- the broker's own store

    def _backend_of(self, broker: Broker) -> EventBackend:
        if self.backend is not None:
            return self.backend
        if self._own is None or self._own.store is not broker.store:
            self._own = StoreBackend(broker.store)
        return self._own

    def _cancel(self, broker: Broker, message_id: str) -> bool:
        """Keep a message that waits from running, and tell who waits for it."""
        selection = Selection(states=[WAITING, DELAYED, HELD], message_ids=[message_id])
        waiting = [record for record in broker.store.browse(selection) if self._may_cancel(broker, record)]
        return sum(_cancel(broker, record) for record in waiting) > 0

    def _may_cancel(self, broker: Broker, record: Record) -> bool:
        message = _message_of(record)
        return message is None or self.is_abortable(broker.actors.get(record.actor), message)


def _is_running(store: Store, message_id: str) -> bool:
    return bool(store.browse(Selection(states=[RUNNING], message_ids=[message_id]), limit=1))


def _message_of(record: Record) -> Message[Any] | None:
    try:
        return Message.decode_stored(record.body, record.encoder, record.wire)
    except DecodeError:  # of an encoder that is not known here, for example
        return None


def _cancel(broker: Broker, record: Record) -> bool:
    """Cancel a message that waits, together with what its hooks have to say to that; False if it
    waits no more."""
    abort = Abort()
    outcome = Outcome(record, CANCELLED, f"{Abort.__name__}: {abort}")
    message = _message_of(record)
    proxy = MessageProxy(message or Message(record.queue, record.actor, (), {}, {}, record.message_id))
    proxy.stuff_exception(abort)
    proxy.fail()
    with current.collecting(outcome, broker.store) as later:
        broker.announce("nack", proxy)
    broker.store.finish([outcome], now=clock.wall())
    if outcome.written:
        for call in later:
            call()
        broker.emit_after("nack", proxy)
    return outcome.written


def _abortable_of(middleware: Abortable | None) -> Abortable:
    if middleware is not None:
        return middleware
    candidates: Iterable[Middleware] = get_broker().middleware
    for one in candidates:
        if isinstance(one, Abortable):
            return one
    raise RuntimeError(
        "the global broker has no Abortable among its middleware: add localq.Abortable() to it, use "
        "localq.connect(...), which has it, or pass `middleware`"
    )


def abort(
    message_id: str,
    middleware: Abortable | None = None,
    abort_ttl: int | None = None,
    mode: AbortMode = AbortMode.ABORT,
    abort_timeout: int = 0,
) -> None:
    """End a message: one that waits never runs, and one that runs is interrupted by `Abort`.

    A message that is not there (any more) is left alone.

    Parameters:
      message_id: which.
      middleware: the `Abortable` of its broker; by default that of the global broker.
      abort_ttl: milliseconds that the request is kept; by default as the middleware says.
      mode: what is ended.
      abort_timeout: milliseconds before a running message is interrupted, in which it may see
        `abort_requested` and end by itself.

    Raises:
      RuntimeError: the global broker has no `Abortable`.
    """
    _abortable_of(middleware).abort(message_id, abort_ttl, mode, abort_timeout)


def abort_requested(message_id: str | None = None, middleware: Abortable | None = None) -> float | None:
    """Milliseconds until the current message is interrupted, or None if nobody asked for that.

    Parameters:
      message_id: look at that message, which runs in this process, instead.
      middleware: as for `abort`.

    Raises:
      RuntimeError: the global broker has no `Abortable`.
    """
    return _abortable_of(middleware).get_abort_request(message_id)
