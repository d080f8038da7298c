"""Actors that end the process that runs them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import notes
from tasks import add, hold, who  # noqa: F401  # declares them here too

import localq

if (notes.FOLDER / "block-imports").exists():
    notes.hold("import")


def end(how):
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    elif how == "leave":
        os._exit(0)
    elif how == "abort":
        os.abort()
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
