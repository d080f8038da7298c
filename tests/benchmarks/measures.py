"""What is measured of a contender, one function a question. All but the first two need its workers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from . import procfs
from .contender import Contender
from .crew import Crew
from .spread import Spread, gaps, spread_of

SETTLE = 1.0
"""Seconds after which a pool with nothing to do counts as idle."""
RESULT_TIMEOUT = 30_000


def enqueue_each(contender: Contender, count: int) -> float:
    """Messages a second: `send`, again and again, with no workers."""
    send = contender.noop.send
    begin = time.monotonic()
    for _ in range(count):
        send()
    return count / (time.monotonic() - begin)


def enqueue_bulk(contender: Contender, count: int) -> float | None:
    """Messages a second: all in one call, with no workers."""
    if contender.send_bulk is None:
        return None
    begin = time.monotonic()
    contender.send_bulk(count)
    return count / (time.monotonic() - begin)


def drain(contender: Contender, crew: Crew, count: int) -> float:
    """Messages a second: they pile up while the workers are held, which then run them all."""
    if contender.send_bulk is not None:
        contender.send_bulk(count)
    else:
        for _ in range(count):
            contender.noop.send()
    mark = crew.send_mark()
    begin = time.monotonic()
    crew.release()
    crew.wait_for(mark)
    return count / (time.monotonic() - begin)


def together(contender: Contender, crew: Crew, count: int) -> float:
    """Messages a second: sent one by one while the workers run them; until the last has run."""
    send = contender.noop.send
    begin = time.monotonic()
    for _ in range(count):
        send()
    crew.wait_for(crew.send_mark())
    return count / (time.monotonic() - begin)


def pick_up(contender: Contender, count: int) -> Spread:
    """From the call of `send` to the first line of the actor, while the workers sleep."""
    pauses = gaps()
    sent = []
    for _ in range(count):
        time.sleep(next(pauses))
        begin = time.monotonic_ns()
        sent.append((begin, contender.stamp.send()))
    # Their results are asked for afterwards, so that nobody but the workers is awake meanwhile.
    started = [message.get_result(block=True, timeout=RESULT_TIMEOUT) for _, message in sent]
    return spread_of([started[place] - begin for place, (begin, _) in enumerate(sent)])


def round_trip(contender: Contender, count: int) -> Spread:
    """From the call of `send` to the return of a blocking `get_result`."""
    times = []
    for _ in range(count):
        begin = time.monotonic_ns()
        contender.noop.send().get_result(block=True, timeout=RESULT_TIMEOUT)
        times.append(time.monotonic_ns() - begin)
    return spread_of(times)


@dataclass(slots=True)
class Idleness:
    """What a pool with nothing to do takes: percent of one core, wake-ups a second, megabytes."""

    cpu: float
    wake_ups: float
    memory: float


def idle(crew: Crew, seconds: float) -> Idleness:
    """Look at the processes for so many seconds in which nothing is sent."""
    time.sleep(SETTLE)
    pids = crew.pids
    begin, cpu, wake_ups = time.monotonic(), procfs.cpu_seconds(pids), procfs.wake_ups(pids)
    time.sleep(seconds)
    length = time.monotonic() - begin
    return Idleness(
        100 * (procfs.cpu_seconds(pids) - cpu) / length,
        (procfs.wake_ups(pids) - wake_ups) / length,
        procfs.megabytes(pids),
    )
