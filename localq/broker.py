"""The broker: what actors are declared on, and what puts their messages into a store."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import current
from .asyncio import in_a_thread
from .clock import Deadline, clock
from .consumer import Consumer, MessageProxy, StoreConsumer
from .encoder import name_of
from .errors import ActorNotFound, BrokerError, QueueJoinTimeout
from .files import make_folder
from .hooks import Hooks
from .location import Location, default_location
from .logging import get_logger
from .message import WIRE_VERSION, Message, get_encoder
from .middleware import Middleware, default_middleware
from .names import check_actor_name, check_queue_name, dq_name, q_name
from .results import ResultBackend, Results
from .store import Record, Selection, Store, open_store
from .store.base import DELAYED, RUNNING, WAITING

if TYPE_CHECKING:
    from .actor import Actor

__all__ = ["Broker", "Consumer", "MessageProxy", "all_brokers", "get_broker", "global_broker", "set_broker"]

global_broker: Broker | None = None
"""The broker of actors that name none. None: `get_broker` makes the default one."""


def get_broker() -> Broker:
    """The global broker; made on demand, without touching the disk, if none was set.

    The default one keeps everything in one SQLite file of the project's own (or in what
    ``LOCALQ_URL`` names), results included.
    """
    global global_broker
    if global_broker is None:
        global_broker = current.make_default_broker()
        global_broker.is_default = True
    return global_broker


def set_broker(broker: Broker) -> None:
    """Make it the global broker.

    Actors that were declared while none was set, and have not been used, move to it.

    Raises:
      ValueError: an actor of that name is on it already, or one has options that no middleware
        of it knows.
    """
    global global_broker
    previous = global_broker
    if previous is not None and previous is not broker and previous.is_default and not previous.is_open:
        moving = [actor for actor in previous.actors.values() if broker.actors.get(actor.actor_name) is not actor]
        for actor in moving:
            actor.check_move_to(broker)
        for actor in moving:
            actor.move_to(broker)
        previous.actors.clear()
    global_broker = broker


current.get_broker = get_broker


all_brokers: weakref.WeakSet[Broker] = weakref.WeakSet()
"""Every broker of this process, for a pool that looks for its own."""


class Broker(Hooks):
    """Sends messages to a store, and holds the actors and the middleware that belong to them.

    Parameters:
      middleware: instances; None for fresh ones of ``default_middleware``, an empty list for none.
      url: the store; None for the default one. It is opened when it is first needed.
    """

    is_private = False
    """Whether its store is meant to be seen by one process alone, as the stub broker's is: the command line then
    runs workers that see what they send themselves, instead of refusing to."""
    is_default = False
    """Whether `get_broker` made it, since nobody set one."""

    forgets_failures = False
    """Whether a message whose actor raised, and that no middleware retries or fails, is done, as in dramatiq.
    Otherwise it is a dead letter."""

    def __init__(self, middleware: Iterable[Middleware] | None = None, *, url: str | None = None) -> None:
        super().__init__()
        self.logger = get_logger(__name__, type(self))
        self.actors: dict[str, Actor[Any, Any]] = {}
        self.queues: dict[str, Any] = {}
        self.delay_queues: set[str] = set()
        self.on_declare: list[Callable[[], None]] = []
        """Called when another actor is declared: by workers, which then serve it too."""
        self.actor_options: set[str] = set()
        all_brokers.add(self)
        self.url = url
        self._store: Store | None = None
        if middleware is None:
            middleware = [make() for make in default_middleware]
        for one in middleware:
            self.add_middleware(one)

    # -- the store

    @property
    def location(self) -> Location:
        """Where the store is, and why there."""
        return default_location() if self.url is None else Location(self.url, "the broker was given it")

    @property
    def is_open(self) -> bool:
        """Whether the store has been used."""
        return self._store is not None

    @property
    def store(self) -> Store:
        """The store, opened if need be.

        Raises:
          StoreError: it cannot be used; the text says why.
        """
        if self._store is None:
            location = self.location
            if location.folder:
                _make_folder(location.folder)
            self._store = open_store(location.url)
        return self._store

    # -- middleware

    def add_middleware(
        self,
        middleware: Middleware,
        *,
        before: type[Middleware] | None = None,
        after: type[Middleware] | None = None,
    ) -> None:
        """Add middleware at the end, or right before or after the first of a class.

        It hears of the actors and queues that are declared already.

        Raises:
          AssertionError: both `before` and `after` are given.
          ValueError: there is none of that class.
        """
        assert not (before and after), "give before or after, not both"
        if any(type(one) is type(middleware) for one in self.middleware):
            self.logger.warning("You're adding a middleware of the same type twice: %s.", type(middleware).__name__)
        self.middleware.insert(self._place_for(before, after), middleware)
        self.actor_options |= middleware.actor_options
        for actor in list(self.actors.values()):
            middleware.after_declare_actor(self, actor)
        for queue in list(self.queues):
            if queue not in self.delay_queues:  # the stub broker shows those among its queues
                middleware.after_declare_queue(self, queue)
        for queue in list(self.delay_queues):
            middleware.after_declare_delay_queue(self, queue)

    def _place_for(self, before: type[Middleware] | None, after: type[Middleware] | None) -> int:
        wanted = before or after
        if wanted is None:
            return len(self.middleware)
        for place, one in enumerate(self.middleware):
            if isinstance(one, wanted):
                return place if before else place + 1
        raise ValueError(f"there is no {wanted.__name__} among the middleware of this broker")

    def get_results_backend(self) -> ResultBackend:
        """Where results are kept.

        Raises:
          RuntimeError: there is no `Results` middleware.
        """
        for one in self.middleware:
            if isinstance(one, Results):
                return one.backend_for(self)
        raise RuntimeError(
            "this broker doesn't have a results backend: add localq.results.Results(...) to its middleware, or use "
            "localq.connect(...), which has it"
        )

    # -- actors and queues

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        """Add an actor, and its queue."""
        self.emit_before("declare_actor", actor)
        self.declare_queue(actor.queue_name)
        self.actors[actor.actor_name] = actor
        self.emit_after("declare_actor", actor)
        for tell in list(self.on_declare):
            tell()

    def declare_queue(self, queue_name: str) -> None:
        """Add a queue; one that is there already is left alone.

        Raises:
          ValueError: not a name for a queue.
        """
        if queue_name in self.queues:
            return
        check_queue_name(queue_name)
        self.emit_before("declare_queue", queue_name)
        self._add_queue(queue_name)
        self.emit_after("declare_queue", queue_name)
        self.delay_queues.add(dq_name(queue_name))
        self.emit_after("declare_delay_queue", dq_name(queue_name))

    def _add_queue(self, queue_name: str) -> None:
        self.queues[queue_name] = None

    def get_actor(self, actor_name: str) -> Actor[Any, Any]:
        """The actor of that name.

        Raises:
          ActorNotFound: none is declared here.
        """
        try:
            return self.actors[actor_name]
        except KeyError:
            raise ActorNotFound(actor_name) from None

    def get_declared_actors(self) -> set[str]:
        """The names of all actors."""
        return set(self.actors)

    def get_declared_queues(self) -> set[str]:
        """The names of all queues."""
        return set(self.queues)

    def get_declared_delay_queues(self) -> set[str]:
        """The names of all queues in their form for delayed messages (``X.DQ``)."""
        return set(self.delay_queues)

    # -- sending

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Send a message; when this returns, it is stored.

        In a hook that runs after a message, it is stored when that message's end is.

        Parameters:
          message: what to send.
          delay: milliseconds before which it does not run.

        Returns:
          The message as it was stored: a delayed one has its ``eta`` among its options.

        Raises:
          EncodeError: an argument cannot be encoded; the text says where it stands.
          StoreError: it could not be stored.
        """
        return self.enqueue_many([(message, delay)])[0]

    async def aenqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """As `enqueue`, for coroutines: the event loop goes on meanwhile."""
        return await in_a_thread(self.enqueue, message, delay=delay)

    def enqueue_together(self, messages: Iterable[tuple[Message[Any], int | None]]) -> None:
        """`enqueue_many`, unless something else stands in the place of `enqueue`: then it gets them one by one.

        That may be a subclass's, as in a broker that runs messages at once, or a test's.
        """
        pairs = list(messages)
        if getattr(self.enqueue, "__func__", None) is Broker.enqueue:
            self.enqueue_many(pairs)
        else:
            for message, delay in pairs:
                self.enqueue(message, delay=delay)

    def enqueue_many(
        self,
        messages: Iterable[Message[Any] | tuple[Message[Any], int | None]],
        *,
        delay: int | None = None,
    ) -> list[Message[Any]]:
        """Send messages in one transaction: all of them are stored, or none is.

        Each may be paired with a delay of its own, in milliseconds. Otherwise as `enqueue`.
        """
        now = clock.wall()
        pairs = [pair if isinstance(pair, tuple) else (pair, delay) for pair in messages]
        sent = [(self._scheduled(message, wait, now), wait) for message, wait in pairs]
        for message, wait in sent:
            self.emit_before("enqueue", message, wait)
        records = [self.record_of(message, now) for message, _ in sent]
        for record, (_, wait) in zip(records, sent, strict=True):
            if wait is not None and record.eta is not None and record.eta > now:
                record.eta += 1  # the millisecond that has begun does not count: nothing runs early
        self._put(records, now, lambda: self._tell_sent(sent))
        return [message for message, _ in sent]

    def _tell_sent(self, sent: list[tuple[Message[Any], int | None]]) -> None:
        for message, wait in sent:
            self.emit_after("enqueue", message, wait)

    def prepared(self, message: Message[Any]) -> Message[Any]:
        """The message as `enqueue` would store it: without an ``eta`` that means nothing."""
        return self._scheduled(message, None, clock.wall())

    def _scheduled(self, message: Message[Any], delay: int | None, now: int) -> Message[Any]:
        """The message with its eta among the options, or without one that means nothing."""
        if isinstance(message, MessageProxy):
            message = message._message
        if delay is not None:
            return message.copy(options={"eta": now + max(0, _whole(delay, "delay"))})
        if "eta" not in message.options:
            return message
        eta = message.options["eta"]
        if isinstance(eta, (int, float)) and not isinstance(eta, bool) and eta == eta and abs(eta) < 2**53:
            return message.copy(options={"eta": int(eta)})
        if eta is not None:
            get_logger(__name__, Broker).warning(
                "Invalid eta value for message %r: %r is no number of milliseconds; it runs at once.",
                message.message_id,
                eta,
            )
        return message._replace(options={name: value for name, value in message.options.items() if name != "eta"})

    def _put(self, records: Sequence[Record], now: int, on_stored: Callable[[], None]) -> None:
        store = self.store
        outcome = current.outcome_in(store)
        if outcome is None:
            # What a hook records of a message it has sent should not come after what a worker records of it.
            store.put(records, now=now, on_stored=on_stored)
        else:
            outcome.puts += records
            on_stored()

    def record_of(self, message: Message[Any], now: int) -> Record:
        """What the store keeps of a message.

        Raises:
          TypeError, ValueError: a field or an option cannot have that value.
          EncodeError: an argument cannot be encoded.
        """
        message.check()
        queue_name, options = q_name(message.queue_name), message.options
        if queue_name not in self.queues:  # those that are there were checked
            check_queue_name(queue_name)
        if message.actor_name not in self.actors:
            check_actor_name(message.actor_name)
        priority = options.get("priority")
        if priority is None:
            actor = self.actors.get(message.actor_name)
            priority = actor.priority if actor is not None else 0
        return Record(
            str(message.message_id),
            queue_name,
            message.actor_name,
            message.encode(),
            name_of(get_encoder()),
            WIRE_VERSION,
            _whole(priority, "priority"),
            options.get("eta"),
            created_at=now,
        )

    # -- receiving, without a worker

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        """Takes messages of a queue one by one, for who wants no worker.

        Parameters:
          queue_name: the queue.
          prefetch: has no effect, since nothing is taken before it is asked for.
          timeout: milliseconds that each step of the iteration waits for a message.

        Raises:
          StoreError: the store cannot be used; the text says why.
        """
        return StoreConsumer(self.store, queue_name, timeout)

    def bury(self, message: MessageProxy) -> None:
        """A message is about to become a dead letter; for brokers that show theirs."""

    @property
    def keeps_messages_elsewhere(self) -> bool:
        """Whether it is a broker of somebody's own, written for workers of dramatiq."""
        own = type(self)
        return own.__base__ is Broker and own.enqueue is not Broker.enqueue and own.consume is not Broker.consume

    # -- looking and waiting

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """How many messages of a queue are ready, delayed and dead."""
        counts = self.store.counts().get(q_name(queue_name), {})
        return counts.get(WAITING, 0), counts.get(DELAYED, 0), counts.get("dead", 0)

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until nothing in a queue is ready, delayed or running.

        Raises:
          QueueJoinTimeout: there still is after `timeout` milliseconds; the text says what.
        """
        self.wait_until_done(queue_name, timeout)

    def wait_until_done(self, queue_name: str, timeout: int | None = None) -> None:
        """`join`, whatever a subclass makes of that: for workers."""
        deadline, nap = Deadline(timeout), 0.001
        longest = 0.05 if self.store.shared else 0.005  # a look into a file costs more
        while left := self._unfinished(q_name(queue_name)):
            if deadline.passed():
                states = ", ".join(f"{count} {state}" for state, count in left.items())
                raise QueueJoinTimeout(f"after {timeout} ms the queue {queue_name!r} still has {states}")
            time.sleep(nap)
            nap = min(nap * 1.5, longest)

    def _unfinished(self, queue_name: str) -> dict[str, int]:
        counts = self.store.counts().get(queue_name, {})
        return {state: counts[state] for state in (WAITING, DELAYED, RUNNING) if counts.get(state)}

    def flush(self, queue_name: str) -> None:
        """Remove all messages of a queue but those that run, dead ones included."""
        self.store.purge(Selection(queues=[q_name(queue_name)]))

    def flush_all(self) -> None:
        """Remove all messages of all declared queues but those that run."""
        for queue_name in self.queues:
            self.flush(queue_name)

    def close(self) -> None:
        """Let go of the store; using the broker again opens it again."""
        store, self._store = self._store, None
        if store is not None:
            store.close()


def _make_folder(folder: str) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise BrokerError(
            f"the folder of the default queue, {folder!r}, cannot be made ({error.strerror}); set "
            "LOCALQ_URL, for example to sqlite:///jobs.db, or call localq.connect(...)"
        ) from error


def _whole(value: Any, name: str) -> int:
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is a whole number, not {value!r}") from None
    if abs(whole) >= 2**53:
        raise ValueError(f"{name} is out of range: {value!r}")
    return whole
