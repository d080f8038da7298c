"""Actors that are coroutines, beside the everyday ones of `tasks`."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import notes
from tasks import add, hold, mail, who  # noqa: F401  # declares them here too

import localq
from localq.middleware import Shutdown, TimeLimitExceeded  # noqa: F401  # for the reasons in the notes

present = []


@localq.actor
async def meet(count):
    """Come to an end when so many are here, in this very process."""
    present.append(None)
    while len(present) < count:
        await asyncio.sleep(0.005)
    return os.getpid()


async def hold_on(name):
    notes.note("held", name, os.getpid())
    try:
        while not (notes.FOLDER / f"release-{name}").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        notes.note("cancelled", name)
        raise
    notes.note("released", name, os.getpid())


@localq.actor
async def hold_async(name):
    await hold_on(name)
    return name


@localq.actor(notify_shutdown=True, max_retries=0)
async def hold_until_told(name):
    await hold_on(name)


@localq.actor
async def hold_and_crash_async(name):
    await hold_on(name)
    os.kill(os.getpid(), signal.SIGKILL)


@localq.actor
async def ignore_cancellation(name):
    notes.note("held", name, os.getpid())
    while True:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            notes.note("refused", name)


@localq.actor
async def block_the_loop(name):
    notes.note("held", name, os.getpid())
    time.sleep(600)


@localq.actor
async def when_async():
    return os.getpid()


@localq.actor
async def count_async(number):
    await asyncio.sleep(number % 5 / 1000)
    notes.note("counted", number)
