"""Messages that waited for too long are not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..clock import current_millis
from ..logging import get_logger
from .middleware import Middleware, SkipMessage, option

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy


class AgeLimit(Middleware):
    """Fails messages that are older than a limit when their turn comes.

    Parameters:
      max_age: milliseconds since the message was made; None for no limit. Actors and messages
        may have another, as option ``max_age``.
    """

    def __init__(self, max_age: int | None = None) -> None:
        self.logger = get_logger(__name__, type(self))
        self.max_age = max_age

    @property
    def actor_options(self) -> set[str]:
        return {"max_age"}

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        max_age = option("max_age", message, broker.actors.get(message.actor_name), self.max_age)
        if max_age and current_millis() - message.message_timestamp >= max_age:
            self.logger.warning("Message %r has exceeded its age limit.", message.message_id)
            message.fail()
            raise SkipMessage("Message age limit exceeded")
