"""Messages whose actor failed are run again, later and later."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..clock import compute_backoff, current_millis
from ..errors import Retry, WorkerCrashed
from ..logging import get_logger
from ..threading import Abort
from .middleware import Middleware, option

if TYPE_CHECKING:
    from ..actor import Actor
    from ..broker import Broker, MessageProxy

DEFAULT_MAX_RETRIES = 20
DEFAULT_MIN_BACKOFF = 15_000
DEFAULT_MAX_BACKOFF = 7 * 24 * 3600 * 1000

RetryWhen = Callable[[int, BaseException], bool]


class Retries(Middleware):
    """Sends a message again after its actor raised, with a wait that doubles each time.

    Each parameter is also an option of actors and of messages; the message's wins, and 0 counts.
    Further options: ``throws`` (a class of exceptions, or a tuple of them, that are not retried)
    and ``on_retry_exhausted`` (an actor that is told, once, with the message and a dict of
    ``retries`` and ``max_retries``). An actor may raise `Retry` to choose the delay.

    Parameters:
      max_retries: how many times; None for no end.
      min_backoff: milliseconds of the first wait, 15 s by default.
      max_backoff: milliseconds of the longest wait, 7 days by default.
      retry_when: ``retry_when(retries_so_far, exception)`` decides in the place of `max_retries`.
    """

    def __init__(
        self,
        *,
        max_retries: int | None = DEFAULT_MAX_RETRIES,
        min_backoff: int | None = None,
        max_backoff: int | None = None,
        retry_when: RetryWhen | None = None,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.max_retries = max_retries
        self.min_backoff = DEFAULT_MIN_BACKOFF if min_backoff is None else min_backoff
        self.max_backoff = DEFAULT_MAX_BACKOFF if max_backoff is None else max_backoff
        self.retry_when = retry_when

    @property
    def actor_options(self) -> set[str]:
        return {"max_retries", "min_backoff", "max_backoff", "retry_when", "throws", "on_retry_exhausted"}

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if exception is None or message.failed:  # failed by a hook: that is final
            return
        actor = broker.actors.get(message.actor_name)
        retries = message.options.get("retries", 0)
        message.options["retries"] = retries + 1
        message.options["traceback"] = "".join(traceback.format_exception(exception, limit=30))
        if self._is_expected(exception, actor):
            self.logger.info("Aborting message %r.", message.message_id)
            message.fail()
        elif self._may_retry(message, actor, retries, exception):
            self._retry(broker, message, actor, retries, exception)
        else:
            self.logger.warning("Retries exceeded for message %r.", message.message_id)
            message.fail()
            self._tell_exhausted(broker, message, actor, retries)

    def _is_expected(self, exception: BaseException, actor: Actor[Any, Any] | None) -> bool:
        throws = actor.options.get("throws") if actor is not None else None
        # A message that crashed its process so often was tried that often already; an aborted one is unwanted.
        return isinstance(exception, (WorkerCrashed, Abort)) or bool(throws and isinstance(exception, throws))

    def _may_retry(
        self,
        message: MessageProxy,
        actor: Actor[Any, Any] | None,
        retries: int,
        exception: BaseException,
    ) -> bool:
        retry_when = actor.options.get("retry_when") if actor is not None else None
        retry_when = retry_when or self.retry_when
        if retry_when is not None:
            return bool(retry_when(retries, exception))
        max_retries = self._max_retries(message, actor)
        return max_retries is None or retries < max_retries

    def _max_retries(self, message: MessageProxy, actor: Actor[Any, Any] | None) -> int | None:
        # Not `option`: None is a value here, and means without end.
        if "max_retries" in message.options:
            return message.options["max_retries"]  # type: ignore[no-any-return]
        if actor is not None and "max_retries" in actor.options:
            return actor.options["max_retries"]  # type: ignore[no-any-return]
        return self.max_retries

    def _retry(
        self,
        broker: Broker,
        message: MessageProxy,
        actor: Actor[Any, Any] | None,
        retries: int,
        exception: BaseException,
    ) -> None:
        if isinstance(exception, Retry) and exception.delay is not None:
            delay = exception.delay
        else:
            shortest = option("min_backoff", message, actor, self.min_backoff)
            longest = option("max_backoff", message, actor, self.max_backoff)
            _, delay = compute_backoff(retries, factor=shortest, max_backoff=longest)
        self.logger.info("Retrying message %r in %d milliseconds.", message.message_id, delay)
        message.options["requeue_timestamp"] = current_millis()
        broker.enqueue(message, delay=delay)  # type: ignore[arg-type]  # a proxy passes for its message

    def _tell_exhausted(
        self, broker: Broker, message: MessageProxy, actor: Actor[Any, Any] | None, retries: int
    ) -> None:
        name = option("on_retry_exhausted", message, actor, None)
        if name is not None:
            counts = {"retries": retries, "max_retries": self._max_retries(message, actor)}
            broker.get_actor(name).send(message.asdict(), counts)
