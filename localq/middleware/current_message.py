"""The message that an actor is running for."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

from .middleware import Middleware

if TYPE_CHECKING:
    from ..broker import Broker, MessageProxy


class CurrentMessage(Middleware):
    """Lets an actor ask for the message that it runs for."""

    # A context variable rather than a thread's: the event loop runs a coroutine in a copy of the
    # context of the thread that waits for it. Tests that run actors themselves set it, by this name.
    _MESSAGE: ClassVar[ContextVar[Any]] = ContextVar("localq_current_message", default=None)

    @classmethod
    def get_current_message(cls) -> MessageProxy | None:
        """The message that runs here; None outside of actors."""
        message: MessageProxy | None = cls._MESSAGE.get()
        return message

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self._MESSAGE.set(message)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        self._MESSAGE.set(None)

    after_skip_message = after_process_message
