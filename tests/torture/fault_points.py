"""Ending a process at a chosen boundary inside claim, finish or put.

Nothing of this is in the library. A process that is to die calls `Watch.install`, which has SQLite tell of
each statement before it runs, and wraps the few methods between which something lasting happens beside SQL:
the gate, the bells and the cells. Each boundary has a name, such as ``put: before COMMIT``.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from localq.cells import Cell
from localq.store import bell, database, statements
from localq.store.bell import Bells
from localq.store.gate import Gate
from localq.store.sqlite import SQLiteStore
from localq.store.transactions import Write

Hear = Callable[[str], None]

HARMLESS = re.compile(
    # What no other process can see, and the time; SQL is in `execute` and `executemany`.
    r"(builtins|time|_signal|_thread|_json|json|binascii|itertools|zlib|_struct|_uuid|_functools|sys|_contextvars)\."
    r"|(str|bytes|dict|list|set|frozenset|tuple|deque|int|float|object|RLock|lock|memoryview|mmap|type|Connection"
    r"|Cursor|groupby|chain|count|Pattern|weakref|WeakSet|ContextVar|method|function|BaseException)"
    r"\.(?!execute|executemany)|posix\.(getpid|stat|fspath|open|close)$"
)


def die_at(name: str, passes: int) -> Hear:
    """Hears of boundaries, and ends this process when that one is passed so often."""
    left = passes

    def hear(boundary: str) -> None:
        nonlocal left
        left -= boundary == name
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return hear


class Watch:
    """Tells of each boundary that the thread which made it passes, once it is installed.

    Parameters:
      hear: called with the boundary's name.
      effect: called with the name of each function in C that is called within the three verbs, and
        whose effect others could see; None to spare that.
    """

    def __init__(self, hear: Hear, effect: Hear | None = None) -> None:
        self._hear = hear
        self._effect = effect
        self._thread = threading.get_ident()
        self._verb = ""

    def install(self) -> None:
        """From now on, in this process. There is no way back: it is to die."""
        self._wrap_verb("put", lambda outcomes: "put")
        self._wrap_verb("finish", lambda outcomes: "finish" if outcomes else "claim")
        self._wrap(Gate, "__enter__", "before the gate", "inside the gate")
        self._wrap(Gate, "leave", "", "outside the gate")
        self._wrap(Write, "_let_go", "after COMMIT")
        self._wrap(Bells, "_wake", "before a look for sleepers")
        self._wrap(bell, "_write_byte", "before a bell", "after a bell")
        self._wrap(Cell, "enter", "run: before its cell says so", "run: after its cell says so")
        self._wrap(Cell, "leave", "run: before its cell is empty", "run: after its cell is empty")
        self._trace_connections()
        if self._effect is not None:
            sys.setprofile(self._profile)

    def tell(self, boundary: str) -> None:
        if threading.get_ident() != self._thread:
            return
        if boundary.startswith("run: "):
            self._hear(boundary)
        elif self._verb:
            verb, self._verb = self._verb, ""  # what hears may use a store itself
            self._hear(f"{verb}: {boundary}")
            self._verb = verb

    @contextmanager
    def _inside(self, verb: str) -> Iterator[None]:
        if threading.get_ident() != self._thread:
            yield
            return
        self._verb = verb
        try:
            yield
            self.tell("at the end")
        finally:
            self._verb = ""

    def _wrap_verb(self, name: str, verb_of: Callable[[Any], str]) -> None:
        original = getattr(SQLiteStore, name)

        def verb(store: SQLiteStore, given: Any, **more: Any) -> Any:
            on_stored = more.get("on_stored")

            def told() -> None:
                self.tell("before on_stored")
                on_stored()
                self.tell("after on_stored")

            if on_stored is not None:
                more["on_stored"] = told
            with self._inside(verb_of(given)):
                return original(store, given, **more)

        setattr(SQLiteStore, name, verb)

    def _wrap(self, owner: Any, name: str, before: str, after: str = "") -> None:
        original = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.tell(before)
            given = original(*args, **kwargs)
            if after:
                self.tell(after)
            return given

        setattr(owner, name, wrapper)

    def _trace_connections(self) -> None:
        connect = database.Database._connect

        def connect_and_trace(opened: database.Database) -> sqlite3.Connection:
            connection = connect(opened)
            connection.set_trace_callback(self._before_statement)
            return connection

        database.Database._connect = connect_and_trace  # type: ignore[method-assign]
        for opened in database._open_databases:
            if opened.open_connection is not None:
                opened.open_connection.set_trace_callback(self._before_statement)

    def _before_statement(self, text: str) -> None:
        if self._verb and threading.get_ident() == self._thread:
            verb, self._verb = self._verb, ""  # what this does to find the name is not the verb's
            name, self._verb = statement(text), verb
            self.tell(f"before {name}")  # an error would be swallowed here

    def _profile(self, frame: Any, event: str, arg: Any) -> None:
        if event == "c_call" and self._verb and self._effect is not None:
            owner = arg.__module__ or type(arg.__self__).__name__
            name = f"{owner}.{arg.__name__}"
            if not HARMLESS.match(name):
                self._effect(name)


def statement(text: str) -> str:
    """The name that `statements` has for an SQL statement, whose values may be filled in.

    >>> statement("DELETE FROM payload WHERE sequence = 7")
    'DELETE_PAYLOAD'
    """
    if text.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK"):
        return text.split()[0]
    names = {name for name, pattern in _patterns() if pattern.fullmatch(text)}
    return " or ".join(sorted(names)) or text


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    texts = [(name, text) for name, text in vars(statements).items() if name.isupper() and isinstance(text, str)]
    texts += [("promote", statements.promote(1)), ("remove", statements.remove(1))]
    texts += [("claim", statements.claim(1, skipped)) for skipped in (0, 1)]
    return [(name, _pattern(text)) for name, text in texts]


def _pattern(text: str) -> re.Pattern[str]:
    parts = map(re.escape, re.split(r"\?(?:, \?)*|:\w+", text))
    return re.compile(".*?".join(parts), re.DOTALL)
