"""localq as it comes: the default middleware, results of every actor, one SQLite file.

Its workers are started by ``localq worker tests.benchmarks.actors:serve``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import localq

from . import tasks
from .contender import JOIN_TIMEOUT, QUEUE, Contender, environment_with

URL_VARIABLE = "LOCALQ_BENCHMARK_URL"
NAME = "localq"


def declare(url: str) -> tuple[localq.Broker, dict[str, Any]]:
    """The broker at that URL, with the tasks as its actors."""
    broker = localq.connect(url)
    functions = (tasks.noop, tasks.hold, tasks.mark, tasks.stamp)
    return broker, {function.__name__: localq.actor(function, broker=broker) for function in functions}


def serve() -> None:
    """For the worker program: set the global broker."""
    declare(os.environ[URL_VARIABLE])


def connect(folder: str) -> Contender:
    """localq on a new file in that folder."""
    url = f"sqlite:///{folder}/jobs.db"
    broker, actors = declare(url)
    noop = actors["noop"]
    return Contender(
        NAME,
        **actors,
        join=lambda: broker.join(QUEUE, timeout=JOIN_TIMEOUT),
        command=_command,
        environment=environment_with(**{URL_VARIABLE: url}),
        close=broker.close,
        send_bulk=lambda count: broker.enqueue_many(noop.message() for _ in range(count)),
    )


def _command(processes: int, threads: int) -> list[str]:
    app = f"{__name__}:{serve.__name__}"
    return [sys.executable, "-m", "localq", "worker", app, "-p", str(processes), "-t", str(threads)]
