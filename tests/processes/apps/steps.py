"""Steps of pipelines and groups, in processes that die around the end of one where a test wants it."""

from __future__ import annotations

import os
import signal
import time

import notes

import localq
from localq import Middleware


class Dying(Middleware):
    """Ends its process once before, or once after, the end of a message is written, if there is a file
    ``die-before-NAME`` or ``die-after-NAME``."""

    def before_ack(self, broker, message):
        self.die("before", message)

    def after_ack(self, broker, message):
        notes.note("written", message.args[0])
        self.die("after", message)

    def die(self, when, message):
        file = notes.FOLDER / f"die-{when}-{message.args[0]}"
        if file.exists():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


localq.get_broker().add_middleware(Dying())


@localq.actor
def step(name, *results):
    notes.note("ran", name)
    time.sleep(0.003)  # so that it is not run in bursts
    return name


@localq.actor(max_retries=0)
def fail(name, *results):
    notes.note("ran", name)
    time.sleep(0.003)
    raise ValueError(name)


@localq.actor
def done(name):
    notes.note("ran", name)


@localq.actor
def ended(name, failures):
    notes.note("ran", name, *sorted(failure["message"] for failure in failures))
