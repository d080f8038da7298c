"""Messages that are sent when all messages of a group have come to their end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import current
from ..clock import clock
from ..errors import text_of
from ..message import Message, generate_unique_id, later_steps
from ..rate_limits import Barrier, RateLimiterBackend
from ..rate_limits.backend import StoreBackend
from ..store import Count, Event, Value
from .middleware import Middleware, option

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy

GROUPS = "groups"
"""The option of a message that names the runs of groups it is a member of."""
FAILURES_OF = "failures_of_group"
"""The option of a callback that is told what failed, with the id of the run."""


class GroupCallbacks(Middleware):
    """Sends the completion callbacks of a group, each once a run, when all of its members have
    succeeded. The member that is a pipeline has succeeded when its last message has.

    A callback with the option ``fire_on_failure`` (of the message, of its actor where that is declared
    in the program that runs the group, or of this middleware) is sent when all members have ended,
    however they did. It gets what failed as its last argument: a list, empty if nothing did, of dicts
    with the ``actor_name`` and the ``message_id`` of the message that failed (or was skipped), and the
    ``type`` and the ``message`` of the exception.

    In the broker's own store, the members are counted and the callbacks stored together with the
    ends of the messages; the hooks before sending a callback run when its group is started. A backend
    elsewhere counts before the end of a message is written: if the process dies in between, that
    message runs again, is not counted again, and the callbacks may be sent once more. What fires on
    failure is counted in the broker's own store always, beside what failed.

    Parameters:
      rate_limiter_backend: where to count those that succeeded; by default in the broker's own store.
      barrier_ttl: milliseconds that a run of a group may take.
      fire_on_failure: for callbacks that do not say so themselves.
    """

    def __init__(
        self,
        rate_limiter_backend: RateLimiterBackend | None = None,
        *,
        barrier_ttl: int = 86_400_000,
        fire_on_failure: bool = False,
    ) -> None:
        self.rate_limiter_backend = rate_limiter_backend
        self.barrier_ttl = barrier_ttl
        self.fire_on_failure = fire_on_failure

    @property
    def actor_options(self) -> set[str]:
        return {"fire_on_failure"}

    # -- starting a group

    def open_group(self, broker: Broker, callbacks: Iterable[dict[str, Any]], size: int) -> dict[str, Any]:
        """Begin a run of a group of `size` members; what each of them is to know of it.

        Raises:
          EncodeError: a callback cannot be encoded.
        """
        group_id = generate_unique_id()
        messages = [self._prepare(broker, Message(**callback), group_id) for callback in callbacks]
        elsewhere = self._backend_elsewhere(broker)
        if elsewhere is not None:
            Barrier(elsewhere, group_id, ttl=self.barrier_ttl).create(size)
        for message in messages:
            if elsewhere is None or _fires_on_failure(message):
                broker.emit_before("enqueue", message, None)
        return {"id": group_id, "size": size, "callbacks": [message.asdict() for message in messages]}

    def _prepare(self, broker: Broker, message: Message[Any], group_id: str) -> Message[Any]:
        actor = broker.actors.get(message.actor_name)
        if option("fire_on_failure", message, actor, self.fire_on_failure):
            message = message.copy(options={FAILURES_OF: group_id})
        message = broker.prepared(message)
        broker.record_of(message, clock.wall())  # what is wrong with it is said here, not at the end
        return message

    def _backend_elsewhere(self, broker: Broker) -> RateLimiterBackend | None:
        backend = self.rate_limiter_backend
        own = backend is None or (isinstance(backend, StoreBackend) and backend.store is broker.store)
        return None if own else backend

    # -- members that end

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """For those that run messages without a worker, such as a broker that runs them at once: they have no
        end that something could be stored with. What fires on failure fires there at success, too."""
        if exception is not None or current.thread.outcome is not None:
            return
        backend = self._backend_elsewhere(broker) or StoreBackend(lambda: broker.store)
        for run in message.options.get(GROUPS, ()):
            Barrier(backend, run["id"], ttl=self.barrier_ttl).create(run["size"])
            if self._is_the_last(backend, run):
                broker.enqueue_together((Message(**callback), None) for callback in run["callbacks"])

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        if GROUPS in message.options and message._exception is None:
            self._end(broker, (message,), None)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        if not message.failed:
            self._end(broker, (message, *later_steps(message)), _failure_of(message))

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._end(broker, (message, *later_steps(message)), _failure_of(message))

    def _end(self, broker: Broker, messages: Iterable[Any], failure: dict[str, Any] | None) -> None:
        if current.thread.outcome is None:
            return  # see after_process_message
        for message in messages:
            for run in message.options.get(GROUPS, ()):
                callbacks = [broker.prepared(Message(**callback)) for callback in run["callbacks"]]
                at_success = [each for each in callbacks if not _fires_on_failure(each)]
                at_end = [each for each in callbacks if _fires_on_failure(each)]
                if at_success and failure is None:
                    self._succeed(broker, run, at_success)
                if at_end and self._ends_for_the_first_time(broker, run, failure):
                    self._count(broker, run, "ended", at_end)

    def _ends_for_the_first_time(self, broker: Broker, run: dict[str, Any], failure: dict[str, Any] | None) -> bool:
        """Keep how a member ended; False for a dead letter that was run again."""
        outcome, topic = current.thread.outcome, _topic(run["id"])
        assert outcome is not None
        key = f"{topic}:{run['member']}"
        is_first = broker.store.get_value(key, now=clock.wall()) is None
        if failure is not None:
            outcome.values.append(Value(key, json.dumps(failure).encode(), self.barrier_ttl))
            if is_first:
                outcome.events.append(Event(topic, key.encode(), self.barrier_ttl))
        elif not is_first:
            outcome.values.append(Value(key, b"", self.barrier_ttl))
        return is_first

    def _succeed(self, broker: Broker, run: dict[str, Any], callbacks: list[Message[Any]]) -> None:
        elsewhere = self._backend_elsewhere(broker)
        if elsewhere is None:
            self._count(broker, run, "succeeded", callbacks)
        elif self._is_the_last(elsewhere, run):
            broker.enqueue_together((callback, None) for callback in callbacks)

    def _count(self, broker: Broker, run: dict[str, Any], what: str, callbacks: list[Message[Any]]) -> None:
        outcome, later = current.thread.outcome, current.thread.later
        assert outcome is not None
        assert later is not None
        now = clock.wall()
        records = [broker.record_of(message, now) for message in callbacks]
        count = Count(f"{_topic(run['id'])}:{what}", run["size"], self.barrier_ttl, records)
        outcome.counts.append(count)
        if broker.hooks("after_enqueue"):
            later.append(lambda: _tell_if_all_are_there(broker, count, callbacks))

    def _is_the_last(self, backend: RateLimiterBackend, run: dict[str, Any]) -> bool:
        """Count a member in a backend, now; whether all are there."""
        barrier = Barrier(backend, run["id"], ttl=self.barrier_ttl)
        complete = f"{barrier.key}:complete"
        if backend.add(f"{barrier.key}:{run['member']}", 1, self.barrier_ttl):
            return barrier.wait(block=False) and backend.incr(complete, 1, 1, self.barrier_ttl)
        # It was counted before its process died. Whether it was the last is not known; if all are
        # there, the callbacks are rather sent twice than never.
        return not backend.incr(complete, 0, 0, self.barrier_ttl)

    # -- callbacks that want to know

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        group_id = message.options.get(FAILURES_OF)
        if group_id is not None:
            failures = self._failures(broker, group_id)
            message.args = (*message.args, failures)  # type: ignore[attr-defined]  # a proxy is no message

    def _failures(self, broker: Broker, group_id: str) -> list[dict[str, Any]]:
        store, after, found = broker.store, 0, []
        while events := store.events([_topic(group_id)], after=after):
            after = events[-1][0]
            kept = (store.get_value(event.data.decode(), now=clock.wall()) for _, event in events)
            found += [json.loads(data) for data in kept if data]
        return found


def _topic(group_id: str) -> str:
    return f"group:{group_id}"


def _fires_on_failure(callback: Message[Any]) -> bool:
    return FAILURES_OF in callback.options


def _failure_of(message: MessageProxy) -> dict[str, Any]:
    error = message._exception or Exception("failed by a middleware")
    return {
        "actor_name": message.actor_name,
        "message_id": str(message.message_id),
        "type": type(error).__name__,
        "message": text_of(error),
    }


def _tell_if_all_are_there(broker: Broker, count: Count, callbacks: list[Message[Any]]) -> None:
    if count.reached:
        for message in callbacks:
            broker.emit_after("enqueue", message, None)
