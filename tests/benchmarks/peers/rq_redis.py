"""rq, which lives on Redis."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from .. import tasks
from ..contender import QUEUE, RESULT_TIMEOUT, ROOT, Contender, environment_with
from .peer import Peer, Place


def connect(place: Place) -> Contender:
    """rq on that server."""
    from redis import Redis
    from rq import Queue

    url = f"{place.redis_url}/0"
    client = Redis.from_url(url)
    client.flushall()
    queue = Queue(QUEUE, connection=client)
    finished = queue.finished_job_registry
    return Contender(
        PEER.name,
        send={each.__name__: partial(queue.enqueue, each) for each in tasks.ALL},
        result=_result,
        over=lambda sent: bool(finished.get_job_count(cleanup=False) >= sent),
        command=partial(_command, url),
        environment=environment_with(),
        close=client.close,
        send_bulk=lambda count: queue.enqueue_many([Queue.prepare_data(tasks.noop) for _ in range(count)]),
        servers=[place.redis_pid],
    )


def _result(job: Any) -> Any:
    return job.latest_result(timeout=RESULT_TIMEOUT // 1000).return_value


def _command(url: str, processes: int, threads: int) -> list[str]:
    # Its usual worker forks for every job; this one runs them itself. It has no threads.
    pool = [sys.executable, "-m", "rq.cli", "worker-pool", QUEUE, "-u", url, "-P", ROOT]
    return [*pool, "-n", str(processes), "-w", "rq.worker.SimpleWorker", "-q", "-l", "WARNING"]


PEER = Peer("rq", ("rq", "redis"), connect, "a pool of SimpleWorker, which runs jobs without a fork for each")
