"""Encoders: how a message or a result becomes bytes, and comes back.

The default, `MsgpackEncoder`, writes plain msgpack where msgpack has a type for
the value. Everything else is a *marked list*: a list that starts with a mark,
which is an extension type without content, and goes on with the parts::

    (1, 2)              [mark TUPLE, 1, 2]
    date(2024, 2, 29)   [mark DATE, "2024-02-29"]

The usual way, an extension type that holds another run of msgpack, needs a
packer inside the packer for every tuple, and each level of nesting would use up
40 KB of the C stack when it is read: a few hundred bytes of hostile data could
end the process. Marked lists are packed and read in one run, whose depth
msgpack itself bounds.
"""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from functools import cache
from os import fspath
from typing import Any, NoReturn

from msgpack import ExtType, Packer, unpackb  # type: ignore[import-untyped]

from .errors import DecodeError, EncodeError
from .unencodable import reason_of, refusal_of

MessageData = dict[str, Any]
"""What an encoder turns into bytes and back; dramatiq's name, which packages take from here."""

# Not imported here: decimal, pathlib, uuid and zoneinfo. They would add about
# 8 ms to the start of every program, also of those that never send such a value.


class Encoder(ABC):
    """Turns the dict of a message, or of a result, into bytes and back.

    An encoder is used by many threads at once.

    ``name`` tells which encoder made a record. A subclass that sets none gets
    its dotted path, ``"module:QualName"``.
    """

    name: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = _path_of(cls)

    @abstractmethod
    def encode(self, data: dict[str, Any]) -> bytes:
        """Return `data` as bytes.

        Raises:
          EncodeError: something in `data` cannot be encoded; ``place`` says where it stands.
        """

    @abstractmethod
    def decode(self, data: bytes) -> dict[str, Any]:
        """Return the dict that `encode` made `data` of.

        Raises:
          DecodeError: whatever is wrong with `data`; nothing else is raised.
        """


def name_of(encoder: Any) -> str:
    """The name of an encoder, which may be any object with the two methods."""
    return getattr(encoder, "name", None) or _path_of(type(encoder))


def _path_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


class MsgpackEncoder(Encoder):
    """The default: msgpack that gives Python's types back as they were.

    Round trip: None, bool, int of any size, float, str (also with lone surrogates,
    as in file names), bytes, list, tuple, set, frozenset, dict with any of the
    hashable ones as keys, datetime, date, time, timedelta, Decimal, UUID, Path,
    PurePosixPath and PureWindowsPath.

    A ``ZoneInfo``, a fixed offset of whole seconds, and ``fold`` come back. Where the
    reading machine does not know the zone, and for tzinfo of other kinds, the offset
    from UTC stands in for it.

    A subclass (IntEnum, StrEnum, OrderedDict, a named tuple) comes back as the type
    above that it derives from, bytearray and memoryview as bytes. A member of a
    plain Enum is refused. Values may be nested about 500 levels deep, and
    deeper with newer versions of msgpack.

    Decoding makes values of these types only. It runs nothing that the data names.
    """

    name = "msgpack"

    def encode(self, data: dict[str, Any]) -> bytes:
        try:
            return _pack(data)
        except MemoryError:  # which says nothing about the data
            raise
        except Exception as error:
            raise refusal_of(data, error, _pack, (dict, list, tuple, set, frozenset)) from error

    def decode(self, data: bytes) -> dict[str, Any]:
        return _decoded(data, _unpack, self.name)


class JSONEncoder(Encoder):
    """Compact JSON in UTF-8, for readers in other languages.

    Takes what the `json` module takes. As there, tuples become lists, keys become
    strings, and NaN and the infinities are written though JSON has no such numbers.
    """

    name = "json"

    def encode(self, data: dict[str, Any]) -> bytes:
        try:
            return _dump_json(data)
        except MemoryError:
            raise
        except Exception as error:
            raise refusal_of(data, error, _dump_json, (dict, list, tuple)) from error

    def decode(self, data: bytes) -> dict[str, Any]:
        return _decoded(data, lambda raw: json.loads(str(raw, "utf-8")), self.name)


class PickleEncoder(Encoder):
    """Any object that can be pickled.

    Warning: decoding a pickle can run any code. Whoever can write to the store, its
    file or its folder, can run code in every process that reads from it. Choose this
    only where all of them already trust each other.
    """

    name = "pickle"

    def encode(self, data: dict[str, Any]) -> bytes:
        try:
            return pickle.dumps(data)
        except MemoryError:
            raise
        except Exception as error:
            reason = reason_of(error)
            raise EncodeError(f"cannot pickle this: {reason}; pass an id in its place") from error

    def decode(self, data: bytes) -> dict[str, Any]:
        return _decoded(data, pickle.loads, self.name)


# The numbers are part of the format and outlive a release: append, never reorder.
_MARKS = {code: ExtType(code, b"") for code in range(1, 14)}
_INT, _TUPLE, _SET, _FROZENSET = (_MARKS[code] for code in range(1, 5))
_DATETIME, _DATE, _TIME, _TIMEDELTA = (_MARKS[code] for code in range(5, 9))
_DECIMAL, _UUID, _PATH, _POSIX, _WINDOWS = (_MARKS[code] for code in range(9, 14))


def _pack(data: Any) -> bytes:
    # A packer a call: one for all is safe neither for threads nor for a send inside a
    # send, and a pool of them would save no more than 0.2 microseconds.
    packer = Packer(default=_write, strict_types=True, unicode_errors="surrogatepass")
    packed: bytes = packer.pack(data)
    return packed


def _write(value: Any) -> Any:
    """Return what msgpack is to pack in place of `value`, which it has no type for."""
    kind = type(value)
    if kind is tuple:  # First, since it is in every message: args.
        return [_TUPLE, *value]
    writers = _writers()
    for base in kind.__mro__:
        if base in writers:
            return writers[base](value)
    return _refuse(value)


@cache
def _writers() -> dict[type, Callable[[Any], Any]]:
    """By type, what makes a marked list, or for a subclass the plain value, of a value.

    The methods are those of the base: what a subclass made of ``str()``, as enums
    do, or of ``isoformat()`` is not what the reader expects.
    """
    from decimal import Decimal
    from pathlib import Path, PurePosixPath, PureWindowsPath
    from uuid import UUID

    return {
        str: str.__str__,
        int: _write_int,
        float: float.__float__,
        bytes: lambda value: bytes(memoryview(value)),
        bytearray: lambda value: bytes(memoryview(value)),
        list: list.copy,
        dict: dict,  # dict.copy would lose the order of an OrderedDict.
        tuple: lambda value: [_TUPLE, *value],
        set: lambda value: [_SET, *value],
        frozenset: lambda value: [_FROZENSET, *value],
        datetime: lambda value: [_DATETIME, datetime.isoformat(value), *_fold_and_zone(value)],
        date: lambda value: [_DATE, date.isoformat(value)],
        time: lambda value: [_TIME, time.isoformat(value), *_fold_and_zone(value)],
        timedelta: lambda value: [_TIMEDELTA, value.days, value.seconds, value.microseconds],
        Decimal: lambda value: [_DECIMAL, Decimal.__str__(value)],
        UUID: lambda value: [_UUID, value.bytes],
        Path: lambda value: [_PATH, fspath(value)],
        PurePosixPath: lambda value: [_POSIX, fspath(value)],
        PureWindowsPath: lambda value: [_WINDOWS, fspath(value)],
    }


def _write_int(value: int) -> Any:
    if -(2**63) <= value < 2**64:  # A subclass: msgpack takes the exact ints of this size.
        return int.__int__(value)
    return [_INT, int.to_bytes(value, value.bit_length() // 8 + 1, "big", signed=True)]


def _fold_and_zone(value: datetime | time) -> tuple[int, str | None]:
    if value.tzinfo is None or type(value.tzinfo) is timezone:
        return value.fold, None
    from zoneinfo import ZoneInfo

    return value.fold, value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None


def _unpack(data: bytes) -> Any:
    reading = _Reading()
    # The bounds of msgpack on lengths follow the size of `data`: no need for others.
    value = unpackb(
        data,
        ext_hook=reading.ext_hook,
        list_hook=reading.list_hook,
        strict_map_key=False,
        timestamp=3,  # As a datetime; no mark of ours, but other writers of msgpack make it.
        unicode_errors="surrogatepass",
    )
    if reading.loose_marks:
        raise ValueError("a mark that does not start a list")
    return value


class _Reading:
    """Makes values of the marked lists in one run of msgpack."""

    __slots__ = ("loose_marks",)

    def __init__(self) -> None:
        self.loose_marks = 0

    def ext_hook(self, code: int, content: bytes) -> ExtType:
        mark = _MARKS.get(code)
        if mark is None or content:
            raise ValueError(f"unknown extension type {code}")
        self.loose_marks += 1
        return mark

    def list_hook(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not ExtType:
            return items
        self.loose_marks -= 1
        mark, *parts = items
        read = _READERS.get(mark) or _late_readers()[mark]
        return read(*parts)


def _zoned(value: Any, fold: int, key: str | None) -> Any:
    """Return the datetime or time `value` in its zone.

    It keeps its offset from UTC where this machine does not know the zone.

    Raises:
      ValueError: the key leads out of the folders of zones.
    """
    if key is None:
        return value.replace(fold=fold)
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return value.replace(fold=fold, tzinfo=ZoneInfo(key))
    except ZoneInfoNotFoundError:
        return value.replace(fold=fold)


_READERS: dict[ExtType, Callable[..., Any]] = {
    _INT: lambda raw: int.from_bytes(raw, "big", signed=True),
    _TUPLE: lambda *items: items,
    _SET: lambda *items: set(items),
    _FROZENSET: lambda *items: frozenset(items),
    _DATETIME: lambda text, fold, key: _zoned(datetime.fromisoformat(text), fold, key),
    _DATE: lambda text: date.fromisoformat(text),
    _TIME: lambda text, fold, key: _zoned(time.fromisoformat(text), fold, key),
    _TIMEDELTA: lambda days, seconds, microseconds: timedelta(days, seconds, microseconds),
}


@cache
def _late_readers() -> dict[ExtType, Callable[..., Any]]:
    from decimal import Decimal
    from pathlib import Path, PurePosixPath, PureWindowsPath
    from uuid import UUID

    return {
        _DECIMAL: Decimal,
        _UUID: lambda raw: UUID(bytes=raw),
        _PATH: Path,
        _POSIX: PurePosixPath,
        _WINDOWS: PureWindowsPath,
    }


def _dump_json(data: Any) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=_refuse)
    # Only a lone surrogate has no UTF-8, and its backslash form is how JSON writes it.
    return text.encode("utf-8", "backslashreplace")


def _decoded(data: bytes, load: Callable[[bytes], Any], name: str) -> dict[str, Any]:
    """Return what `load` makes of `data`, if that is a dict; else raise DecodeError."""
    try:
        value = load(data)
        if not isinstance(value, dict):
            raise TypeError(f"the bytes hold a {type(value).__name__}, not a dict")
    except Exception as error:
        raise DecodeError(
            f"the {name} encoder cannot decode this ({reason_of(error)}); were the bytes"
            " damaged, or made by another encoder or a newer release?",
            data,
            error,
        ) from error
    return value


def _refuse(value: Any) -> NoReturn:
    kind = type(value)
    raise TypeError(f"a value of type '{kind.__module__}.{kind.__qualname__}'")
