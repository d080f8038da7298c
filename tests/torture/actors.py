"""The actors of a pool whose processes are killed: each notes when it begins, and how it ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import localq
from localq.middleware import CurrentMessage
from localq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from localq.rate_limits.backends import SQLiteBackend

from .limits import PER_SECOND, PLACES
from .noting import note

soon = {"min_backoff": 5, "max_backoff": 60}
few_at_a_time = ConcurrentRateLimiter(SQLiteBackend(), "few", limit=PLACES, ttl=4_000)
few_a_second = WindowRateLimiter(SQLiteBackend(), "often", limit=PER_SECOND, window=1)


@contextmanager
def noted() -> Iterator[None]:
    message_id = CurrentMessage.get_current_message().message_id
    note("begin", message_id, os.getpid(), time.monotonic())
    try:
        yield
    except BaseException as error:
        note("end", message_id, os.getpid(), type(error).__name__)
        raise
    note("end", message_id, os.getpid(), "ok")


def nap(millis: float) -> None:
    if millis:
        time.sleep(millis / 1000)


@localq.actor
def told(message, result):
    note("told", message["message_id"], os.getpid())


@localq.actor
def plain(value, millis, *results):
    """Also a step of a pipeline, a member of a group or its callback, which get further arguments."""
    with noted():
        nap(millis)
        return value


@localq.actor(on_success=told)
def telling(value, millis):
    with noted():
        nap(millis)
        return value


@localq.actor(max_retries=8, **soon)
def flaky(value, millis, failures, *results):
    with noted():
        nap(millis)
        if CurrentMessage.get_current_message().options.get("retries", 0) < failures:
            raise RuntimeError("not yet")
        return value


@localq.actor(max_retries=2, **soon)
def hopeless(*results):
    with noted():
        raise RuntimeError("hopeless")


@localq.actor
async def waiting(value, millis, *results):
    with noted():
        await asyncio.sleep(millis / 1000)
        return value


@localq.actor(max_retries=100_000, **soon)
def limited(value, millis):
    with noted(), few_at_a_time.acquire():
        # Inside: a note that is missing where a process was killed must not count for longer than it lived.
        note("in", "few", os.getpid(), time.monotonic())
        try:
            nap(millis)
        finally:
            note("out", "few", os.getpid(), time.monotonic())
        return value


@localq.actor(max_retries=100_000, **soon)
def often(value):
    with noted():
        before = int(time.time())
        with few_a_second.acquire():
            if int(time.time()) == before:
                note("second", before, os.getpid())
            return value


@localq.actor
def long(value, seconds):
    with noted():
        time.sleep(seconds)
        return value


@localq.actor
def deaf(value, seconds):
    """It does not heed an abort: its process has to be killed."""
    with noted():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except localq.Abort:
                pass
        return value
