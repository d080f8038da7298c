"""Messages with something large in them: sent, and then run."""

from __future__ import annotations

import os
import time

from .. import measures, raw_loop
from ..columns import OURS, RAW
from ..crew import crew
from ..run import Run

LARGE = 1_000_000
"""Bytes from which on the bare loop claims one message at a time: it holds what it has claimed in memory."""


def measure(run: Run) -> None:
    """The bare loop, which writes and reads the same bytes, and localq; in milliseconds a message."""
    for size, count in run.size.payloads:
        data, figure = os.urandom(size), f"payload_{size}"
        burst = 1 if size >= LARGE else raw_loop.BURST
        run.samples.add(figure, RAW, 1000 / raw_loop.carry(data, count, burst=burst))
        with run.ours() as contender, crew(contender) as workers:
            workers.hold()
            begin = time.monotonic()
            contender.send_each("swallow", [(data,)] * count)
            sending = time.monotonic() - begin
            running = measures.release(workers)
        run.samples.add(figure, OURS, 1000 * (sending + running) / count)
