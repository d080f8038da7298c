"""Actors that end the process that runs them."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time

import notes
from tasks import add, hold, who  # noqa: F401  # declares them here too

import localq

if (notes.FOLDER / "block-imports").exists():
    notes.hold("import")


def recurse_in_c():
    """Until the stack of the process is full: a call a bracket."""
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(1_000), b"(" * 200_000, 1)


def take_all_memory():
    """More than the process may have, in a library that does not bear it."""
    resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
    while True:
        if not ctypes.CDLL(None).malloc(2**20):
            os.abort()


def end(how):
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    elif how == "leave":
        os._exit(0)
    elif how == "abort":
        os.abort()
    elif how == "recursion":
        recurse_in_c()
    elif how == "memory":
        take_all_memory()
    else:
        os.kill(os.getpid(), getattr(signal, how))


@localq.actor
def told(message, failure):
    notes.note("told", message["args"][0], failure["type"])


@localq.actor(on_failure=told)
def crash(how):
    notes.note("crashed", os.getpid())
    end(how)


@localq.actor
def crash_at(number, bad):
    """Short, so that it is run in bursts; one of them crashes."""
    notes.note("ran", number)
    if number == bad:
        end("SIGKILL")


@localq.actor
def hold_and_crash(name):
    notes.hold(name)
    end("SIGKILL")


@localq.actor
def crash_once(name):
    tries = notes.count(f"tried {name}")
    notes.note("tried", name)
    if not tries:
        end("SIGKILL")
    return tries


@localq.actor
def leave_a_program_running(name):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as program:
        notes.note("started", program.pid)
        notes.hold(name)


@localq.actor
def hold_the_interpreter():
    notes.note("holding", os.getpid())
    ctypes.PyDLL(None).sleep(600)  # a PyDLL keeps the interpreter's lock: no other thread runs


@localq.actor
def sleep(seconds):
    time.sleep(seconds)


@localq.actor(max_retries=0)
def take_memory_that_python_is_refused():
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**28, before[1]))
    try:
        return len([bytearray(2**20) for _ in range(2**20)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
