"""One process of a pool, as its supervisor knows it."""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..cells import CRASHED, DOOMED, ORDERED, Running, read_running
from ..clock import Deadline, clock
from .launch import Launched


@dataclass(slots=True)
class WorkerProcess:
    """One process of the pool, in the place numbered `slot`: a worker, or a fork function's."""

    slot: int
    process: Launched
    born_at: float
    fork: str = ""
    """The function that it runs, if it is no worker."""
    cells: str = ""
    ready_at: float | None = None
    failure: dict[str, Any] | None = None
    """Why it could not start, in its own words."""
    has_run: bool = False
    """Whether it had run any message, as seen at its end."""
    stack: str = ""
    """Where its threads were when it crashed, as seen at its end."""
    ordered: bool = False
    """Whether its end is on our order."""
    overdue: Running | None = None
    """What was to be ended by force when it was last looked at."""
    doomed: bool = False
    """Whether it was killed for a message that was to be ended."""
    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    """When it is killed."""
    naps: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=100))
    """From when to when it was stopped, in monotonic milliseconds."""
    stopped_at: float | None = None

    def note_stop(self, stopped: bool) -> None:
        """It was stopped, or continued, just now."""
        now = clock.monotonic()
        if stopped:
            self.stopped_at = now if self.stopped_at is None else self.stopped_at
        elif self.stopped_at is not None:
            self.naps.append((self.stopped_at, now))
            self.stopped_at = None

    def asleep_since(self, moment: float) -> float:
        """For how many milliseconds since then it was stopped."""
        now = clock.monotonic()
        naps = [*self.naps, (now if self.stopped_at is None else self.stopped_at, now)]
        return sum(end - begin for begin, end in naps if end > moment)

    def next_to_be_ended(self) -> tuple[float, Running | None]:
        """The message in it that is to be ended by force first, and in how many milliseconds; infinite
        if there is none."""
        now, least, first = clock.monotonic(), float("inf"), None
        for running in read_running(self.cells) if self.cells and not self.doomed else ():
            left = running.time_left(now, self.asleep_since(running.since))
            if left < least:
                least, first = left, running
        return least, first

    @property
    def how_it_ended(self) -> int:
        """By itself, on our order, or for a message that was doomed, as `cells` has it."""
        if self.doomed:
            return DOOMED
        return ORDERED if self.ordered else CRASHED


def described(code: int) -> str:
    """A return code as `subprocess` has it, for people.

    >>> described(-9)
    'signal 9 (SIGKILL)'
    """
    if code >= 0:
        return f"status {code}"
    names: Any = signal.Signals.__members__.items()
    return next((f"signal {-code} ({name})" for name, number in names if number == -code), f"signal {-code}")
