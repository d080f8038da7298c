"""Actors whose messages are counted for Prometheus."""

from __future__ import annotations

import os

import notes

import localq
from localq.middleware.prometheus import Prometheus

localq.get_broker().add_middleware(Prometheus())


@localq.actor
def add(x, y):
    return x + y


@localq.actor(max_retries=2, min_backoff=1, max_backoff=1)
def fail():
    raise RuntimeError("out of milk")


@localq.actor(max_age=1)
def skipped():
    raise AssertionError("it is too old to run")


@localq.actor(queue_name="aside")
def hold(name):
    notes.hold(name)


@localq.actor
def who():
    return os.getpid()
