"""Scripts with a pool inside, as text: actors in the script itself, a guard, and what a test adds."""

from __future__ import annotations

import textwrap

from .support import Lab, Program

BEGINNING = """
import os, sys, time
import localq
import notes

METHOD = os.environ["LAB_START_METHOD"]
"""

ACTORS = (
    BEGINNING
    + """
@localq.actor
def double(x):
    return 2 * x

@localq.actor
def who():
    return os.getpid()

@localq.actor
def hold(name):
    notes.hold(name)
    return name

@localq.actor(queue_name="aside")
def aside():
    notes.note("aside")
"""
)


def run(lab: Lab, text: str, *, code: int = 0, beginning: str = ACTORS) -> Program:
    """Run a script of those actors and this text under a guard; nothing of it must be left."""
    script = lab.start_script(guarded(text, beginning))
    assert script.wait(60) == code, script.log()
    lab.wait_until_empty()
    return script


def guarded(text: str, beginning: str = ACTORS) -> str:
    body = textwrap.indent(textwrap.dedent(text).strip("\n"), "    ")
    return f"{beginning}\nif __name__ == '__main__':\n{body}\n"
