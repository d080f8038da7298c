"""celery on Redis, with results in Redis."""

from __future__ import annotations

import sys
from typing import Any

from .. import tasks
from ..contender import QUEUE, RESULT_TIMEOUT, Contender, environment_with
from .peer import Peer, Place

URL_VARIABLE = "LOCALQ_BENCHMARK_CELERY"
PREFETCH = 100


def declare(url: str) -> tuple[Any, dict[str, Any]]:
    """celery on that server: database 0 for messages, 1 for results."""
    from celery import Celery

    app = Celery("benchmark", broker=f"{url}/0", backend=f"{url}/1", set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=False,  # acknowledged when fetched: fewer steps, and lost when the process dies
        worker_prefetch_multiplier=PREFETCH,
        worker_send_task_events=False,
        task_track_started=False,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app, {each.__name__: app.task(each, name=each.__name__) for each in tasks.ALL}


def connect(place: Place) -> Contender:
    """celery on that server."""
    from redis import Redis

    results = Redis.from_url(f"{place.redis_url}/1")
    results.flushall()
    app, functions = declare(place.redis_url)

    def close() -> None:
        app.close()
        results.close()

    return Contender(
        PEER.name,
        send={name: task.delay for name, task in functions.items()},
        result=lambda result: result.get(timeout=RESULT_TIMEOUT / 1000),
        over=lambda sent: bool(results.dbsize() >= sent),
        command=_command,
        environment=environment_with(**{URL_VARIABLE: place.redis_url}),
        close=close,
        servers=[place.redis_pid],
    )


def _command(processes: int, threads: int) -> list[str]:
    # Its pool of processes did no worse than its threads, and no worse than as many programs with the pool
    # "solo"; and it is what people run.
    program = [sys.executable, "-m", "celery", "-A", f"{__package__}.celery_app", "-q", "worker"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
    return [*program, *quiet, "-P", "prefork", "-c", str(processes)]


PEER = Peer(
    "celery",
    ("celery", "redis"),
    connect,
    f"prefork, Redis for messages and results, a prefetch of {PREFETCH} a process, acks_late off, no events, "
    "no gossip, no mingle, no heartbeat",
)
