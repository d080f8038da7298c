"""Actors that no time limit raised in Python can end, and some that it can."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

import notes
from tasks import add, hold, who  # noqa: F401  # declares them here too

import localq

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def swallow():
    while True:
        try:
            time.sleep(600)
        except BaseException as error:
            notes.note("swallowed", type(error).__name__)


def sort(library):
    """Minutes of work without a look at Python or at signals."""
    text = ctypes.create_string_buffer(b"a" * 2_000_000)
    library.qsort(text, ctypes.c_size_t(2_000_000), ctypes.c_size_t(1), library.strcmp)


def catastrophic():
    import re

    re.match("(a|a)*b", "a" * 60)


def program_of_its_own_group():
    with subprocess.Popen(SLEEP, preexec_fn=os.setpgrp) as program:
        notes.note("program", program.pid)
        sort(ctypes.PyDLL(None))


def grandchild():
    script = f"import subprocess; subprocess.run({SLEEP!r})"
    with subprocess.Popen([sys.executable, "-c", script]) as program:
        notes.note("program", program.pid)
        swallow()


def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
    swallow()


def read_a_socket():
    ours, _theirs = socket.socketpair()
    while True:
        try:
            ours.recv(1)
        except BaseException:
            notes.note("swallowed", "in recv")


BY_FORCE = {
    "swallow": swallow,
    "gil": lambda: sort(ctypes.PyDLL(None)),
    "native loop": lambda: sort(ctypes.CDLL(None)),
    "regular expression": catastrophic,
    "group": program_of_its_own_group,
    "grandchild": grandchild,
    "deaf": deaf,
    "socket": read_a_socket,
}


@localq.actor
def told(message, failure):
    notes.note("told", failure["type"])


@localq.actor(time_limit=300, time_limit_grace=1_000, max_retries=0, on_failure=told)
def by_force(how):
    notes.note("started", how, os.getpid())
    BY_FORCE[how]()


@localq.actor(time_limit=300, time_limit_grace=1_000, max_retries=2, min_backoff=1, max_backoff=1)
def better_next_time():
    if notes.count("tried") < 2:
        notes.note("tried")
        notes.note("try", os.getpid())
        sort(ctypes.PyDLL(None))
    return "at last"


@localq.actor(time_limit=2_000, time_limit_grace=1_000, max_retries=0)
def works_for(seconds):
    """Busy for so long, as it feels: a stop of the process is no work."""
    done, before = 0.0, time.monotonic()
    notes.note("works", os.getpid())
    while done < seconds:
        time.sleep(0.01)
        now = time.monotonic()
        done += min(now - before, 0.1)
        before = now
    return "done"
