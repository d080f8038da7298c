"""The worker processes of a contender, from their start to their certain end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import procfs, tasks
from .contender import ROOT, Contender

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0
MARK_TIMEOUT = 600.0
NUDGE = 0.25
"""Seconds after which more messages go out to hold the threads that took none."""


class Crew:
    """Running workers. At first each thread of theirs is held, so that work can pile up; and whenever it is
    asked for.

    Parameters:
      contender: whose.
      process: the worker program.
      folder: for marks and for its log.
      threads: how many threads it has in all.
    """

    def __init__(self, contender: Contender, process: subprocess.Popen[bytes], folder: str, threads: int) -> None:
        self._contender = contender
        self._process = process
        self._folder = Path(folder)
        self._threads = threads
        self._marks = self._holds = 0
        self.is_held = False

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return procfs.tree(self._process.pid)

    def hold(self) -> None:
        """Return when every thread of every process is there and held."""
        if self.is_held:
            return
        self._holds += 1
        self.is_held = True
        self._hold_folder.mkdir()
        self._contender.send_each("hold", [(self._hold_folder.as_posix(),)] * self._threads)
        deadline, nudge = time.monotonic() + START_TIMEOUT, time.monotonic() + NUDGE
        while absent := self._threads - len(list(self._hold_folder.glob("held-*"))):
            self._check(deadline, "its threads did not all start")
            if time.monotonic() > nudge:  # one process may have fetched more than it can run
                self._contender.send_each("hold", [(self._hold_folder.as_posix(),)] * absent)
                nudge = time.monotonic() + NUDGE
            time.sleep(0.01)

    @property
    def _hold_folder(self) -> Path:
        return self._folder / f"hold-{self._holds}"

    def release(self) -> None:
        """Let the threads go."""
        if self.is_held:
            (self._hold_folder / tasks.RELEASE).touch()
            self.is_held = False

    def send_mark(self) -> Path:
        """Send what tells that everything before it has been started."""
        self._marks += 1
        path = self._folder / f"mark-{self._marks}"
        self._contender.send_one("mark", path.as_posix())
        return path

    def wait_for(self, mark: Path) -> None:
        """Return when nothing is waiting or running. Waits for a file, so as not to disturb, and then asks."""
        deadline = time.monotonic() + MARK_TIMEOUT
        while not mark.exists():
            self._check(deadline, "the messages did not come to their end")
            time.sleep(0.001)
        while not self._contender.is_over():
            self._check(deadline, "the last messages did not come to their end")
            time.sleep(0.001)

    def _check(self, deadline: float, what: str) -> None:
        if self._process.poll() is not None:
            what = f"its workers ended with status {self._process.returncode}"
        elif time.monotonic() < deadline:
            return
        log = (self._folder / "log").read_text("utf-8", "replace")
        raise RuntimeError(f"{self._contender.name}: {what}\n{log[-4000:]}")

    def end(self) -> None:
        """Stop all processes, by force if they do not go."""
        pids = procfs.tree(self._process.pid)
        self.release()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._kill(pids)
        except BaseException:
            self._kill(pids)
            raise

    def _kill(self, pids: list[int]) -> None:
        # Only those that still descend from ours: another program may have the number of one that ended.
        for pid in set(pids) & set(procfs.tree(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def crew(contender: Contender, *, processes: int = 2, threads: int = 1) -> Iterator[Crew]:
    """The contender's workers for as long as the block lasts, all held at its start."""
    with tempfile.TemporaryDirectory(prefix="localq-crew-") as folder:
        with open(os.path.join(folder, "log"), "wb") as log:
            process = subprocess.Popen(
                contender.command(processes, threads),
                cwd=ROOT,
                env=contender.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us, who then stop it
            )
        workers = Crew(contender, process, folder, processes * threads)
        try:
            workers.hold()
            yield workers
        finally:
            workers.end()
