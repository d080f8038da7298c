"""dramatiq on Redis, with results."""

from __future__ import annotations

import os
import sys
from typing import Any

from .. import tasks
from ..contender import QUEUE, RESULT_TIMEOUT, ROOT, Contender, environment_with
from .peer import Peer, Place

URL_VARIABLE = "LOCALQ_BENCHMARK_DRAMATIQ"
PREFETCH_VARIABLE = "dramatiq_queue_prefetch"
PREFETCH, SHORT_PREFETCH = 100, 8
THREADS = 8  # its default, and faster with no-ops than 1, 4 or 16: a thread of them waits for Redis meanwhile


def declare(url: str) -> tuple[Any, dict[str, Any]]:
    """dramatiq's broker at that URL, with the tasks as its actors; it becomes the global one."""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker = RedisBroker(url=url)
    broker.add_middleware(Results(backend=RedisBackend(url=url)))
    dramatiq.set_broker(broker)
    return broker, {each.__name__: dramatiq.actor(each, broker=broker, store_results=True) for each in tasks.ALL}


def serve() -> None:
    """For the worker program: set the global broker."""
    declare(os.environ[URL_VARIABLE])


def connect(place: Place) -> Contender:
    """dramatiq on that server."""
    url = f"{place.redis_url}/0"
    broker, actors = declare(url)
    broker.client.flushall()
    return Contender(
        PEER.name,
        send={name: actor.send for name, actor in actors.items()},
        result=lambda message: message.get_result(block=True, timeout=RESULT_TIMEOUT),
        over=lambda sent: broker.do_qsize(QUEUE) == 0,
        command=_command,
        # As it comes, it fetches no more than two messages a thread and then naps: with one thread, that
        # wait bounds it. There is an environment variable against it. Of long tasks, one process would
        # fetch so many that the other has none.
        environment=environment_with(**{URL_VARIABLE: url, PREFETCH_VARIABLE: str(PREFETCH)}),
        for_long_tasks={PREFETCH_VARIABLE: str(SHORT_PREFETCH)},
        close=broker.close,
        servers=[place.redis_pid],
        threads=THREADS,
    )


def _command(processes: int, threads: int) -> list[str]:
    command = [sys.executable, "-m", "dramatiq", f"{__name__}:{serve.__name__}", "--path", ROOT]
    return [*command, "--processes", str(processes), "--threads", str(threads)]


PEER = Peer(
    "dramatiq + Redis",
    ("dramatiq", "redis"),
    connect,
    f"{THREADS} threads a process for no-ops and 1 elsewhere, a prefetch of {PREFETCH} for no-ops and of "
    f"{SHORT_PREFETCH} for what takes longer",
)
