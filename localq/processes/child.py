"""A worker process, from its first line to its last."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from ..broker import Broker
from ..errors import LocalqError
from ..logging import get_logger
from ..threading import install_signal_handler
from ..worker import Worker
from .application import (
    CONNECTION_ERROR,
    ApplicationError,
    describe_application,
    failure_of,
    load_application,
)
from .config import PoolConfig
from .forks import forks_of
from .launch import REAP, STOP, Pipes, die_with_parent
from .logs import set_up_logging

preloaded: Broker | None = None
"""The broker that the supervisor had before it forked, if the app was already there."""


def run_child(pipes: Pipes, config: PoolConfig) -> int:
    """Import the app, work until told to stop, leave; returns the exit status."""
    supervisor = pipes.parent
    # The control pipe tells of the supervisor's death too, but not to a thread that a task keeps
    # from running by holding the interpreter's lock.
    die_with_parent(supervisor)
    set_up_logging(config)
    try:
        broker = preloaded or load_application(config)
        forks = forks_of(broker, config) if config.keeps_house else []
        worker = _worker(broker, config, supervisor)
        # The supervisor must know where to write how this process ended before there is anything to
        # give back.
        worker.before_join = lambda path: pipes.tell(cells=path)
        _boot(broker, worker)
    except LocalqError as error:
        failure = failure_of(error)
        pipes.tell(**failure)
        return int(failure["code"])
    ears = _Ears(pipes, worker, config)
    ears.start()
    pipes.tell(ready=True, forks=forks)
    get_logger(__name__).info("Worker process is ready for action.")
    _work(worker)
    if worker.is_stranded:
        ears.leave()
    ears.join()
    with suppress(LocalqError):
        broker.close()
    return CONNECTION_ERROR if worker.is_stranded else 0


def _worker(broker: Broker, config: PoolConfig, supervisor: int) -> Worker:
    if not broker.store.shared:
        _warn_or_refuse(broker, config)
    if config.keeps_house:  # once a pool
        _say_what_it_serves(broker, config)
    return Worker(
        broker,
        queues=config.queues or None,
        worker_threads=config.threads,
        async_concurrency=config.async_concurrency,
        supervisor=supervisor,
        pool=str(supervisor),
        max_crashes=config.max_crashes,
        housekeeper=config.keeps_house,
    )


def _say_what_it_serves(broker: Broker, config: PoolConfig) -> None:
    """So that one who waits in vain sees why: another store, no actor, or a queue that nobody sends to."""
    location = broker.location
    get_logger(__name__).info(
        "Messages are in %s: %s.", broker.store.info().get("file", location.url), location.why
    )
    if not broker.actors:
        get_logger(__name__).warning(
            "No actor is declared by %s, so there is nothing to run: name the modules that declare some.",
            describe_application(config),
        )
        return
    declared = broker.get_declared_queues()
    for name in sorted(set(config.queues) - declared):
        get_logger(__name__).warning(
            "No actor here belongs to the queue %r, but to: %s.", name, ", ".join(map(repr, sorted(declared)))
        )


def _warn_or_refuse(broker: Broker, config: PoolConfig) -> None:
    alone = f"{broker.location.url!r} is a store of one process alone"
    if not broker.is_private:
        raise ApplicationError(
            f"{alone}, which worker processes cannot see; use sqlite:///jobs.db, or localq.Worker(broker) in the "
            "process that sends"
        )
    if config.keeps_house:  # once a pool
        get_logger(__name__).warning(
            "%s: the worker processes run what they send themselves, and nothing else.", alone
        )


def _boot(broker: Broker, worker: Worker) -> None:
    by_signal = worker.worker_threads == 1 and install_signal_handler()
    worker.interrupts_by_signal = by_signal
    broker.emit_after("process_boot")
    worker.boot()
    if worker.cells is not None:
        worker.cells.keep_stacks()


def _work(worker: Worker) -> None:
    """Run messages until the worker stops: a single thread of it is this very one, the main thread,
    so that an interrupt can end a blocking call of its task."""
    if worker.worker_threads == 1:
        thread = worker.workers[0]
        worker.broker.emit_after("worker_boot", worker)
        thread.run(by_signal=worker.interrupts_by_signal)
    else:
        for thread in worker.workers:
            thread.start()
        worker.broker.emit_after("worker_boot", worker)
        for thread in worker.workers:
            thread.ended.wait()


class _Ears(threading.Thread):
    """Hears orders: from the supervisor by the control pipe, from elsewhere by SIGTERM."""

    def __init__(self, pipes: Pipes, worker: Worker, config: PoolConfig) -> None:
        super().__init__(name="localq orders", daemon=True)
        self._control = pipes.control
        self._worker = worker
        self._timeout = config.shutdown_timeout
        self._signalled, self._wake = os.pipe()
        signal.signal(signal.SIGTERM, self._note_signal)
        # A terminal's Ctrl-C is for the supervisor. Not SIG_IGN: programs that a task starts would inherit it.
        signal.signal(signal.SIGINT, lambda signum, frame: None)

    def leave(self) -> None:
        """Hear an order to stop that nobody has given."""
        os.write(self._wake, STOP)

    def _note_signal(self, signum: int, frame: Any) -> None:
        self.leave()

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([self._control, self._signalled], [], [])
            for order in os.read(ready[0], 64) or b"\0":
                if order == REAP[0] and self._worker.timekeeper is not None:
                    self._worker.timekeeper.reap_now()
                elif order == STOP[0]:
                    return self._leave()
                elif order == 0:
                    self._end_with_supervisor()

    def _leave(self) -> None:
        worker = self._worker
        worker.stop(self._timeout)
        if not worker.has_ended:
            # What still runs was given back; its thread cannot be stopped, but its process can.
            get_logger(__name__).warning("Running messages were given back after %d ms.", self._timeout)
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # whatever the application has put there
                    stream.flush()
            os._exit(0)

    def _end_with_supervisor(self) -> None:
        get_logger(__name__).warning("The supervisor is gone; ending.")
        os._exit(1)  # its claims go back as soon as its lock is seen to be free
