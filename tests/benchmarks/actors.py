"""localq as it comes: the default middleware, results of every actor, one SQLite file.

Its workers are started by ``localq worker tests.benchmarks.actors:serve``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import localq

from . import tasks
from .contender import QUEUE, RESULT_TIMEOUT, Contender, environment_with

URL_VARIABLE = "LOCALQ_BENCHMARK_URL"
MIDDLEWARE_VARIABLE = "LOCALQ_BENCHMARK_MIDDLEWARE"
"""Set to anything: the workers have `Bystander`."""
FLAGS_VARIABLE = "LOCALQ_BENCHMARK_FLAGS"
"""More for the command line of the worker program."""
NAME = "localq"
UNFINISHED = ("waiting", "delayed", "running")


def declare(url: str) -> tuple[localq.Broker, dict[str, Any]]:
    """The broker at that URL, with the tasks as its actors."""
    broker = localq.connect(url)
    return broker, {each.__name__: localq.actor(each, broker=broker) for each in tasks.ALL}


class Bystander(localq.Middleware):
    """What a user may add: hooks around each message, which do nothing."""

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Nothing."""

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Nothing."""


def serve() -> None:
    """For the worker program: set the global broker."""
    broker, _ = declare(os.environ[URL_VARIABLE])
    if MIDDLEWARE_VARIABLE in os.environ:
        broker.add_middleware(Bystander())


def connect(folder: str, query: str = "") -> Contender:
    """localq on a new file in that folder; `query` is of its URL, with the question mark."""
    url = f"sqlite:///{folder}/jobs.db{query}"
    broker, actors = declare(url)
    noop = actors["noop"]

    def is_over(sent: int) -> bool:
        counts = broker.store.counts().get(QUEUE, {})
        return not any(map(counts.get, UNFINISHED))

    environment = environment_with(**{URL_VARIABLE: url})

    def command(processes: int, threads: int) -> list[str]:
        flags = environment.get(FLAGS_VARIABLE, "").split()
        return [*_PROGRAM, "-p", str(processes), "-t", str(threads), *flags]

    return Contender(
        NAME,
        send={name: actor.send for name, actor in actors.items()},
        result=lambda message: message.get_result(block=True, timeout=RESULT_TIMEOUT),
        over=is_over,
        command=command,
        environment=environment,
        close=broker.close,
        send_bulk=lambda count: broker.enqueue_many(noop.message() for _ in range(count)),
    )


_PROGRAM = [sys.executable, "-m", "localq", "worker", f"{__name__}:{serve.__name__}"]
