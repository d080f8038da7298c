"""Fork functions of all kinds, and a broker with a middleware that has one."""

from __future__ import annotations

import os
import signal
import threading
import time

import notes

import localq


def serve():
    """Run until told to leave, and say so."""
    notes.note("serves", os.getpid(), os.getsid(0), len(localq.get_broker().store.workers()))
    try:
        notes.hold("serve", seconds=300)
    finally:
        notes.note("leaves", os.getpid())


def serve_too():
    notes.note("serves_too", os.getpid())
    notes.hold("serve", seconds=300)


def end():
    notes.note("ends", os.getpid())


def fail():
    notes.note("fails", os.getpid())
    raise OSError("no such luck")


def leave():
    notes.note("fails", os.getpid())
    return 7


def refuse_to_leave():
    signal.signal(signal.SIGTERM, lambda signum, frame: notes.note("refuses", os.getpid()))
    notes.note("serves", os.getpid())
    while True:
        time.sleep(0.01)


def leave_slowly():
    notes.note("serves", os.getpid())
    try:
        notes.hold("serve", seconds=300)
    finally:
        notes.hold("leaving")
        notes.note("left", os.getpid())


def start_a_thread():
    threading.Thread(target=serve).start()


class Holder:
    @staticmethod
    def serve():
        serve()

    def method(self):
        pass


number = 42


class Beside(localq.Middleware):
    """Has the forks that the environment names."""

    @property
    def forks(self):
        names = os.environ.get("FORKS", "").split()
        if "raise" in names:
            raise OSError("no forks today")
        kinds = {"method": Holder().method, "lambda": lambda: None, "Holder.serve": Holder.serve}
        return [kinds.get(name) or globals()[name] for name in names]


localq.get_broker().add_middleware(Beside())


@localq.actor
def who():
    return os.getpid()
