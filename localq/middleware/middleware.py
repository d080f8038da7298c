"""The base of all middleware: every hook there is, each doing nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import MiddlewareError, SkipMessage

if TYPE_CHECKING:
    from ..actor import Actor
    from ..broker import Broker, MessageProxy
    from ..message import Message
    from ..worker import Worker

__all__ = ["Middleware", "MiddlewareError", "SkipMessage"]


class Middleware:
    """Override what you need; a hook that nobody overrides costs nothing.

    Hooks named ``before_...`` run in the order of the broker's middleware, ``after_...`` in
    reverse. What a hook raises is logged as critical and goes no further, except for
    `MiddlewareError` out of ``before_...``: `SkipMessage` in `before_process_message` keeps
    the actor from running.

    While `after_process_message`, `after_skip_message`, `before_ack` and `before_nack` run, what
    is sent on the same thread to the same broker is written together with the end of the message:
    all of it or nothing. `after_ack` and `after_nack` run when that has happened.
    """

    @property
    def actor_options(self) -> set[str]:
        """Names of options that actors may then be declared with."""
        return set()

    @property
    def forks(self) -> list[Callable[[], int]]:
        """Functions that a pool runs beside its workers, in a process of its own each.

        They are looked up by their module and name, so each stands at the top level of a module (or
        in a class of it). They start when all workers are ready, and again when they fail; the pool
        ends them with SIGTERM, which raises SystemExit in them.
        """
        return []

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        """A message is done."""

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        """A message is done, and that is written."""

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        """A message has failed for good."""

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        """A message has failed for good, and that is written."""

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        """An actor is about to be declared."""

    def after_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        """An actor was declared."""

    def before_declare_queue(self, broker: Broker, queue_name: str) -> None:
        """A queue is about to be declared, for the first time."""

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        """A queue was declared, for the first time."""

    def after_declare_delay_queue(self, broker: Broker, queue_name: str) -> None:
        """The form of a queue's name for delayed messages (``X.DQ``) became known."""

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """A message is about to be sent, with a delay in milliseconds or None."""

    def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        """A message was sent. A worker that sleeps is woken for it when all of these hooks have run; one that
        is at work may have taken it already."""

    def before_delay_message(self, broker: Broker, message: MessageProxy) -> None:
        """A message was taken before its time. It never is here: it waits in the store."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """An actor is about to run."""

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """An actor has returned `result` or raised `exception`.

        Also where `before_process_message` was not called for the message: an earlier hook of another
        middleware has raised, or the message has ended its process for good (`WorkerCrashed`).
        """

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """A message was skipped: instead of `after_process_message`."""

    def after_process_boot(self, broker: Broker) -> None:
        """A worker process has started."""

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """A worker is about to start its threads."""

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """A worker has started its threads."""

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """A worker was told to stop."""

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """A worker has stopped."""

    def after_consumer_thread_boot(self, broker: Broker, thread: Any) -> None:
        """A thread that takes messages has started: here each worker thread is one."""

    def before_consumer_thread_shutdown(self, broker: Broker, thread: Any) -> None:
        """A thread that takes messages is about to end."""

    def after_worker_thread_boot(self, broker: Broker, thread: Any) -> None:
        """A thread that runs messages has started; called on it."""

    def before_worker_thread_shutdown(self, broker: Broker, thread: Any) -> None:
        """A thread that runs messages is about to end; called on it."""


def option(name: str, message: Any, actor: Actor[Any, Any] | None, default: Any) -> Any:
    """An option as the message has it, else the actor, else `default`; None counts as not given."""
    value = message.options.get(name)
    if value is None and actor is not None:
        value = actor.options.get(name)
    return default if value is None else value
