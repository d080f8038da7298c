"""An actor that does next to nothing, but takes a moment, so that kills find it at work."""

from __future__ import annotations

import time

import notes

import localq


@localq.actor
def mark(number):
    time.sleep(0.001)
    notes.note("mark", number)
