"""Actors that are aborted, on the default broker, beside those of `limits` and `tasks`."""

from __future__ import annotations

import asyncio
import random
import re
import time

import notes
from limits import block, count

import localq


@localq.actor
def block_for_ever(how):
    notes.note("begun", how)
    try:
        block(how)
    except localq.Abort:
        notes.note("aborted", how)
        raise


@localq.actor
def heed_nothing(how):
    notes.note("begun", how)
    if how == "a call into C":
        re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock for years
    while True:
        try:
            time.sleep(600)
        except BaseException:
            notes.note("caught", how)


@localq.actor
async def sleep_for_ever():
    notes.note("begun", "coroutine")
    try:
        await asyncio.sleep(600)
    finally:
        notes.note("aborted", "coroutine")


@localq.actor
def polite():
    notes.note("begun", "polite")
    while localq.abort_requested() is None:
        time.sleep(0.001)
    return "ended by itself"


@localq.actor
def send_without_end():
    notes.note("begun", "sending")
    number = 0
    while True:
        number += 1
        count.send(number)


@localq.actor
def victim(number):
    try:
        notes.note("victim", number)
        for _ in range(random.randrange(20_000)):
            pass
    except localq.Abort:
        notes.note("hit", number)
        raise


@localq.actor
def bystander(number):
    try:
        for _ in range(2000):
            pass
        notes.note("bystander", number)
    except localq.Abort:
        notes.note("wrong", number)
        raise


@localq.actor
def echo(value):
    notes.note("echoed", value)
    return value
