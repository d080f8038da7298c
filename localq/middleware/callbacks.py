"""Actors that are told when other actors succeed or fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import text_of
from .middleware import Middleware, option

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy


class Callbacks(Middleware):
    """Sends a message to the actor named by ``on_success`` or ``on_failure``.

    The first gets the message (a dict) and its result; the second, at every failed attempt, the
    message and a dict with the ``type`` and the ``message`` of the exception. Both are options of
    actors and of messages.
    """

    @property
    def actor_options(self) -> set[str]:
        return {"on_success", "on_failure"}

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        actor = broker.actors.get(message.actor_name)
        callback = option("on_success" if exception is None else "on_failure", message, actor, None)
        if callback is None:
            return
        outcome = result
        if exception is not None:
            outcome = {"type": type(exception).__name__, "message": text_of(exception)}
        broker.get_actor(callback).send(message.asdict(), outcome)
