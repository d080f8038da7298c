"""Notes, wherever code of the user's runs, which signals are blocked there."""

from __future__ import annotations

import signal

import notes

import localq

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
]


def note_mask(place):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    notes.note(place, *sorted(signal.Signals(number).name for number in blocked))


def fork_of_flag():
    note_mask("fork_of_flag")


def fork_of_middleware():
    note_mask("fork_of_middleware")


class Masks(localq.Middleware):
    @property
    def forks(self):
        return [fork_of_middleware]


for hook in HOOKS:
    setattr(Masks, hook, lambda self, *args, hook=hook, **kwargs: note_mask(hook))

localq.get_broker().add_middleware(Masks())


@localq.actor
def mask():
    note_mask("actor")


@localq.actor
async def async_mask():
    note_mask("async_actor")
