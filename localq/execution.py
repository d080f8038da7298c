"""One message's life in a worker, from its bytes to what became of it.

`Execution.run` is the whole story. What the hooks after a message send and
store is collected in its outcome, and whoever called writes that in one
transaction.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from logging import Logger
from typing import Any

from . import current
from .broker import Broker, MessageProxy
from .consumer import message_in, unreadable_message
from .errors import (
    ActorNotFound,
    DecodeError,
    RateLimitExceeded,
    Retry,
    SkipMessage,
    WorkerCrashed,
    text_of,
)
from .logging import get_logger
from .middleware import TimeLimitExceeded
from .store import Outcome, Record
from .store.base import CANCELLED, DEAD, RETRY, UNKNOWN_ACTOR
from .threading import Abort, Interruptible

VERDICTS: dict[str, type[BaseException]] = {
    "WorkerCrashed": WorkerCrashed,
    "TimeLimitExceeded": TimeLimitExceeded,
    "Abort": Abort,
}
"""The exceptions that a verdict on a message stands for: ``WorkerCrashed: its process was ...``."""

OPTIONS_OF_A_LIFE = ("retries", "traceback", "requeue_timestamp")
"""What was counted before a message died; one that is brought back to life starts anew."""


class Execution:
    """One claimed message on its way.

    Parameters:
      broker: whose actors and hooks.
      record: the message, as the store gave it.
      door: where interrupts come in while the actor runs.
    """

    __slots__ = (
        "_broker", "_door", "_exception", "_later", "_record", "_refused", "_result", "_skipped",
        "message", "outcome",
    )  # fmt: skip

    def __init__(self, broker: Broker, record: Record, door: Interruptible) -> None:
        self._broker = broker
        self._record = record
        self._door = door
        self._result: Any = None
        self._exception: BaseException | None = None
        self._skipped = False
        self._refused = False
        """Whether it cannot be run at all: hooks around running it would make no sense."""
        self._later: list[Any] = []
        self.message: MessageProxy
        self.outcome = Outcome(record)
        self._decode()

    def run(self) -> Outcome:
        """The life of a message that was read, first to last."""
        self._look_for_a_verdict()
        self._run_hooks_before()
        self._call_actor()
        self._collect()
        try:
            self._run_hooks_after()
            self._fail_if_nobody_retries()
            self._run_hooks_before_the_end()
        finally:
            self._stop_collecting()
        self._settle()
        return self.outcome

    def tell(self) -> None:
        """Run the hooks that wait until the outcome is written."""
        for call in self._later:
            call()
        self._broker.emit_after("nack" if self.message.failed else "ack", self.message)
        # It refers to frames, which refer to everything: let go of it.
        self.message.clear_exception()
        self._exception = None

    def _decode(self) -> None:
        record = self._record
        try:
            message = message_in(record)
        except DecodeError as error:
            _log().error("Cannot decode the message %s: %s", record.message_id, error)
            # What its sender wrote beside the bytes is enough to tell those who wait for it.
            self.message = MessageProxy(unreadable_message(record))
            self._refuse(error)
            return
        if record.attempts == 1 and "retries" in message.options:
            for name in OPTIONS_OF_A_LIFE:
                message.options.pop(name, None)
        if message.queue_name != record.queue:  # ``X.DQ``, as the stub broker names it
            message = message._replace(queue_name=record.queue)
        self.message = MessageProxy(message)

    def _look_for_a_verdict(self) -> None:
        if self._refused:
            return
        if self._record.verdict is not None:
            kind, _, text = self._record.verdict.partition(": ")
            self._fail_with(VERDICTS.get(kind, WorkerCrashed)(text))
            _log().error("The message %s ended its worker: %s.", self.message, text)
        elif self.message.actor_name not in self._broker.actors:
            name = self.message.actor_name
            _log().error("No actor named %r is declared here; the message is dead until a worker has one.", name)
            self._refuse(ActorNotFound(name))

    def _run_hooks_before(self) -> None:
        if self._exception is not None:
            return
        try:
            self._broker.emit_before("process_message", self.message)
        except SkipMessage as error:
            self._skipped = True
            if isinstance(error.__cause__, Abort):
                _log().info("Message %s does not run: %s.", self.message, error)
                self._fail_with(error.__cause__)
                self.message.cancel()
                return
            _log().warning("Message %s was skipped: %s", self.message, error)
            self._fail_with(error)
        except BaseException as error:
            self._fail_with(error)
            self._log_failure(error)

    def _call_actor(self) -> None:
        message, door = self.message, self._door
        if self._exception is not None or message.failed:
            return
        actor = self._broker.actors[message.actor_name]
        try:
            try:
                door.open()
                self._result = actor(*message.args, **message.kwargs)
            finally:
                door.close()
        except BaseException as error:
            door.close()  # an interrupt may have come on the way to the line above
            _end_if_forked(door, error)
            self._fail_with(error)
            self._log_failure(error)
        else:
            _end_if_forked(door, None)

    def _refuse(self, error: BaseException) -> None:
        self._fail_with(error)
        self._refused = True
        self.message.fail()

    def _fail_with(self, error: BaseException) -> None:
        self._exception = error
        self.message.stuff_exception(error)

    def _log_failure(self, error: BaseException) -> None:
        message = self.message
        actor = self._broker.actors.get(message.actor_name)
        throws = (actor.options.get("throws") if actor is not None else None) or ()
        if isinstance(error, RateLimitExceeded):
            _log().debug("Rate limit exceeded in message %s: %s.", message, error)
        elif isinstance(error, throws):
            _log().info("Failed to process message %s with expected exception %s.", message, type(error).__name__)
        elif isinstance(error, Retry):
            _log().info("Message %s asks to be run again: %s.", message, error)
        elif isinstance(error, Abort):
            _log().info("Message %s was aborted.", message)
        else:
            _log().error("Failed to process message %s with unhandled exception.", message, exc_info=error)

    def _collect(self) -> None:
        """From here on, what this thread sends to this store is part of the outcome."""
        current.thread.outcome, current.thread.store = self.outcome, self._broker.store
        current.thread.later = self._later

    def _stop_collecting(self) -> None:
        current.thread.outcome = current.thread.store = current.thread.later = None

    def _run_hooks_after(self) -> None:
        message, broker = self.message, self._broker
        if self._refused:
            return
        if self._exception is not None:
            self._run_hooks_after_exception(self._exception)
            return
        broker.emit_after("process_message", message, result=self._result, exception=None)
        if self._result is not None and not broker.has_middleware("Results"):
            if message.options.get("pipe_target") is None:
                _log().warning(
                    "Actor %r returned a value that is not None, and nothing keeps it. "
                    "Consider adding the Results middleware to your broker.",
                    message.actor_name,
                )

    def _run_hooks_after_exception(self, error: BaseException) -> None:
        where = error.__traceback__
        try:
            raise error
        except BaseException:
            # In a handler, since hooks ask `sys.exc_info` too. The line above is no part of what happened.
            error.__traceback__ = where
            if self._skipped:
                self._broker.emit_after("skip_message", self.message)
            else:
                self._broker.emit_after("process_message", self.message, result=None, exception=error)

    def _fail_if_nobody_retries(self) -> None:
        if self._exception is not None and not self._skipped and not self._broker.forgets_failures:
            if not any(record.message_id == self._record.message_id for record in self.outcome.puts):
                self.message.fail()

    def _run_hooks_before_the_end(self) -> None:
        self._broker.announce("nack" if self.message.failed else "ack", self.message)

    def _settle(self) -> None:
        outcome = self.outcome
        if self.message.failed:
            error = self._exception
            # Who does not want a message that has not begun is no case for those who look after the dead.
            outcome.kind = CANCELLED if self.message.cancelled else DEAD
            reason = f"{type(error).__name__}: {text_of(error)}" if error is not None else "failed by a middleware"
            if reason.startswith(UNKNOWN_ACTOR) and not self._refused:
                # The actor itself raised it. Alone it would mean: run it again where its actor is known.
                reason = f"its actor raised {reason}"
            outcome.reason = reason
            outcome.traceback = self._traceback()
            if not self.message.cancelled:
                self._broker.bury(self.message)
            return
        for place, record in enumerate(outcome.puts):
            if record.message_id == self._record.message_id:
                outcome.kind, outcome.retry = RETRY, outcome.puts.pop(place)
                return

    def _traceback(self) -> str | None:
        if self._record.verdict is not None:
            return self._record.traceback
        error = self._exception
        if error is None or error.__traceback__ is None:
            return None
        text = "".join(traceback.format_exception(error, limit=30))
        return text.encode("utf-8", "backslashreplace").decode()  # an exception's text may be anything


def _log() -> Logger:
    # Not made when this module is imported: its name depends on what is decided later.
    return get_logger("localq.worker", "WorkerThread")


def _end_if_forked(door: Interruptible, error: BaseException | None) -> None:
    """A child that the actor forked, and that came back from it, must not go on as a second worker."""
    if os.getpid() == door.process:
        return
    code = error.code if isinstance(error, SystemExit) else error and 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # whatever the application has put there
            stream.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)
