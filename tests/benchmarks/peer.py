"""dramatiq on Redis, with the same actors and with results: what localq is measured beside.

The Redis is one of our own, on a free port, without persistence, in a folder that is removed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import tasks
from .contender import JOIN_TIMEOUT, QUEUE, ROOT, Contender, environment_with

URL_VARIABLE = "LOCALQ_BENCHMARK_REDIS"
NAME = "dramatiq + Redis"
START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0


def missing() -> str | None:
    """What is not installed here, or None."""
    absent = [f"the package {name!r}" for name in ("dramatiq", "redis") if not importlib.util.find_spec(name)]
    if shutil.which("redis-server") is None:
        absent.append("the program redis-server")
    return " and ".join(absent) or None


@dataclass(slots=True)
class Redis:
    """A server that listens."""

    url: str
    pid: int


@contextmanager
def redis_server(folder: str) -> Iterator[Redis]:
    """A Redis for as long as the block lasts, with its files, if any, in that folder."""
    port = _free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
    command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(port, process)
        yield Redis(f"redis://127.0.0.1:{port}/0", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except BaseException:
            process.kill()
            process.wait()
            raise


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError("redis-server did not start")


def declare(url: str) -> tuple[Any, dict[str, Any]]:
    """dramatiq's broker at that URL, with the tasks as its actors; it becomes the global one."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    dramatiq.set_broker(broker)
    functions = (tasks.noop, tasks.hold, tasks.mark, tasks.stamp)
    return broker, {
        function.__name__: dramatiq.actor(function, broker=broker, store_results=True) for function in functions
    }


def serve() -> None:
    """For the worker program: set the global broker."""
    declare(os.environ[URL_VARIABLE])


def connect(redis: Redis) -> Contender:
    """dramatiq on that server, which is emptied first."""
    broker, actors = declare(redis.url)
    broker.client.flushall()
    return Contender(
        NAME,
        **actors,
        join=lambda: broker.join(QUEUE, interval=1, timeout=JOIN_TIMEOUT),
        command=_command,
        environment=environment_with(**{URL_VARIABLE: redis.url}),
        close=broker.close,
        servers=[redis.pid],
    )


def _command(processes: int, threads: int) -> list[str]:
    command = [sys.executable, "-m", "dramatiq", f"{__name__}:{serve.__name__}", "--path", ROOT]
    return [*command, "--processes", str(processes), "--threads", str(threads)]
