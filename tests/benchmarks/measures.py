"""What several groups measure of a contender, one function a question."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import procfs
from .contender import Contender
from .crew import Crew
from .spread import gaps

SETTLE = 1.0
"""Seconds after which a pool with nothing to do counts as idle."""


def enqueue_each(contender: Contender, count: int) -> float:
    """Messages a second: one by one, with no workers."""
    begin = time.monotonic()
    contender.send_each("noop", [()] * count)
    return count / (time.monotonic() - begin)


def enqueue_bulk(contender: Contender, count: int) -> float | None:
    """Messages a second: all in one call, with no workers."""
    if contender.send_bulk is None:
        return None
    begin = time.monotonic()
    contender.send_noops(count)
    return count / (time.monotonic() - begin)


def drain_noops(contender: Contender, crew: Crew, count: int) -> float:
    """Messages a second: they pile up while the workers are held, which then run them all."""
    crew.hold()
    contender.send_noops(count)
    return count / release(crew)


def drain(contender: Contender, crew: Crew, task: str, arguments: Sequence[tuple[Any, ...]]) -> float:
    """Seconds that the workers need for messages that piled up while they were held."""
    crew.hold()
    contender.send_each(task, arguments)
    return release(crew)


def release(crew: Crew) -> float:
    """Seconds that the workers need, from now on, for all that was sent while they were held."""
    mark = crew.send_mark()
    begin = time.monotonic()
    crew.release()
    crew.wait_for(mark)
    return time.monotonic() - begin


def together(contender: Contender, crew: Crew, count: int) -> float:
    """Messages a second: sent one by one while the workers run them; until the last has run."""
    crew.release()
    begin = time.monotonic()
    contender.send_each("noop", [()] * count)
    crew.wait_for(crew.send_mark())
    return count / (time.monotonic() - begin)


def pick_up(contender: Contender, count: int) -> list[int]:
    """Nanoseconds from the call of `send` to the first line of the actor, while the workers sleep."""
    pauses = gaps()
    sent = []
    for _ in range(count):
        time.sleep(next(pauses))
        begin = time.monotonic_ns()
        sent.append((begin, contender.send_one("stamp")))
    # Their results are asked for afterwards, so that nobody but the workers is awake meanwhile.
    started = [contender.result(message) for _, message in sent]
    return [started[place] - begin for place, (begin, _) in enumerate(sent)]


def round_trip(contender: Contender, count: int) -> list[int]:
    """Nanoseconds from the call of `send` to the return of a blocking `get_result`."""
    times = []
    for _ in range(count):
        begin = time.monotonic_ns()
        contender.result(contender.send_one("noop"))
        times.append(time.monotonic_ns() - begin)
    return times


@dataclass(slots=True)
class Idleness:
    """What a pool with nothing to do takes: percent of one core, wake-ups a second, megabytes.

    The servers that it needs count, but not their memory.
    """

    cpu: float
    wake_ups: float
    memory: float


def idle(contender: Contender, crew: Crew, seconds: float) -> Idleness:
    """Look at the processes for so many seconds in which nothing is sent."""
    time.sleep(SETTLE)
    pids = [*crew.pids, *contender.servers]
    begin, cpu, wake_ups = time.monotonic(), procfs.cpu_seconds(pids), procfs.wake_ups(pids)
    time.sleep(seconds)
    length = time.monotonic() - begin
    return Idleness(
        100 * (procfs.cpu_seconds(pids) - cpu) / length,
        (procfs.wake_ups(pids) - wake_ups) / length,
        procfs.megabytes(crew.pids),
    )
