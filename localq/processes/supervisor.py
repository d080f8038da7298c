"""The supervisor: starts worker processes, replaces those that die, stops them all.

When the workers are ready it starts the pool's fork functions too (`forks`).
It opens no store and starts no thread, since it forks again whenever it
replaces a process. It sleeps until a signal, a report or an order comes.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..cells import Running, doom, has_run, read_stack, write_end
from ..clock import Deadline, clock
from ..errors import LocalqError
from ..logging import get_logger
from . import child
from .application import failure_of, load_application
from .config import PoolConfig
from .forks import run_fork
from .launch import OUR_SIGNALS, REAP, STOP, Pipes, keep_from_children, launch
from .logs import set_up_logging
from .series import Series, does_well
from .watch import Watcher
from .worker_process import WorkerProcess, described

KILLED = 1

LOOK_FOR_OVERDUE = 1_500
"""Milliseconds between two looks for messages that are to be ended by ending their process."""
LATE = 1_000
"""Milliseconds by which a look is too late for anything but a stop of this process."""
STACK_TIME = 100
"""Milliseconds that a process has to write where its threads are, before it is killed."""
GRACE = 3_000
"""Milliseconds that a process gets beyond its own deadline to leave, before it is killed."""


class Supervisor:
    """Runs a pool until it is told to stop, or cannot start.

    Parameters:
      config: how.
      pipes: to the program that the pool is part of, if it is; the pool ends when that does.
    """

    def __init__(self, config: PoolConfig, pipes: Pipes | None = None) -> None:
        self.logger = get_logger(__name__, type(self))
        self.config = config
        self.status = 0
        self.runs_anew = False
        """Whether what has stopped it is a reload, for which ``config.rerun`` is to be run."""
        self._pipes = pipes
        self._workers: dict[int, WorkerProcess] = {}
        self._due: dict[int, Deadline] = {}
        self._series = Series(config.processes or 1)
        self._has_started = False
        self._stopping = False
        self._deadline = Deadline(None)
        self._watcher: Watcher | None = None
        self._next_look = Deadline(LOOK_FOR_OVERDUE)
        self._forks: list[str] = []
        self._knows_all_forks = self._forks_may_start = False
        self._await_forks()
        # Poll, not epoll: a forked child that closes its copy of a descriptor takes nothing from us.
        self._selector = selectors.PollSelector()

    def run(self) -> int:
        """Keep the pool running; returns the exit status."""
        self._listen()
        if self.config.watch:
            self._watcher = Watcher(self.config.watch, self.config.watch_include, self.config.watch_exclude)
        if self.config.preload and child.preloaded is None and not self._preload():
            return self.status
        for slot in range(0 if self._stopping else self.config.processes or 1):  # or the host is gone already
            self._start(slot)
        while self._workers or self._due:
            self._wait_for_news()
            self._note_stops()
            self._bury_the_dead()
            self._start_what_is_due()
            self._kill_what_is_late()
            self._end_what_is_overdue()
            self._look_at_the_sources()
        self.logger.info("The pool has stopped.")
        return self.status

    # -- hearing

    def _listen(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        keep_from_children(ours.fileno(), theirs.fileno())
        self._signals, self._signals_in = ours, theirs
        for number in OUR_SIGNALS:
            signal.signal(number, lambda signum, frame: None)  # the wake-up descriptor records them
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)  # whoever started us may have blocked them
        self._selector.register(ours, selectors.EVENT_READ, self._hear_signals)
        if self._pipes is not None:
            self._selector.register(self._pipes.control, selectors.EVENT_READ, self._hear_host)
            self._watch_host(self._pipes.parent)

    def _watch_host(self, pid: int) -> None:
        # Somebody whom the host forked may keep the other end of our pipe open after its death.
        if hasattr(os, "pidfd_open"):
            try:
                host = os.pidfd_open(pid)
            except ProcessLookupError:
                self._host_is_gone()
            except OSError:
                pass
            else:
                keep_from_children(host)
                self._selector.register(host, selectors.EVENT_READ, self._host_is_gone)

    def _wait_for_news(self) -> None:
        deadlines = [self._deadline, self._forks_due, self._next_look, *self._due.values()]
        deadlines += [worker.deadline for worker in self._workers.values()]
        if self._watcher is not None:
            deadlines.append(self._watcher.due)
        left = [millis for millis in (deadline.left() for deadline in deadlines) if millis is not None]
        longest, began = min(left), clock.monotonic()
        news = self._selector.select(longest / 1000)
        if (now := clock.monotonic()) - began > longest + LATE:
            # This process was stopped, and so perhaps were all of the pool.
            for worker in self._workers.values():
                if worker.stopped_at is None:
                    worker.naps.append((began, now))
        for key, _ in news:
            key.data()

    def _note_stops(self) -> None:
        for worker in self._workers.values():
            for stopped in worker.process.stops():
                worker.note_stop(stopped)

    def _hear_signals(self) -> None:
        with suppress(BlockingIOError):
            for number in self._signals.recv(256):
                if number in (signal.SIGINT, signal.SIGTERM):
                    self._stop_or_kill(signal.Signals(number).name)
                elif number == signal.SIGHUP:
                    self._reload()

    def _hear_host(self) -> None:
        assert self._pipes is not None
        for order in os.read(self._pipes.control, 64) or b"\0":
            if order == STOP[0]:
                self._stop_or_kill("an order to stop")
            elif order == 0:
                self._host_is_gone()

    def _host_is_gone(self) -> None:
        for key in list(self._selector.get_map().values()):
            if key.data in (self._host_is_gone, self._hear_host):
                self._selector.unregister(key.fileobj)
        if not self._stopping:
            self.logger.warning("The program that started this pool is gone; stopping.")
        self._stop()
        self._deadline = Deadline(self.config.host_timeout)

    # -- starting and replacing

    def _preload(self) -> bool:
        set_up_logging(self.config)
        try:
            child.preloaded = load_application(self.config)
        except LocalqError as error:
            self._give_up(failure_of(error))
            return False
        child.preloaded.close()  # the supervisor has no use for the store
        return True

    def _start(self, slot: int) -> None:
        # The housekeeper is the first one: its place is never empty for long.
        config = replace(self.config, keeps_house=slot == 0, fork=self._fork_of(slot))
        process = launch(run_fork if config.fork else child.run_child, config, config.start_method)
        worker = WorkerProcess(slot, process, clock.monotonic(), config.fork)
        self._workers[slot] = worker
        self._selector.register(process.report, selectors.EVENT_READ, lambda: self._hear_worker(worker))

    def _hear_worker(self, worker: WorkerProcess) -> None:
        reports = worker.process.read_reports()
        if reports is None:
            with suppress(KeyError):
                self._selector.unregister(worker.process.report)
            return
        for report in reports:
            if "cells" in report:
                worker.cells = report["cells"]
            elif report.get("ready"):
                worker.ready_at = clock.monotonic()
                if not worker.ordered:  # else it has booted with what was there before
                    self._note_ready(report.get("forks") or [])
            elif "failed" in report:
                worker.failure = report

    def _note_ready(self, forks: list[str]) -> None:
        if self._stopping:
            return
        if forks and not self._knows_all_forks:
            self._knows_all_forks = True
            self._forks = forks
        workers = [worker for worker in self._workers.values() if not worker.fork]
        if all(worker.ready_at is not None and not worker.ordered for worker in workers):
            self._note_start(len(workers))
            self._forks_may_start = self._forks_may_start or len(workers) == self.config.processes
        self._start_forks()

    def _note_start(self, count: int) -> None:
        if not self._has_started:
            self._has_started = True
            self.logger.info("A pool of %d worker processes is up.", count)
            if self._pipes is not None:
                self._pipes.tell(ready=True)

    def _bury_the_dead(self) -> None:
        for worker in list(self._workers.values()):
            code = worker.process.ended()
            if code is None:
                continue
            self._hear_worker(worker)  # its last words may still be in the pipe
            with suppress(KeyError):
                self._selector.unregister(worker.process.report)
            worker.process.close()
            del self._workers[worker.slot]
            if worker.cells:
                worker.has_run, worker.stack = has_run(worker.cells), read_stack(worker.cells)
                write_end(worker.cells, worker.how_it_ended, code)
            if not worker.fork:
                for other in self._workers.values():
                    if not other.fork:
                        other.process.order(REAP)
            if not self._stopping and self._is_missed(worker, code):
                self._replace(worker, code)

    def _replace(self, worker: WorkerProcess, code: int) -> None:
        if worker.failure and not self._has_started:
            self._give_up(worker.failure)
            return
        wait = 0 if worker.ordered else self._series.backoff_after(worker)
        self._due[worker.slot] = Deadline(wait)
        if worker.ordered:
            return
        crash = {"failed": f"ended with {described(code)}", "traceback": worker.stack, "code": KILLED}
        how = worker.failure or crash
        why = f"could not start ({how['failed']})" if worker.failure else how["failed"]
        if self._series.is_hopeless and not self._may_become_better():
            count = self._series.deaths
            why = f"its processes died {count} times in a row before they ran a message; the last one {why}"
            self._give_up({**how, "failed": f"{why}. Nothing is lost: what was sent waits for the next pool"})
            return
        what = f"Fork process {worker.fork!r}" if worker.fork else "Worker process"
        when = f"in {wait / 1000:g} s" if wait else "now"
        stack = f"\n{worker.stack}" if worker.stack else ""
        self.logger.error("%s %d %s; replacing it %s.%s", what, worker.process.pid, why, when, stack)

    def _may_become_better(self) -> bool:
        """Whether somebody works at the sources, or another process of the pool does well."""
        return self._watcher is not None or any(map(does_well, self._workers.values()))

    def _start_what_is_due(self) -> None:
        for slot, deadline in list(self._due.items()):
            if deadline.passed():
                del self._due[slot]
                self._start(slot)

    # -- fork functions: they have the places behind the workers

    def _await_forks(self) -> None:
        """None has been started; they are when all workers are ready, or when that takes too long."""
        self._forks = list(self.config.fork_functions)
        self._knows_all_forks = self._forks_may_start = False
        self._forks_started = 0
        self._forks_due = Deadline(self.config.fork_timeout)

    def _fork_of(self, slot: int) -> str:
        place = slot - (self.config.processes or 1)
        return self._forks[place] if place >= 0 else ""

    def _start_forks(self) -> None:
        if not self._forks_may_start:
            return
        self._forks_due = Deadline(None)
        while self._forks_started < len(self._forks):
            slot = (self.config.processes or 1) + self._forks_started
            self._forks_started += 1
            if slot not in self._workers:  # else its predecessor is still about to leave
                self._start(slot)

    def _is_missed(self, worker: WorkerProcess, code: int) -> bool:
        if not worker.fork:
            return True
        if worker.ordered:
            return worker.slot - (self.config.processes or 1) < self._forks_started
        if not code:
            self.logger.info("Fork process %r has come to its end.", worker.fork)
        return bool(code)

    # -- stopping

    def _stop_or_kill(self, why: str) -> None:
        if self._stopping and not self.runs_anew:
            self.logger.warning("Told to stop for the second time; killing all worker processes.")
            self.status = KILLED
            self._kill()
        else:
            self.logger.info("Stopping on %s.", why)
            self.runs_anew = False
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._due.clear()
        self._deadline = Deadline(self.config.shutdown_timeout + GRACE)
        self._forks_due = Deadline(None)
        self._tell_all_to_leave()

    def _tell_all_to_leave(self) -> None:
        for worker in self._workers.values():
            if not worker.fork:
                worker.process.order(STOP)
            elif not worker.ordered:  # a second signal would end it in the middle of its leaving
                worker.process.terminate()
                worker.deadline = Deadline(GRACE)
            worker.ordered = True

    def _reload(self) -> None:
        if self._stopping:
            return
        if self.config.rerun:
            # A process that is forked from this one would have the modules that are in memory here.
            self.logger.info("Replacing the whole program.")
            self.runs_anew = True
            self._stop()
            return
        self.logger.info("Replacing all worker processes.")
        self._await_forks()
        self._tell_all_to_leave()
        self._series.end()  # what could not start may be able to now
        self._due = {slot: Deadline(0) for slot in self._due if slot < (self.config.processes or 1)}

    def _look_at_the_sources(self) -> None:
        changed = self._watcher.changed() if self._watcher is not None else None
        if changed is not None and not self._stopping:
            self.logger.info("%s has changed.", changed)
            self._reload()

    def _give_up(self, failure: dict[str, Any]) -> None:
        self.status = failure["code"]
        if self._pipes is not None:
            self._pipes.tell(**failure)
        if self._pipes is None or self._has_started:  # else whoever started it says so
            what = "The pool gives up" if self._has_started else "The pool cannot start"
            self.logger.critical("%s%s: %s", failure["traceback"], what, failure["failed"])
        self._stop()

    def _kill_what_is_late(self) -> None:
        if self._deadline.passed():
            self.logger.warning("Killing worker processes that did not leave in time.")
            self._kill()
        for worker in self._workers.values():
            if worker.deadline.passed():
                worker.deadline = Deadline(None)
                self.logger.warning("Killing the fork process %r, which did not leave in time.", worker.fork)
                worker.process.kill_session()
        if self._forks_due.passed():
            self._forks_may_start = True
            self._start_forks()

    def _end_what_is_overdue(self) -> None:
        # A task that is in a call into C, or that catches everything, ends in no other way.
        if not self._next_look.passed():
            return
        until_next = float(LOOK_FOR_OVERDUE)
        for worker in self._workers.values():
            left, running = worker.next_to_be_ended()
            if running is None or left > 0:
                until_next = min(until_next, left)
            elif worker.overdue != running:
                worker.overdue = running
                worker.process.dump_stack()  # by which a call into C may end, and with it the message
                until_next = min(until_next, STACK_TIME)
            else:
                self._end_with_its_process(worker, running)
        self._next_look = Deadline(until_next)

    def _end_with_its_process(self, worker: WorkerProcess, running: Running) -> None:
        self.logger.warning("Killing worker process %d, to end a message in it.", worker.process.pid)
        if not running.is_doomed:
            doom(worker.cells, running.sequence, running.claim, int(clock.monotonic()))
        worker.doomed = True
        worker.process.kill_session()

    def _kill(self) -> None:
        self._deadline = Deadline(None)
        for worker in self._workers.values():
            worker.ordered = True
            worker.process.kill_session()


def supervise(pipes: Pipes, config: PoolConfig) -> int:
    """Run a pool for the program at the other end of the pipes; returns the exit status."""
    return Supervisor(config, pipes).run()
