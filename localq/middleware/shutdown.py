"""Actors that ask for it are told when their worker stops."""

from __future__ import annotations

import threading
import warnings
from logging import Logger
from typing import TYPE_CHECKING, Any

from ..logging import get_logger
from ..threading import Interrupt, current_platform, raise_thread_exception, supported_platforms
from .middleware import Middleware, option

if TYPE_CHECKING:
    from ..actor import Actor
    from ..broker import Broker, MessageProxy
    from ..worker import Worker


class Shutdown(Interrupt):
    """Raised in an actor that asked to be told when its worker stops."""

    def __init__(self, message: str = "the worker is stopping") -> None:
        super().__init__(message)


class ShutdownNotifications(Middleware):
    """Raises `Shutdown` in actors that run while their worker is told to stop.

    Parameters:
      notify_shutdown: whether to do so where neither the actor nor the message has the option
        of that name.
    """

    def __init__(self, notify_shutdown: bool = False) -> None:
        self.logger = get_logger(__name__, type(self))
        self.notify_shutdown = notify_shutdown
        self.manager = ShutdownManager(self.logger)

    @property
    def actor_options(self) -> set[str]:
        return {"notify_shutdown"}

    def should_notify(self, actor: Actor[Any, Any], message: Any) -> bool:
        """Whether a message of that actor wants to be told."""
        return bool(option("notify_shutdown", message, actor, self.notify_shutdown))

    def after_process_boot(self, broker: Broker) -> None:
        if current_platform not in supported_platforms:
            warnings.warn(
                f"ShutdownNotifications cannot kill threads on your current platform ({current_platform!r}).",
                category=RuntimeWarning,
                stacklevel=2,
            )

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self.manager.shutdown()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        actor = broker.actors.get(message.actor_name)
        if actor is not None and self.should_notify(actor, message):
            self.manager.add()

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        self.manager.remove()

    after_skip_message = after_process_message


class ShutdownManager:
    """The threads whose message asked to be told."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.notifications: list[int] = []
        self._lock = threading.Lock()

    def add(self) -> None:
        """This thread runs a message that wants to be told."""
        with self._lock:
            self.notifications.append(threading.get_ident())

    def remove(self) -> None:
        """This thread runs none any more."""
        if self.notifications:
            with self._lock:
                if threading.get_ident() in self.notifications:
                    self.notifications.remove(threading.get_ident())

    def shutdown(self) -> None:
        """Tell them all."""
        self.logger.debug("Sending shutdown notification to worker threads...")
        with self._lock:
            for thread in self.notifications:
                self.logger.info("Worker shutdown notification. Raising exception in worker thread %r.", thread)
                raise_thread_exception(thread, Shutdown)
            self.notifications.clear()
