"""Actors that are inside of a limit on how many at a time."""

from __future__ import annotations

import asyncio
import re
import time

import notes
from tasks import hold, who  # noqa: F401  # declares them here too

import localq
from localq.rate_limits import ConcurrentRateLimiter
from localq.rate_limits.backends import SQLiteBackend

limiter = ConcurrentRateLimiter(SQLiteBackend(), "place", limit=1, ttl=50)


@localq.actor(max_retries=0)
def inside(name):
    with limiter.acquire():
        notes.hold(name)


@localq.actor(max_retries=0)
async def inside_async(name):
    with limiter.acquire():
        notes.note("inside", name)
        await asyncio.sleep(600)


@localq.actor(max_retries=0)
def inside_and_deaf():
    with limiter.acquire():
        notes.note("inside")
        re.match(r"(a|a)*$", "a" * 50 + "b")  # for longer than anybody lives, and without a bytecode


def go_in_and_out():
    while True:
        with limiter.acquire():
            pass


@localq.actor(time_limit=100, max_retries=0)
def in_and_out_for_ever(milliseconds):
    time.sleep(milliseconds / 1000)
    go_in_and_out()
