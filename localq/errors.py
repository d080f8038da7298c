"""Every exception that localq raises, in one tree.

::

    LocalqError (DramatiqError is its old name)
    ├── EncodeError            an argument cannot be put into a message   (also a TypeError)
    ├── DecodeError            bytes that are no message
    ├── BrokerError
    │   ├── ActorNotFound
    │   ├── QueueNotFound
    │   ├── QueueJoinTimeout
    │   ├── BrokerConnectionError
    │   │   ├── ConnectionClosed
    │   │   └── ConnectionFailed
    │   └── StoreError         the place where messages are kept cannot serve
    │       ├── StoreBusy      another process held the write gate, or the file, for too long
    │       ├── StoreCorrupt   the file is no queue of ours, damaged, or of a newer schema
    │       ├── StoreReplaced  the file was deleted or replaced while it was in use
    │       └── UnsafeLocation the folder cannot hold a queue safely
    ├── PoolError              a pool of worker processes cannot start, or gave up
    ├── WorkerCrashed          the process that ran the message died in it
    ├── RateLimitExceeded
    ├── Retry                  raised by an actor: run me again, and this is not an error
    ├── ResultError            about asking for a result
    │   ├── ResultMissing      not there, and not waited for
    │   ├── ResultTimeout      waited for, and still not there
    │   └── ResultFailure      the message failed for good
    └── MiddlewareError        the only errors that a middleware's hook may let out
        └── SkipMessage        raised before an actor runs: leave it out

An `Interrupt` (``localq.threading``) stands apart: it is a BaseException.
"""

from __future__ import annotations

import warnings
from typing import Any


def text_of(error: BaseException) -> str:
    """Its text, or a word about why it has none: an exception's own ``__str__`` may fail."""
    try:
        return str(error)
    except Exception as failure:
        return f"<its text cannot be made: {type(failure).__name__}>"


class LocalqError(Exception):
    """The base of all errors of this library; ``message`` is its text."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return str(self.message)


DramatiqError = LocalqError


class EncodeError(LocalqError, TypeError):
    """An argument, an option or a result cannot be encoded.

    ``place`` says where it stands, for example ``args[0]["when"]``.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


class DecodeError(LocalqError):
    """Bytes that the encoder cannot turn into a message.

    ``data`` holds the bytes and ``error`` what the encoder raised.
    """

    def __init__(self, message: str, data: Any = None, error: BaseException | None = None) -> None:
        super().__init__(message)
        self.data = data
        self.error = error


class BrokerError(LocalqError):
    """The base of what a broker raises."""


class ActorNotFound(BrokerError):
    """No actor of that name is declared; ``str()`` is the name."""


class QueueNotFound(BrokerError):
    """No queue of that name is declared."""


class QueueJoinTimeout(BrokerError):
    """A queue was still at work when the time given to ``join`` was over."""


class BrokerConnectionError(BrokerError):
    """The base of errors about reaching a broker."""


class ConnectionClosed(BrokerConnectionError):
    """An established connection was lost."""


class ConnectionFailed(BrokerConnectionError):
    """A connection could not be made."""


class StoreError(BrokerError):
    """The store cannot do what it was asked; nothing accepted before is touched."""


class StoreBusy(StoreError):
    """Somebody else held the write gate, or the file itself, for longer than the bound.

    ``holder`` is the process id that the gate names, where it is known.
    """

    def __init__(self, message: str, holder: int | None = None) -> None:
        super().__init__(message)
        self.holder = holder


class StoreCorrupt(StoreError):
    """The file is not a queue of localq, is damaged, or was made by a newer localq."""


class StoreReplaced(StoreError):
    """The file, or the folder with its locks, was deleted or replaced while it was in use.

    Nothing is written to what is not there any more. It stays so until the broker was closed: its next use then
    opens what is there by that time.
    """


class UnsafeLocation(StoreError):
    """The folder of the file lets others interfere, or has no locks that hold."""


class PoolError(LocalqError):
    """A pool of worker processes could not start, or gave up."""


class WorkerCrashed(LocalqError):
    """The process that ran a message died in it, for the last time that is allowed."""


class RateLimitExceeded(LocalqError):
    """A rate limiter had no room."""


class Retry(LocalqError):
    """Raised by an actor to run its message again; not logged as an error.

    Parameters:
      message: why.
      delay: milliseconds until then; by default the usual backoff.
    """

    def __init__(self, message: str = "", delay: int | None = None) -> None:
        super().__init__(message)
        self.delay = delay


class ResultError(LocalqError):
    """The base of errors about results."""


class ResultMissing(ResultError):
    """There is no result: not yet, or not any more."""


class ResultTimeout(ResultError):
    """A result was waited for, and did not come in time."""


class ResultFailure(ResultError):
    """The message failed for good.

    ``orig_exc_type`` is the name of the exception's type and ``orig_exc_msg`` its text.
    """

    def __init__(self, message: str = "", orig_exc_type: str = "", orig_exc_msg: str = "") -> None:
        super().__init__(message)
        self.orig_exc_type = orig_exc_type
        self.orig_exc_msg = orig_exc_msg


class MiddlewareError(LocalqError):
    """The base of errors that leave a middleware's hook; all others are logged there."""


class SkipMessage(MiddlewareError):
    """Raised by ``before_process_message`` so that the actor does not run."""


def old_connection_error(stacklevel: int) -> type[BrokerConnectionError]:
    """What the name ConnectionError stands for, with a warning that it is an old one."""
    warnings.warn(
        "ConnectionError is the old name of BrokerConnectionError; use that",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
    return BrokerConnectionError


def __getattr__(name: str) -> Any:
    if name == "ConnectionError":
        return old_connection_error(stacklevel=3)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
