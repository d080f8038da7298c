"""One process of a pool, as its supervisor knows it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any

from ..cells import CRASHED, DOOMED, ORDERED
from ..clock import Deadline
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
    ordered: bool = False
    """Whether its end is on our order."""
    doomed: bool = False
    """Whether it was killed for a message that was to be ended."""
    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    """When it is killed."""

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
