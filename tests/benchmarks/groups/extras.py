"""What a user adds: a middleware around each message, and logging."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

from .. import actors, measures
from ..columns import OURS, PLAIN
from ..crew import crew
from ..run import Run

PROCESSES = 2
TRIES = 6
"""Drains a round of each of the two pools, by turns: what is looked for is small."""

VARIANTS = {
    "middleware": ("noop", {actors.MIDDLEWARE_VARIABLE: "1"}),
    "logged_line": ("say", {}),
    "logging_off": ("noop", {actors.FLAGS_VARIABLE: "--skip-logging"}),
}
"""By figure: the task, and the variables of the worker program. As it comes, that logs at INFO."""


def measure(run: Run) -> None:
    """Microseconds of a worker's time that each message takes longer than without it."""
    for figure, (task, environment) in VARIANTS.items():
        with ExitStack() as stack:
            without = _pool(run, stack, "noop", {})
            with_it = _pool(run, stack, task, environment)
            took: dict[Callable[[], float], list[float]] = {without: [], with_it: []}
            for number in range(TRIES):  # each goes first as often as the other
                for drain in (without, with_it) if number % 2 else (with_it, without):
                    took[drain].append(drain())
        plain, more = median(took[without]), median(took[with_it])
        run.samples.add(figure, PLAIN, plain)
        run.samples.add(figure, OURS, more - plain)


def _pool(run: Run, stack: ExitStack, task: str, environment: dict[str, str]) -> Callable[[], float]:
    """A pool on a file of its own; what comes back drains so many by it, and says what each took."""
    contender = stack.enter_context(run.ours(**environment))
    workers = stack.enter_context(crew(contender, processes=PROCESSES))
    arguments: list[tuple[()]] = [()] * run.size.messages

    def drain() -> float:
        return 1e6 * PROCESSES * measures.drain(contender, workers, task, arguments) / len(arguments)

    return drain
