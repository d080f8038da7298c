"""The same calls with nothing around them: what so many slots can do at best."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import tasks
from .forks import context, in_processes


def seconds(task: str, arguments: Sequence[tuple[Any, ...]], *, processes: int = 2, threads: int = 1) -> float:
    """How long they take on bare threads of bare processes, each of which takes the next call when it is free.

    Measured, not reckoned: a sleep of a millisecond takes longer than that, and a core does other things too.
    """
    function = {each.__name__: each for each in tasks.ALL}[task]
    following = context.Value("q", 0)
    return in_processes([lambda: partial(_work, function, arguments, following, threads)] * processes).seconds


def _work(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], following: Any, threads: int) -> None:
    workers = [threading.Thread(target=_call, args=(function, arguments, following)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _call(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], following: Any) -> None:
    while True:
        with following:
            place = following.value
            following.value = place + 1
        if place >= len(arguments):
            return
        function(*arguments[place])
