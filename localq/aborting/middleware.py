"""The middleware by which messages can be aborted, and how that is asked for."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .. import current
from ..broker import Broker, MessageProxy
from ..cells import doom
from ..clock import clock
from ..errors import DecodeError, SkipMessage, StoreError
from ..logging import get_logger
from ..message import Message
from ..middleware.middleware import Middleware, option
from ..store import Outcome, Record, Selection
from ..store.base import CANCELLED, DELAYED, HELD, RUNNING, WAITING
from ..threading import Abort, current_platform, shielded, supported_platforms
from .backend import Event, EventBackend
from .running import AbortMode, Running
from .watcher import BackendWatcher, StoreWatcher, Watcher, announce, is_announced, key_of

if TYPE_CHECKING:
    from ..actor import Actor
    from ..worker import Worker

__all__ = ["Abort", "AbortMode", "Abortable", "abort", "abort_requested"]

DEFAULT_ABORT_TTL = 90_000
HEEDING = 1_000
"""Milliseconds that a task has to heed `Abort`, before its process is killed."""
PENDING = (WAITING, DELAYED, HELD)
BEFORE_IT_RAN = "the message was aborted before it ran"


class Abortable(Middleware):
    """Lets messages be aborted. One that waits (for its turn, its time or its next try) never runs: it
    is set aside as cancelled, and who waits for its result hears so at once. In one that runs, `Abort`
    is raised: between two bytecodes, or, on a process's main thread (where a worker process with one
    thread runs its tasks), also in a blocking call. An aborted message is not retried.

    Parameters:
      backend: what carries aborts to the workers; by default the broker's own store, which wakes them.
      abortable: whether messages can be aborted where neither the message nor its actor has the
        option of that name.
      abort_ttl: milliseconds that an abort is remembered.
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
        self.wait_timeout = 1000
        """Milliseconds that a wait for a `backend` takes at most."""
        self._broker: Broker | None = None
        self._forget()

    def _forget(self) -> None:
        self._running = Running(self.logger)
        self._watcher: Watcher | None = None
        self._workers = 0

    @property
    def actor_options(self) -> set[str]:
        return {"abortable"}

    def is_abortable(self, actor: Actor[Any, Any] | None, message: Any) -> bool:
        """Whether a message of that actor can be aborted."""
        return bool(option("abortable", message, actor, self.abortable))

    # -- asking for it

    def abort(
        self,
        message_id: str,
        abort_ttl: int | None = None,
        mode: AbortMode = AbortMode.ABORT,
        abort_timeout: int = 0,
    ) -> None:
        """Abort a message; nothing happens if there is none of that id, or it has ended.

        Parameters:
          message_id: that of the message, as it was sent.
          abort_ttl: milliseconds that the abort is remembered; by default those of the middleware.
          mode: `AbortMode.CANCEL` leaves alone what runs; `AbortMode.KILL` kills its process, if it
            belongs to a pool, where `Abort` does not end it.
          abort_timeout: milliseconds that one which runs gets to end by itself, see `abort_requested`.
        """
        kill, message_id = AbortMode(mode) is AbortMode.KILL, str(message_id)
        mode = AbortMode.ABORT if kill else AbortMode(mode)
        ttl = _millis("abort_ttl", self.abort_ttl if abort_ttl is None else abort_ttl)
        timeout = _millis("abort_timeout", abort_timeout)
        broker = self._broker or current.get_broker()
        if self.backend is not None:
            self._notify(self.backend, message_id, mode, timeout, ttl)
        with shielded():  # an actor may abort others, and be interrupted meanwhile
            if self.backend is None:
                self._tell_workers(broker, message_id, mode, timeout, max(ttl, timeout))
            self._cancel_pending(broker, message_id)
            if kill:
                self._doom(broker, message_id, timeout + HEEDING)

    def _doom(self, broker: Broker, message_id: str, millis: int) -> None:
        """Have the supervisor of whoever runs the message kill that process in so many milliseconds."""
        store, due = broker.store, int(clock.monotonic()) + millis
        running = store.browse(Selection(states=[RUNNING], message_ids=[message_id]))
        names = {worker.id: worker.name for worker in store.workers()} if running else {}
        for record in running:
            name = names.get(record.owner or 0)
            path = store.worker_path(name) if name is not None else None
            if path is not None and self._may_cancel(broker, record):
                doom(path, record.sequence, record.claim, due)

    def _notify(self, backend: EventBackend, message_id: str, mode: AbortMode, timeout: int, ttl: int) -> None:
        events = [Event(key_of(message_id, AbortMode.CANCEL), {})]
        if mode is AbortMode.ABORT:
            events.append(Event(key_of(message_id, mode), {"abort_timeout": timeout}))
        backend.notify(events, ttl)

    def _tell_workers(self, broker: Broker, message_id: str, mode: AbortMode, timeout: int, ttl: int) -> None:
        unfinished = Selection(states=(*PENDING, RUNNING), message_ids=[message_id])
        if broker.store.browse(unfinished, limit=1):
            # Those of this process hear it first, so that none claims and starts it in the meantime.
            self._running_here().request(message_id, mode, timeout=timeout, ttl=ttl)
            announce(broker.store, message_id, mode, timeout=timeout, ttl=ttl)

    def _cancel_pending(self, broker: Broker, message_id: str) -> None:
        pending = Selection(states=PENDING, message_ids=[message_id])
        # Again and again: it may have become due, or have come back from a worker, in the meantime.
        while records := [each for each in broker.store.browse(pending) if self._may_cancel(broker, each)]:
            for record in records:
                _cancel(broker, record)

    def _may_cancel(self, broker: Broker, record: Record) -> bool:
        return self.is_abortable(broker.actors.get(record.actor), _message_of(record))

    def get_abort_request(self, message_id: str | None = None) -> float | None:
        """Milliseconds until that message (by default the one that runs here) is interrupted; None if
        it is not to be, or does not run in this process."""
        return self._running_here().time_left(message_id)

    def _running_here(self) -> Running:
        if self._running.process != os.getpid():
            self._forget()
        return self._running

    # -- in a worker

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        self._broker = broker

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._broker = broker
        running = self._running_here()
        self._workers += 1
        if current_platform not in supported_platforms:
            warnings.warn(
                f"Abortable cannot interrupt threads on your current platform ({current_platform!r}).",
                category=RuntimeWarning,
                stacklevel=2,
            )
        elif self._watcher is None:
            broker.store  # noqa: B018  # opened, since the watcher takes one that is not for closed
            watcher = self._make_watcher(broker, running)
            if self.backend is None:
                with suppress(StoreError):  # else the worker is about to find the same; the watcher tries again
                    watcher.hear(0)  # what was aborted before, also if it begins at once
            watcher.start()
            self._watcher = watcher

    def _make_watcher(self, broker: Broker, running: Running) -> Watcher:
        if self.backend is None:
            return StoreWatcher(broker, running, self.logger)
        longest, ttl = self.wait_timeout, self.abort_ttl
        return BackendWatcher(broker, running, self.logger, self.backend, longest, ttl)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._workers -= 1
        if self._workers <= 0 and self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.stop()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if not self.is_abortable(broker.actors.get(message.actor_name), message):
            return
        message_id = str(message.message_id)
        is_requested = self._running.begin(message_id)
        if self.backend is not None:
            self._ask(self.backend, message_id)
        elif is_requested:
            if is_announced(broker.store, message_id):
                raise SkipMessage(BEFORE_IT_RAN) from Abort(BEFORE_IT_RAN)
            self._running.forget(message_id)  # it was brought back to life since

    def _ask(self, backend: EventBackend, message_id: str) -> None:
        if backend.poll(key_of(message_id, AbortMode.CANCEL)):
            raise SkipMessage(BEFORE_IT_RAN) from Abort(BEFORE_IT_RAN)
        if self._watcher is not None:
            self._watcher.begin()

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        self._running.end()
        if self.backend is not None:
            self._running.forget(str(message.message_id))

    after_skip_message = after_process_message


def _message_of(record: Record) -> Message[Any]:
    try:
        return Message.decode_stored(record.body, record.encoder, record.wire)
    except DecodeError:  # of an encoder that is not known here, for example; who waits can be told all the same
        return Message(record.queue, record.actor, (), {}, {}, record.message_id)


def _cancel(broker: Broker, record: Record) -> None:
    """Cancel a message that nobody has claimed, together with what its hooks have to say to that; without
    effect if somebody claims it meanwhile."""
    reason = Abort(BEFORE_IT_RAN)
    outcome = Outcome(record, CANCELLED, f"Abort: {reason}")
    proxy = MessageProxy(_message_of(record))
    proxy.stuff_exception(reason)
    proxy.cancel()
    with current.collecting(outcome, broker.store) as later:
        broker.announce("nack", proxy)
    broker.store.finish([outcome], now=clock.wall())
    if outcome.written:
        for call in later:
            call()
        broker.emit_after("nack", proxy)


def _millis(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        raise ValueError(f"{name} is a number of milliseconds, 0 or more, not {value!r}")
    return int(value)


def _abortable() -> Abortable:
    for one in current.get_broker().middleware:
        if isinstance(one, Abortable):
            return one
    raise RuntimeError(
        "the global broker has no Abortable middleware: call localq.set_broker() with one that has, add "
        "localq.Abortable() to it, or use localq.connect(...), which has it"
    )


def abort(
    message_id: str,
    middleware: Abortable | None = None,
    abort_ttl: int | None = None,
    mode: AbortMode = AbortMode.ABORT,
    abort_timeout: int = 0,
) -> None:
    """Abort a message, by its id; nothing happens if there is none of that id, or it has ended.

    One that waits never runs; in one that runs `Abort` is raised. See `Abortable`.

    Parameters:
      message_id: that of the message, as it was sent.
      middleware: by default that of the global broker.
      abort_ttl: milliseconds that the abort is remembered; by default those of the middleware.
      mode: `AbortMode.CANCEL` leaves alone what runs; `AbortMode.KILL` kills its process, if it belongs
        to a pool, where `Abort` does not end it.
      abort_timeout: milliseconds that one which runs gets to end by itself, see `abort_requested`.

    Raises:
      RuntimeError: the global broker has no `Abortable`.
    """
    (middleware or _abortable()).abort(message_id, abort_ttl, mode, abort_timeout)


def abort_requested(message_id: str | None = None, middleware: Abortable | None = None) -> float | None:
    """Milliseconds until the message that runs here is interrupted; None if it is not to be.

    Parameters:
      message_id: another message that runs in this process.
      middleware: by default that of the global broker.

    Raises:
      RuntimeError: the global broker has no `Abortable`.
    """
    return (middleware or _abortable()).get_abort_request(message_id)
