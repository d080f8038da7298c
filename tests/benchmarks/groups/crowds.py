"""Many worker processes, and many senders."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import actors, measures, raw_loop
from ..columns import FOUR, OURS, RAW
from ..contender import Contender
from ..crew import Crew, crew
from ..forks import in_processes
from ..run import Run
from ..spread import spread_of

BASE = 4
"""Processes by whose throughput that of others is divided."""


def measure(run: Run) -> None:
    """localq with many; then the drain of the others."""
    for processes in sorted({*run.size.processes, BASE}):
        with run.ours() as contender, crew(contender, processes=processes) as workers:
            _drain(run, contender, workers, processes)
            for senders in run.size.senders:
                _send_from_many(run, contender, workers, processes, senders)
    for processes in sorted({*run.size.processes, *run.size.peer_processes}):
        run.samples.add(_drain_at(processes), RAW, raw_loop.drain(run.size.messages, processes=processes))
    for processes in run.size.peer_processes:
        _drain_of_all(run, processes)
    _divide_by_four(run)


def _drain_of_all(run: Run, processes: int) -> None:
    def drain(contender: Contender) -> None:
        if contender.name == OURS and processes in {*run.size.processes, BASE}:
            return  # measured already
        with crew(contender, processes=processes, threads=contender.threads) as workers:
            _drain(run, contender, workers, processes)

    run.in_turns(drain)


def _drain(run: Run, contender: Contender, workers: Crew, processes: int) -> None:
    rate = measures.drain_noops(contender, workers, run.messages(contender))
    run.samples.add(_drain_at(processes), contender.name, rate)


def _send_from_many(run: Run, contender: Contender, workers: Crew, processes: int, senders: int) -> None:
    workers.release()
    each = max(1, run.size.messages // senders)
    sending = in_processes([partial(_sender, contender.environment[actors.URL_VARIABLE], each)] * senders)
    contender.sent += (each + 1) * senders
    workers.wait_for(workers.send_mark())
    rate = each * senders / (time.monotonic() - sending.begin)
    run.samples.add(_together_at(senders, processes), OURS, rate)
    times = [each for values in sending.values for each in values]
    run.samples.add(f"send_p99_{senders}_{processes}", OURS, spread_of(times).p99)


def _sender(url: str, count: int) -> Callable[[], list[int]]:
    """Connect, and have sent once; what comes back returns what each `send` took, in nanoseconds."""
    _, functions = actors.declare(url)
    functions["noop"].send()
    return partial(_send_and_time, functions["noop"].send, count)


def _send_and_time(send: Callable[[], Any], count: int) -> list[int]:
    times = []
    for _ in range(count):
        begin = time.monotonic_ns()
        send()
        times.append(time.monotonic_ns() - begin)
    return times


def _divide_by_four(run: Run) -> None:
    """Note what four processes did in this round beside what the others did."""
    taken = run.samples.taken
    for processes in run.size.processes:
        for figure in (_drain_at, *(partial(_together_at, senders) for senders in run.size.senders)):
            run.samples.add(figure(processes), FOUR, taken[figure(BASE)][OURS][-1])


def _drain_at(processes: int) -> str:
    return f"drain_at_{processes}"


def _together_at(senders: int, processes: int) -> str:
    return f"together_{senders}_{processes}"
