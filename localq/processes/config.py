"""Every setting of a pool, once; all that is wrong with them is reported together."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import dramatiq_alias
from ..errors import PoolError
from ..names import check_queue_name
from ..worker import ASYNC_CONCURRENCY

START_METHODS = ("fork", "spawn")


def default_start_method() -> str:
    """How worker processes start: fork on Linux; spawn elsewhere, where system libraries do not
    survive a fork."""
    return "fork" if sys.platform == "linux" else "spawn"


@dataclass(slots=True)
class PoolConfig:
    """How a pool of worker processes runs.

    Parameters:
      processes: how many; by default one a core that this process may use.
      threads: how many messages each runs at the same time.
      async_concurrency: how many messages of async actors each runs besides; 0 to run them on the threads.
      queues: only these; empty for all.
      app: ``module``, ``module:attribute`` or ``module:object.attribute`` with the broker; empty for
        the broker of the program that starts the pool.
      modules: what is imported besides.
      discover: a folder; every module below it that is named ``tasks`` is imported too.
      actors: names that must be declared then; see `pool`.
      path: folders that are importable.
      main: how a fresh process finds the starting program's main module, as `multiprocessing` has it.
      url: the store that the broker must have, where no `app` names it.
      preload: import the app once, in the supervisor, instead of in every worker.
      fork_functions: ``module:function`` each, run in processes of their own beside the workers.
      fork_timeout: milliseconds that these wait at most for all workers to be ready.
      fork: the one of them that this process runs, if it is one of those.
      watch: a folder; the workers are replaced when a file in it changes.
      watch_include, watch_exclude: patterns of files that count besides ``*.py``, and that do not.
      rerun: a program and its arguments, which a reload runs in the place of this process once the pool has
        stopped; empty: it replaces the worker processes.
      start_method: "fork" or "spawn".
      shutdown_timeout: milliseconds for running messages to end when the pool stops.
      host_timeout: the same, in milliseconds, when the program that started the pool has died.
      max_crashes: how often a message may end its process before it is a dead letter.
      keeps_house: whether the worker process is the one of its pool that does; see `Worker`.
      log_level, log_file, skip_logging: how the command line logs.
      as_dramatiq: whether ``import dramatiq`` gives localq; by default as in this process.
    """

    processes: int | None = None
    threads: int = 1
    async_concurrency: int = ASYNC_CONCURRENCY
    queues: list[str] = field(default_factory=list)
    app: str = ""
    modules: list[str] = field(default_factory=list)
    discover: str = ""
    actors: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    main: dict[str, Any] | None = None
    url: str = ""
    preload: bool = False
    fork_functions: list[str] = field(default_factory=list)
    fork_timeout: float = 30_000
    fork: str = ""
    watch: str = ""
    watch_include: list[str] = field(default_factory=list)
    watch_exclude: list[str] = field(default_factory=list)
    rerun: list[str] = field(default_factory=list)
    start_method: str = field(default_factory=default_start_method)
    shutdown_timeout: int = 600_000
    host_timeout: int = 1_000
    max_crashes: int = 3
    keeps_house: bool = True
    log_level: int | None = None
    log_file: str = ""
    skip_logging: bool = False
    as_dramatiq: bool = field(default_factory=dramatiq_alias.is_installed)

    def __post_init__(self) -> None:
        if self.processes is None:
            self.processes = available_cores()

    def check(self) -> None:
        """Raise `PoolError` with everything that is wrong."""
        problems = [
            f"{name} must be {least} or more, not {value!r}"
            for name, value, least in (
                ("processes", self.processes, 1),
                ("threads", self.threads, 1),
                ("async_concurrency", self.async_concurrency, 0),
                ("shutdown_timeout", self.shutdown_timeout, 0),
                ("max_crashes", self.max_crashes, 1),
            )
            if not isinstance(value, int) or value < least
        ]
        if self.start_method not in START_METHODS:
            problems.append(f"start_method is one of {', '.join(START_METHODS)}, not {self.start_method!r}")
        elif self.start_method == "fork" and not hasattr(os, "fork"):
            problems.append("start_method 'fork' does not exist on this system; use 'spawn'")
        if self.preload and self.start_method != "fork":
            problems.append("preload needs start_method 'fork': a spawned process shares nothing")
        if self.preload and self.watch:
            problems.append("preload and watch exclude each other: what was imported once stays as it was")
        for name in self.fork_functions:
            if not all(name.partition(":")[::2]):
                problems.append(f"a fork function is named as module:function, not {name!r}")
        for name in self.queues:
            try:
                check_queue_name(name)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise PoolError("this pool cannot start: " + "; ".join(problems))

    def to_json(self) -> bytes:
        """For a fresh process, on one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> PoolConfig:
        """The reverse of `to_json`."""
        return cls(**json.loads(data))


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
