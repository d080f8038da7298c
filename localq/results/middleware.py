"""Keeps what actors return."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import EncodeError
from ..logging import get_logger
from ..message import later_steps
from ..middleware.middleware import Middleware, option
from .backend import ResultBackend, StoreBackend

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy

DEFAULT_RESULT_TTL = 10 * 60 * 1000


class Results(Middleware):
    """Keeps the results of actors, and that they failed for good.

    A failure is also told to those who wait for the later steps of its pipeline.

    Parameters:
      backend: where; by default the broker's own store.
      store_results: whether to do so where neither the actor nor the message has the option
        of that name.
      result_ttl: milliseconds that a result is kept, 10 minutes by default; also an option.
    """

    def __init__(
        self,
        *,
        backend: ResultBackend | None = None,
        store_results: bool = False,
        result_ttl: int | None = None,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.backend = backend
        self.store_results = store_results
        self.result_ttl = DEFAULT_RESULT_TTL if result_ttl is None else result_ttl

    @property
    def actor_options(self) -> set[str]:
        return {"store_results", "result_ttl"}

    def backend_for(self, broker: Broker) -> ResultBackend:
        """Where the results of that broker are kept."""
        if self.backend is None:
            self.backend = StoreBackend(lambda: broker.store)
        return self.backend

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if exception is not None:
            return
        store, ttl = self._options(broker, message)
        if store:
            self._store(broker, message, result, ttl)
        elif result is not None and message.options.get("pipe_target") is None:
            self.logger.warning(
                "Actor %r returned a value that is not None, and its option store_results is not set, so "
                "the value has been discarded.",
                message.actor_name,
            )

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        if message.failed:
            return  # see before_nack
        store, ttl = self._options(broker, message)
        if store:
            self._store(broker, message, None, ttl)
        self._store_failure(broker, later_steps(message), message._exception)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._store_failure(broker, (message, *later_steps(message)), message._exception)
        message.failure_is_told = True

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        """For those that run messages without a worker, and say no more than that."""
        if not message.failure_is_told and message.actor_name in broker.actors:
            self.before_nack(broker, message)

    def _store_failure(self, broker: Broker, messages: Iterable[Any], reason: BaseException | None) -> None:
        """Tell those who wait for any of the messages that it will have no result, and why.

        When a dead letter is brought back to life, its store forgets what was told for it.
        """
        reason = reason or Exception("failed by a middleware")
        for message in messages:
            store, ttl = self._options(broker, message)
            if store:
                self.backend_for(broker).store_exception(message, reason, ttl)

    def _store(self, broker: Broker, message: MessageProxy, result: Any, ttl: int) -> None:
        backend = self.backend_for(broker)
        try:
            backend.store_result(message, result, ttl)  # type: ignore[arg-type]
        except EncodeError as error:
            # Whoever waits for it is told why, instead of waiting in vain.
            self.logger.error("The result of message %s cannot be kept: %s", message.message_id, error)
            backend.store_exception(message, error, ttl)  # type: ignore[arg-type]

    def _options(self, broker: Broker, message: Any) -> tuple[bool, int]:
        actor = broker.actors.get(message.actor_name)
        store = option("store_results", message, actor, self.store_results)
        return store, int(option("result_ttl", message, actor, self.result_ttl))
