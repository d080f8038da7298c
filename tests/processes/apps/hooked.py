"""A middleware that notes each hook around a process, and raises in the one that the test names."""

from __future__ import annotations

import os

import notes
from tasks import *  # noqa: F403

import localq
from localq.middleware import SkipMessage

HOOKS = [
    "after_process_boot",
    "before_worker_boot",
    "after_worker_boot",
    "after_consumer_thread_boot",
    "after_worker_thread_boot",
    "before_process_message",
    "after_process_message",
    "before_ack",
    "after_ack",
    "before_worker_shutdown",
    "before_consumer_thread_shutdown",
    "before_worker_thread_shutdown",
    "after_worker_shutdown",
]
ERRORS = {"RuntimeError": RuntimeError, "SkipMessage": SkipMessage, "SystemExit": SystemExit}


def call(hook):
    notes.note("hook", hook, os.getpid())
    if hook == os.environ.get("HOOK"):
        raise ERRORS[os.environ["ERROR"]]("of the hook")


class Hooked(localq.Middleware):
    pass


for hook in HOOKS:
    setattr(Hooked, hook, lambda self, *args, hook=hook, **kwargs: call(hook))

localq.get_broker().add_middleware(Hooked())
