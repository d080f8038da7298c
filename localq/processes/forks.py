"""Fork functions: what a pool runs beside its workers, each in a process of its own.

They are named on the command line, or by the `forks` of middleware. Each is known by its
path, ``module:function``, so that a fresh process can find it and so that it is imported
anew when the workers are.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from ..broker import Broker
from ..errors import LocalqError
from ..logging import get_logger
from .application import ApplicationError, failure_of, find_object, importing
from .config import PoolConfig
from .launch import Pipes, die_with_parent
from .logs import set_up_logging


def forks_of(broker: Broker, config: PoolConfig) -> list[str]:
    """The paths of all fork functions of a pool: its own first, then those of the broker's middleware.

    Raises:
      ApplicationError: one of them cannot be found by its path.
    """
    for path in config.fork_functions:
        _find(path, config)
    return [*config.fork_functions, *(_path_of(fork) for fork in _forks_of_middleware(broker))]


def _forks_of_middleware(broker: Broker) -> list[Callable[[], Any]]:
    forks: list[Callable[[], Any]] = []
    for middleware in broker.middleware:
        try:
            forks += getattr(middleware, "forks", ())
        except Exception:
            get_logger(__name__).critical("Unexpected failure in forks of %r.", middleware, exc_info=True)
    return forks


def _path_of(fork: Callable[[], Any]) -> str:
    path = f"{getattr(fork, '__module__', '')}:{getattr(fork, '__qualname__', '')}"
    try:
        found = find_object(path)
    except Exception:
        found = None
    if found != fork:
        raise ApplicationError(
            f"the fork {fork!r} of a middleware cannot be found by a process of its own; make it a function "
            "at the top level of a module"
        )
    return path


def _find(path: str, config: PoolConfig) -> Callable[[], Any]:
    with importing(config, f"the fork function {path!r}"):
        function = find_object(path)
    if not callable(function):
        raise ApplicationError(f"the fork function {path!r} cannot be called: it is {function!r}")
    return function  # type: ignore[no-any-return]


def run_fork(pipes: Pipes, config: PoolConfig) -> int:
    """In the new process: call the function that the config names; what it returns is the exit status."""
    if not die_with_parent(pipes.parent):
        threading.Thread(target=_end_with_supervisor, args=(pipes.control,), daemon=True).start()
    set_up_logging(config)
    try:
        function = _find(config.fork, config)
    except LocalqError as error:
        failure = failure_of(error)
        pipes.tell(**failure)
        return int(failure["code"])
    signal.signal(signal.SIGTERM, _leave)
    pipes.tell(ready=True)
    get_logger(__name__).info("Fork process %r is ready for action.", config.fork)
    status = _run(function, config.fork)
    _wait_for_threads()
    return status


def _end_with_supervisor(control: int) -> None:
    while os.read(control, 64):
        pass
    os._exit(1)


def _leave(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_DFL)  # a second one ends it
    raise SystemExit(0)


def _wait_for_threads() -> None:
    """Those that the function has started go on, as they would at the end of a program."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def _run(function: Callable[[], Any], path: str) -> int:
    try:
        status = function()
    except SystemExit as end:
        status = end.code
    except BaseException:
        get_logger(__name__).critical("Fork process %r failed.", path, exc_info=True)
        return 1
    if status is None or isinstance(status, int):
        return int(status or 0)
    get_logger(__name__).error("Fork process %r ended: %s", path, status)
    return 1
