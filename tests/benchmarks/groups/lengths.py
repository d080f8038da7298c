"""Tasks that take some time: is each slot busy while work waits?"""

from __future__ import annotations

import random
from typing import Any

from .. import bare_calls, measures
from ..columns import IDEAL
from ..contender import Contender
from ..crew import Crew, crew
from ..run import Run

Plan = dict[str, tuple[str, list[tuple[Any, ...]]]]
"""By figure: the task, and with what it is called."""

LENGTHS = (1, 10, 100)
"""Milliseconds."""
LONGEST_OF_A_MIX = 20
THREADS = 8


def measure(run: Run) -> None:
    """With two processes of one thread, all contenders; with one process of several threads, localq."""
    plan = _plan(run.size.work, 2)
    for figure, (task, arguments) in plan.items():
        run.samples.add(figure, IDEAL, len(arguments) / bare_calls.seconds(task, arguments))

    def work(contender: Contender) -> None:
        contender.environment.update(contender.for_long_tasks)
        with crew(contender) as workers:
            _work_through(run, contender, workers, plan)

    run.in_turns(work)
    _measure_threads(run)


def _measure_threads(run: Run) -> None:
    # Sleeping alone: Python computes on one thread at a time.
    plan = {f"threads_{length}": ("rest", _calls(length, run.size.work, THREADS)) for length in LENGTHS}
    for figure, (task, arguments) in plan.items():
        seconds = bare_calls.seconds(task, arguments, processes=1, threads=THREADS)
        run.samples.add(figure, IDEAL, len(arguments) / seconds)
    with run.ours() as contender, crew(contender, processes=1, threads=THREADS) as workers:
        _work_through(run, contender, workers, plan)


def _work_through(run: Run, contender: Contender, workers: Crew, plan: Plan) -> None:
    for figure, (task, arguments) in plan.items():
        seconds = measures.drain(contender, workers, task, arguments)
        run.samples.add(figure, contender.name, len(arguments) / seconds)


def _plan(seconds: float, slots: int) -> Plan:
    chance = random.Random(7)
    mix = [(chance.uniform(0, LONGEST_OF_A_MIX),) for _ in _calls(LONGEST_OF_A_MIX / 2, seconds, slots)]
    plan: Plan = {
        f"{task}_{length}": (task, _calls(length, seconds, slots))
        for task in ("rest", "compute")
        for length in LENGTHS
    }
    return plan | {"mix": ("rest", mix)}


def _calls(length: float, seconds: float, slots: int) -> list[tuple[Any, ...]]:
    """So many that all slots have work for so long, and each the same number."""
    return [(length,)] * (slots * max(1, round(1000 * seconds / length)))
