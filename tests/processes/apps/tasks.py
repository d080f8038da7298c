"""Actors of the global broker: everyday ones, and ones that a test controls."""

from __future__ import annotations

import os
import time

import notes

import localq


@localq.actor
def add(x, y):
    return x + y


@localq.actor
def mail(number):
    notes.note("mail", number)


mail_too = localq.actor(actor_name="mail_too", queue_name="mail")(mail.fn)
other = localq.actor(actor_name="other", queue_name="other")(mail.fn)


@localq.actor
def tell(*words):
    notes.note("told", *words)


@localq.actor
def nap(seconds, name):
    time.sleep(seconds)
    notes.note("napped", name)


@localq.actor
def hold(name):
    notes.hold(name)
    return name


@localq.actor
def who():
    return os.getpid()


@localq.actor
def when():
    return time.time_ns() // 1_000_000


@localq.actor(min_backoff=10, max_backoff=20)
def fail_until(name, tries):
    notes.note("tried", name)
    if notes.count(f"tried {name}") < tries:
        raise RuntimeError("not yet")
    return tries


@localq.actor(max_retries=0)
def fail(text):
    raise ValueError(text)


@localq.actor
def countdown(number):
    notes.note("counted", number)
    if number:
        countdown.send(number - 1)
