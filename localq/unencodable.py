"""What in a message or a result cannot be encoded, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from .errors import EncodeError

_Child = tuple[str, Any, bool]
"""A value in another: its place, itself, and whether it is a key of a dict."""


def reason_of(error: Exception) -> str:
    """What an encoder says against a value, in short."""
    text = str(error)[:300]
    return text if type(error) is TypeError else f"{type(error).__name__}: {text}"


def refusal_of(
    data: dict[str, Any],
    error: Exception,
    dump: Callable[[Any], bytes],
    holders: tuple[type, ...],
) -> EncodeError:
    """Return the error that says what in `data` made `dump` raise `error`, and where.

    `holders` are the types that `dump` looks into for more values.
    """
    place, reason, levels = "", reason_of(error), 500
    if isinstance(error, RecursionError):  # The stack ended, at a depth that varies.
        reason, levels = "it is nested too deeply", 200
    with suppress(Exception):  # Some values cannot even be walked: the first reason must do.
        place, reason = _find_culprit(data, dump, holders, levels) or (place, reason)
    return EncodeError(
        f"cannot encode {place or 'this'}: {reason}; pass something encodable in its"
        " place, such as an id or a plain dict, or choose PickleEncoder",
        place,
    )


def _find_culprit(
    data: dict[str, Any],
    dump: Callable[[Any], bytes],
    holders: tuple[type, ...],
    levels: int,
) -> tuple[str, str] | None:
    """Return the place and the fault of the first value that `dump` cannot take.

    In the order of `dump`, and not deeper than it went: any other walk could take
    forever in lists that hold the same list many times.
    """
    trail: list[tuple[Any, Iterator[_Child]]] = [(data, _children(data, ""))]
    while trail:
        child = next(trail[-1][1], None)
        if child is None:
            trail.pop()
            continue
        place, value, is_key = child
        if any(value is holder for holder, _ in trail):
            return place, "it contains itself"
        if len(trail) > levels:
            return f"{place[:60]}...", "it is nested too deeply"
        if isinstance(value, holders) and not is_key:
            trail.append((value, _children(value, place)))
            continue
        try:
            dump({value: None} if is_key else {"": value})
        except Exception as error:
            return place, reason_of(error)
    return None


def _children(holder: Any, place: str) -> Iterator[_Child]:
    if isinstance(holder, dict):
        for key, value in holder.items():
            yield f"{place}<key>", key, True
            yield _place_of(key, place), value, False
    elif isinstance(holder, (list, tuple)):
        for index, value in enumerate(holder):
            yield f"{place}[{index}]", value, False
    else:
        for value in holder:
            yield f"{place}<element>", value, False


def _place_of(key: Any, place: str) -> str:
    shown = repr(key)[:60]
    if isinstance(key, str):
        shown = f'"{shown[1:-1]}"' if place else shown[1:-1]
    return f"{place}[{shown}]" if place else shown
