"""What stands beside localq's own figures, by name."""

from __future__ import annotations

from . import actors
from .peers import celery_redis, dramatiq_redis, huey_sqlite, rq_redis

OURS = actors.NAME
RAW = "raw loop"
POOL = "ProcessPoolExecutor.submit"
IDEAL = "ideal: bare calls"
THOUSAND = "own at a thousand"
FOUR = "own at 4 processes"
ONE_THREAD = "own with one thread"
PLAIN = "own message without it"
DRAMATIQ = dramatiq_redis.PEER.name
HUEY = huey_sqlite.PEER.name
RQ = rq_redis.PEER.name
CELERY = celery_redis.PEER.name
PEERS = (DRAMATIQ, HUEY, RQ, CELERY)
