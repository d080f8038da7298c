"""Actors in processes whose wall clock a test sets, by the file ``clock``: milliseconds that it is ahead."""

from __future__ import annotations

import time

import notes

import localq
from localq.clock import clock
from localq.rate_limits import WindowRateLimiter
from localq.rate_limits.backends import SQLiteBackend


def wall() -> int:
    try:
        ahead = int((notes.FOLDER / "clock").read_text())
    except FileNotFoundError:
        ahead = 0
    return time.time_ns() // 1_000_000 + ahead


clock.wall = wall  # type: ignore[method-assign]
limiter = WindowRateLimiter(SQLiteBackend(), "window", limit=2, window=3600)


@localq.actor
def mail(number):
    notes.note("mail", number)


@localq.actor
def hold(name):
    notes.hold(name)
    return name


@localq.actor(min_backoff=10, max_backoff=20)
def fail_until(name, tries):
    notes.note("tried", name)
    if notes.count(f"tried {name}") < tries:
        raise RuntimeError("not yet")
    return tries


@localq.actor(min_backoff=3_600_000, max_backoff=3_600_000)
def fail_once(name):
    notes.note("tried", name)
    if notes.count(f"tried {name}") < 2:
        raise RuntimeError("not yet")


@localq.actor
def enter():
    with limiter.acquire(raise_on_failure=False) as is_in:
        return is_in


@localq.actor(time_limit=60_000)
def nap(seconds):
    time.sleep(seconds)
    return "awake"
