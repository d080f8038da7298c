"""What a user adds: a middleware around each message, and logging."""

from __future__ import annotations

from .. import actors, measures
from ..columns import OURS, PLAIN
from ..crew import crew
from ..run import Run

PROCESSES = 2

VARIANTS = {
    "middleware": ("noop", {actors.MIDDLEWARE_VARIABLE: "1"}),
    "logged_line": ("say", {}),
    "logging_off": ("noop", {actors.FLAGS_VARIABLE: "--skip-logging"}),
}
"""By figure: the task, and the variables of the worker program. As it comes, that logs at INFO."""


def measure(run: Run) -> None:
    """Microseconds of a worker's time that each message takes longer than without it."""
    plain = _microseconds(run, "noop", {})
    for figure, (task, environment) in VARIANTS.items():
        run.samples.add(figure, PLAIN, plain)
        run.samples.add(figure, OURS, _microseconds(run, task, environment) - plain)


def _microseconds(run: Run, task: str, environment: dict[str, str]) -> float:
    count = run.size.messages
    with run.ours(**environment) as contender, crew(contender, processes=PROCESSES) as workers:
        return 1e6 * PROCESSES * measures.drain(contender, workers, task, [()] * count) / count
