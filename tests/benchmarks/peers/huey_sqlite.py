"""huey on SQLite: the same kind of file, in another library's hands."""

from __future__ import annotations

import os
import sys
from typing import Any

from .. import tasks
from ..contender import RESULT_TIMEOUT, Contender, environment_with
from .peer import Peer, Place

FILE_VARIABLE = "LOCALQ_BENCHMARK_HUEY"


def declare(file: str) -> tuple[Any, dict[str, Any]]:
    """huey on that file, with the tasks."""
    from huey import SqliteHuey

    # fsync off is `synchronous = OFF`: faster than what localq does, and not even the file is safe when the
    # power fails. A patient busy handler, or 32 processes end in "database is locked".
    huey = SqliteHuey("benchmark", filename=file, fsync=False, timeout=60, store_none=True)
    return huey, {each.__name__: huey.task()(each) for each in tasks.ALL}


def connect(place: Place) -> Contender:
    """huey on a new file."""
    file = os.path.join(place.folder, "huey.db")
    huey, functions = declare(file)
    return Contender(
        PEER.name,
        send=functions,
        result=lambda result: result.get(
            blocking=True, timeout=RESULT_TIMEOUT / 1000, backoff=1, max_delay=0.001, preserve=True
        ),
        over=lambda sent: huey.storage.result_store_size() >= sent,
        command=_command,
        environment=environment_with(**{FILE_VARIABLE: file}),
        close=huey.storage.close,
    )


def _command(processes: int, threads: int) -> list[str]:
    # It has workers of one kind: processes, or threads of one process. An idle one asks again after 1 ms
    # at first, up to 10 ms; health checks and periodic tasks are off.
    kind, workers = ("process", processes) if threads == 1 else ("thread", threads)
    program = [sys.executable, "-m", "huey.bin.huey_consumer", f"{__package__}.huey_app.huey"]
    return [*program, "-k", kind, "-w", str(workers), "-d", "0.001", "-m", "0.01", "-C", "-n", "-q"]


PEER = Peer(
    "huey + SQLite",
    ("huey",),
    connect,
    "workers of the kind process, synchronous = OFF, asking every 1 to 10 ms when idle",
    redis=False,
)
