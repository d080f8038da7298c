"""The libraries that localq is measured beside, each at the best settings that were found, one file each."""

from __future__ import annotations

from . import celery_redis, dramatiq_redis, huey_sqlite, rq_redis

PEERS = (dramatiq_redis.PEER, huey_sqlite.PEER, rq_redis.PEER, celery_redis.PEER)
