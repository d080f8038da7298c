"""The next step of a pipeline follows the one that succeeded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..message import Message
from .middleware import Middleware

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy


class Pipelines(Middleware):
    """Sends the message in the option ``pipe_target``, with the result as its last argument.

    The option ``pipe_ignore`` of that next message (or of the actor) keeps the result from it.
    """

    @property
    def actor_options(self) -> set[str]:
        return {"pipe_ignore", "pipe_target"}

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        target = message.options.get("pipe_target")
        if target is None or exception is not None or message.failed:
            return
        following: Message[Any] = Message(**target)
        actor = broker.actors.get(message.actor_name)
        ignores = actor is not None and actor.options.get("pipe_ignore")
        if not (ignores or following.options.get("pipe_ignore")):
            following = following.copy(args=(*following.args, result))
        broker.enqueue(following, delay=following.options.get("delay"))
