"""Actors that block, and are interrupted."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import threading
import time

import notes
from tasks import add, who  # noqa: F401  # declares them here too

import localq
from localq.middleware import Shutdown, TimeLimitExceeded


def block(how):
    if how == "sleep":
        time.sleep(600)
    elif how == "program":
        subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
    elif how == "lock":
        threading.Event().wait()
    elif how == "pipe":
        os.read(os.pipe()[0], 1)
    elif how == "select":
        select.select([os.pipe()[0]], [], [])
    elif how == "loop":
        while True:
            pass


@localq.actor(time_limit=300, max_retries=0)
def too_long(how):
    try:
        block(how)
    except TimeLimitExceeded:
        notes.note("exceeded", how)
        raise


@localq.actor(time_limit=300, max_retries=0)
def catches_exceptions():
    while True:
        try:
            time.sleep(600)
        except Exception:
            notes.note("caught")


@localq.actor(time_limit=300, max_retries=0)
def send_for_ever():
    number = 0
    while True:
        number += 1
        count.send(number)


@localq.actor
def count(number):
    notes.note("counted", number)


@localq.actor(notify_shutdown=True)
def wants_to_know(how):
    notes.note("blocks", os.getpid())
    try:
        block(how)
    except Shutdown:
        notes.note("shutdown", how)
        return "told"


@localq.actor(notify_shutdown=True, min_backoff=3_600_000, max_backoff=3_600_000)
def lets_it_pass(how):
    notes.note("blocks", os.getpid())
    block(how)


@localq.actor
def does_not_want_to_know():
    notes.hold("unaware")


@localq.actor
def blocks(how):
    notes.note("blocks", how)
    try:
        block(how)
    except localq.Abort:
        notes.note("aborted", how)
        raise


@localq.actor
async def blocks_async():
    notes.note("blocks")
    await asyncio.sleep(600)
