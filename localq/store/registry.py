"""The workers of the SQLite store: who lives, and what becomes of what the dead held."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from contextlib import suppress
from functools import partial
from typing import Any

from ..cells import CRASHED, DOOMED, Death, read_death, remove_stray
from ..files import names_in
from . import statements as sql
from .base import WAITING, Record, WorkerRecord
from .keyed import KeyedSQLite
from .rows import record_of, whole

ABORTED = "Abort: its process was killed"
TOO_LONG = "TimeLimitExceeded: its process was killed, since it did not end by itself"
"""The verdicts on a message that was aborted, or ran for too long, and had to be ended in that way."""


class RegistrySQLite(KeyedSQLite):
    """The verbs about workers; `SQLiteStore` adds those about messages."""

    def _move(self, connection: sqlite3.Connection, records: list[Record], state: str, now: int) -> None:
        raise NotImplementedError

    def join(self, worker: WorkerRecord, *, now: int) -> int:
        queues, actors = json.dumps(list(worker.queues)), json.dumps(list(worker.actors))
        row = (worker.name, worker.pid, worker.pool, queues, actors, worker.threads, now)
        with self.database.write as connection:
            number = connection.execute(sql.JOIN, row).lastrowid
            lost = [record_of(row) for row in connection.execute(sql.LOST, (actors, queues, queues)).fetchall()]
            self._move(connection, lost, WAITING, now)
        assert number is not None
        return number

    def leave(self, worker: int, *, now: int) -> None:
        with self.database.write as connection:
            connection.execute(sql.LEAVE, (worker,)).fetchall()
            given = connection.execute(sql.GIVE_BACK, ("[]", worker)).fetchall()
        for (queue,) in given:
            self.bells.ring(queue)

    def worker_path(self, name: str) -> str:
        """The file whose lock says that the worker of that name lives."""
        if not _PLAIN_NAME.fullmatch(name):  # it would lead out of the folder: there is no such worker
            name = "no worker"
        return os.path.join(self._workers_folder, name)

    @property
    def _workers_folder(self) -> str:
        return os.path.join(self.database.side, "workers")

    def reap(self, *, now: int, max_crashes: int = 3) -> int:
        self.database.look_at_next_use()
        files = names_in(self._workers_folder)  # before the workers: who joins has its file
        workers = self.workers()
        self.bells.forget_the_dead()
        given = 0
        for name in set(files) - {worker.name for worker in workers}:
            remove_stray(self.worker_path(name), partial(self._has_joined, name))
        for worker in workers:
            death = read_death(self.worker_path(worker.name))
            if death is not None:
                given += self._give_back(worker, death, max_crashes)
        self._forget_dead_holders()
        return given

    def _has_joined(self, name: str) -> bool:
        return any(worker.name == name for worker in self.workers())

    def _give_back(self, worker: WorkerRecord, death: Death, max_crashes: int) -> int:
        with self.database.write as connection:
            if not connection.execute(sql.LEAVE, (worker.id,)).fetchall():
                return 0  # another one reaped it first
            charged = self._charge(connection, worker.id, death, max_crashes)
            given = connection.execute(sql.GIVE_BACK, (json.dumps(charged), worker.id)).fetchall()
        with suppress(OSError):  # it is gone, or was never a file
            os.unlink(self.worker_path(worker.name))
        for (queue,) in given:
            self.bells.ring(queue)
        return len(given)

    def _charge(self, connection: sqlite3.Connection, worker: int, death: Death, max_crashes: int) -> list[int]:
        """Charge the sole runner of a crash, or mark the several suspects; or the one for which the
        process was killed; say who was charged."""
        stack = death.stack or None
        if death.end == DOOMED:
            doomed = [
                (TOO_LONG if each.is_past_its_limit else ABORTED, stack, each.sequence, worker, each.claim)
                for each in death.running
                if each.is_doomed
            ]
            condemned = [connection.execute(sql.CONDEMN, each).fetchall() for each in doomed]
            return [sequence for rows in condemned for (sequence,) in rows]
        runners = [(running.sequence, worker, running.claim) for running in death.running]
        if death.end != CRASHED:
            return []
        if len(runners) > 1:
            connection.executemany(sql.SUSPECT, runners)
            return []
        verdict = f"WorkerCrashed: {describe_end(death.status)}"
        return [
            sequence
            for runner in runners
            for (sequence,) in connection.execute(sql.CHARGE, (max_crashes, verdict, stack, *runner)).fetchall()
        ]

    def workers(self) -> list[WorkerRecord]:
        with self.database.read as connection:
            rows = connection.execute(sql.WORKERS).fetchall()
        return [
            WorkerRecord(str(name), whole(pid), _names_in(queues), _names_in(actors), whole(threads), str(pool),
                         whole(joined_at), number)
            for name, pid, queues, actors, threads, pool, joined_at, number in rows
        ]  # fmt: skip


_PLAIN_NAME = re.compile(r"[\w-][\w.-]{0,99}")


def _names_in(text: Any) -> list[str]:
    """The strings in a JSON list; none where it is no such thing."""
    try:
        names = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def describe_end(status: int) -> str:
    """How a process ended, for a person: ``killed by signal 11 (SIGSEGV)``."""
    if status >= 0:
        return f"its process exited with status {status} in the middle of it"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by signal {-status} ({name}){why}"
