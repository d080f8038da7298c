"""Where messages are stored: the seam, and the engines behind it.

`open_store` is the one way in. One store a file and process: a broker and a
backend that were built by hand on one path share it, so that what they do for
one message is one transaction.
"""

from __future__ import annotations

import os
from typing import Any

from ..errors import BrokerError, StoreError
from .base import (
    Claim,
    Count,
    Event,
    Outcome,
    Record,
    Schedule,
    Selection,
    Store,
    Value,
    WorkerRecord,
)
from .database import opening
from .memory import MemoryStore
from .sqlite import SQLiteStore

__all__ = [
    "Claim",
    "Count",
    "Event",
    "MemoryStore",
    "Outcome",
    "Record",
    "Schedule",
    "Selection",
    "Store",
    "Value",
    "WorkerRecord",
    "open_store",
    "sqlite_path",
    "sqlite_url",
]

SQLITE_OPTIONS = {"durability": str, "gate_timeout": int, "busy_timeout": int, "network": str}

_files: dict[tuple[int, int], SQLiteStore] = {}
_memories: dict[str, MemoryStore] = {}
_is_opening = False


def open_store(url: str) -> Store:
    """The store of that URL.

    ``sqlite:///jobs.db`` is a file relative to the working directory, ``sqlite:////data/jobs.db``
    an absolute one, ``?durability=full`` survives power loss, ``?network=allow`` uses a network file
    system all the same. ``memory://`` is a store of this
    process alone, ``memory://NAME`` one that all who name it share.

    Raises:
      BrokerError: a URL that names no store.
      StoreError: a place that cannot be used; the text says why.
    """
    scheme = url.partition("://")[0] if isinstance(url, str) else ""
    if scheme == "memory":
        return _open_memory(url)
    if scheme == "sqlite":
        return _open_sqlite(url)
    raise BrokerError(
        f"{url!r} names no store; use sqlite:///jobs.db (relative), sqlite:////path/jobs.db (absolute) or memory://"
    )


def sqlite_path(url: str) -> str:
    """The absolute path of the file that an ``sqlite:`` URL names."""
    from urllib.parse import unquote  # with what it imports: dear at the start of a program

    path = unquote(url.removeprefix("sqlite://").partition("?")[0])
    if not path.startswith("/") or len(path) < 2 or path == "/:memory:" or not _can_be_a_path(path):
        raise BrokerError(
            f"{url!r} names no file; write three slashes before a relative path (sqlite:///jobs.db), four "
            "before an absolute one, and memory:// for a store without a file"
        )
    return os.path.abspath(os.path.expanduser(path[1:]))


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


def sqlite_url(path: str | os.PathLike[str], **options: Any) -> str:
    """The URL of the file at `path`, taken from the working directory of now."""
    from urllib.parse import quote, urlencode

    query = f"?{urlencode(options)}" if options else ""
    return f"sqlite:///{quote(os.path.abspath(os.path.expanduser(path)))}{query}"


def _open_sqlite(url: str) -> SQLiteStore:
    global _is_opening
    with opening:
        if _is_opening:  # the lock lets this thread in again
            raise StoreError(
                f"{url!r} is asked for in the middle of opening a file on this same thread: a signal handler must "
                "not do so; set a flag there and act on it later"
            )
        _is_opening = True
        try:
            return _find_or_open(url)
        finally:
            _is_opening = False


def _find_or_open(url: str) -> SQLiteStore:
    path = os.path.realpath(sqlite_path(url))
    options = _options(url)
    store = _find(path)
    if store is None:
        store = SQLiteStore(path, **options)
        status = os.stat(path)
        _files[status.st_dev, status.st_ino] = store
        return store
    if options.get("durability", store.durability) != store.durability:
        raise BrokerError(
            f"{path!r} is open in this process with durability {store.durability!r} already; "
            "open it with the same one everywhere"
        )
    store.users += 1
    return store


def _options(url: str) -> dict[str, Any]:
    from urllib.parse import parse_qsl

    options: dict[str, Any] = {}
    for name, text in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        try:
            options[name] = SQLITE_OPTIONS[name](text)
            if SQLITE_OPTIONS[name] is int and not 0 <= options[name] < 2**31:  # the most that SQLite takes
                raise ValueError
        except KeyError:
            known = ", ".join(SQLITE_OPTIONS)
            raise BrokerError(f"{url!r} has an option {name!r} that nobody knows; there are: {known}") from None
        except ValueError:
            raise BrokerError(f"{url!r}: {name} is a number of milliseconds, not {text[:30]!r}") from None
    if options.get("durability", "full") not in ("normal", "full"):
        raise BrokerError(f"{url!r}: durability is normal or full, not {options['durability']!r}")
    if options.get("network", "allow") not in ("allow", "refuse"):
        raise BrokerError(f"{url!r}: network is refuse or allow, not {options['network']!r}")
    return options


def _find(path: str) -> SQLiteStore | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    store = _files.get((status.st_dev, status.st_ino))
    is_usable = store is not None and store.users > 0 and not store.database.is_replaced
    return store if is_usable else None


def _open_memory(url: str) -> MemoryStore:
    name = url.removeprefix("memory://")
    if not name:
        return MemoryStore(url)
    with opening:
        return _memories.setdefault(name, MemoryStore(url))
