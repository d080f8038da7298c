"""A message: which actor is to run, with what, and how."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from . import current
from .clock import current_millis
from .composition import pipeline
from .dramatiq_alias import is_installed
from .encoder import Encoder, JSONEncoder, MsgpackEncoder, PickleEncoder, name_of
from .errors import DecodeError

if TYPE_CHECKING:
    from .results.backend import ResultBackend

R = TypeVar("R")

WIRE_VERSION = 1
"""The layout of what `Message.encode` writes. A reader refuses newer ones."""


def get_encoder() -> Encoder:
    """The global encoder; when none was set, msgpack, or JSON where localq stands in for dramatiq."""
    if current.encoder is None:
        current.encoder = JSONEncoder() if is_installed() else MsgpackEncoder()
    return current.encoder


def set_encoder(encoder: Encoder) -> None:
    """Use this encoder for messages and results from now on, in this process.

    Messages that another encoder wrote before stay readable, but pickled ones only while
    `PickleEncoder` is the global encoder: unpickling runs code.
    """
    current.encoder = encoder


def generate_unique_id() -> str:
    """A new message id: a UUID of version 7 (RFC 9562), which begins with the time.

    So messages that are sent together lie together in an index. The ids of version 4 that dramatiq
    has are spread over all of it, and every commit would write a page for each.
    """
    time_digits = f"{time.time_ns() // 1_000_000:012x}"
    random = os.urandom(10).hex()
    variant = _VARIANTS[random[3]]
    return f"{time_digits[:8]}-{time_digits[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


@dataclass(frozen=True, order=True, init=False)
class Message(Generic[R]):
    """What is sent: data only, and never changed; `copy` makes another.

    Parameters:
      queue_name: the queue.
      actor_name: the name of the actor that will run it.
      args: positional arguments.
      kwargs: keyword arguments.
      options: what middleware reads and writes.
      message_id: a new one by default.
      message_timestamp: when it was made, milliseconds since the epoch; now by default.
    """

    queue_name: str
    actor_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    message_id: str
    message_timestamp: int

    _fields: ClassVar[tuple[str, ...]] = (
        "queue_name",
        "actor_name",
        "args",
        "kwargs",
        "options",
        "message_id",
        "message_timestamp",
    )
    _field_defaults: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        queue_name: str,
        actor_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        message_id: str | None = None,
        message_timestamp: int | None = None,
    ) -> None:
        # As a frozen dataclass does it itself it takes three times as long, and each send and each run makes one.
        own = self.__dict__
        own["queue_name"] = queue_name
        own["actor_name"] = actor_name
        own["args"] = args if type(args) is tuple else tuple(args)
        own["kwargs"] = kwargs
        own["options"] = options
        own["message_id"] = generate_unique_id() if message_id is None else message_id
        own["message_timestamp"] = current_millis() if message_timestamp is None else message_timestamp

    def __or__(self, other: Message[Any] | pipeline) -> pipeline:
        """A pipeline of this message and what follows."""
        return pipeline([self, other])

    def __str__(self) -> str:
        params = [_shown(arg) for arg in self.args]
        params += [f"{name}={_shown(value)}" for name, value in self.kwargs.items()]
        return f"{self.actor_name}({', '.join(params)})"

    def asdict(self) -> dict[str, Any]:
        """The fields as a dict; `options` is the very same object, not a copy."""
        own = self.__dict__
        return {name: own[name] for name in self._fields}

    _asdict = asdict

    def copy(self, **fields: Any) -> Message[R]:
        """This message with other fields; `options` are merged over the old ones."""
        if "options" in fields:
            fields["options"] = {**self.options, **fields["options"]}
        return dataclasses.replace(self, **fields)

    def _replace(self, **fields: Any) -> Message[R]:
        return dataclasses.replace(self, **fields)

    def check(self) -> None:
        """Refuse what no reader could make a message of.

        Raises:
          TypeError: a field is of another type than it has to be.
        """
        for name, kind in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                what = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
                raise TypeError(f"the {name} of a message is a {what}, not {getattr(self, name)!r}"[:300])

    @property
    def message_datetime(self) -> datetime:
        """When it was made, in UTC."""
        seconds, millis = divmod(self.message_timestamp, 1000)
        return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=int(millis * 1000))

    def encode(self) -> bytes:
        """This message as bytes, by the global encoder.

        Raises:
          EncodeError: something in it cannot be encoded; the text says where it stands.
        """
        fields = self.asdict()
        fields["args"] = list(self.args)  # which all encoders write without ado; a reader makes a tuple of it
        return get_encoder().encode(fields)

    @classmethod
    def decode(cls, data: bytes) -> Message[Any]:
        """The message that the global encoder made these bytes of.

        Raises:
          DecodeError: whatever is wrong with them.
        """
        return cls._decode_by(get_encoder(), data)

    @classmethod
    def decode_stored(cls, data: bytes, encoder: str, wire: int) -> Message[Any]:
        """As `decode`, for bytes that the named encoder made of that version of the layout."""
        if wire > WIRE_VERSION:
            raise DecodeError(
                f"the message was sent by a newer localq (layout {wire}; this one reads up to {WIRE_VERSION}): "
                "upgrade this worker, then retry it",
                data,
            )
        return cls._decode_by(_encoder_named(encoder, data), data)

    @classmethod
    def _decode_by(cls, encoder: Encoder, data: bytes) -> Message[Any]:
        try:
            fields = encoder.decode(data)
            message = cls(**fields)
        except DecodeError:
            raise
        except Exception as error:  # an encoder may be the user's own
            raise DecodeError(f"these bytes are no message: {error}", data, error) from error
        for name, kind in _KINDS.items():
            if not isinstance(fields[name], kind):
                raise DecodeError(f"these bytes are no message: {name} is {fields[name]!r}"[:300], data)
        return message

    def get_result(
        self,
        *,
        backend: ResultBackend | None = None,
        block: bool = False,
        timeout: int | None = None,
    ) -> R:
        """The value that the actor returned.

        Parameters:
          backend: where to look; by default where the global broker keeps results.
          block: whether to wait for it.
          timeout: milliseconds to wait, 10,000 by default.

        Raises:
          ResultMissing: not there (yet, or its time to live is over), and not waited for.
          ResultTimeout: waited for, and still not there.
          ResultFailure: the actor failed for good; it has the type and text of the exception.
          RuntimeError: the broker keeps no results.
        """
        if backend is None:
            backend = current.get_broker().get_results_backend()
        result: R = backend.get_result(self, block=block, timeout=timeout)
        return result

    async def aget_result(
        self,
        *,
        backend: ResultBackend | None = None,
        block: bool = True,
        timeout: int | None = None,
    ) -> R:
        """As `get_result`, for coroutines: it waits, unless `block` is False, and the event loop goes on."""
        if backend is None:
            backend = current.get_broker().get_results_backend()
        result: R = await backend.aget_result(self, block=block, timeout=timeout)
        return result


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # the code of its class, or an int of more digits than Python shows
        return f"<{type(value).__name__}>"


def later_steps(message: Any) -> Iterator[Message[Any]]:
    """The messages that follow it in its pipeline if it succeeds, the next one first."""
    target = message.options.get("pipe_target")
    while target is not None:
        following: Message[Any] = Message(**target)
        yield following
        target = following.options.get("pipe_target")


_KINDS: dict[str, type | tuple[type, ...]] = {
    "queue_name": str,
    "actor_name": str,
    "args": (list, tuple),
    "kwargs": dict,
    "options": dict,
}


def _encoder_named(name: str, data: bytes) -> Encoder:
    encoder = get_encoder()
    if name_of(encoder) == name:
        return encoder
    for built_in in (MsgpackEncoder, JSONEncoder):
        if built_in.name == name:
            return built_in()
    if name == PickleEncoder.name:
        raise DecodeError(
            "the message was pickled, and unpickling runs code: call localq.set_encoder(PickleEncoder()) in "
            "the worker's module if all who can write to the queue are trusted, then retry it",
            data,
        )
    raise DecodeError(
        f"the message was encoded by {name!r}; call localq.set_encoder with that encoder in the worker's "
        "module, then retry it",
        data,
    )
