"""Starting a process of ours: forked from this one, or a fresh Python.

Either way it has two pipes. On ``control`` it hears orders, a byte each, and the
death of whoever started it, as the end of the file; on ``report`` it says, a
line of JSON each, how far it has come.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..cells import STACK_SIGNAL
from ..process_table import processes_of_session
from .config import PoolConfig

STOP, REAP = b"s", b"r"
PR_SET_PDEATHSIG = 1  # prctl(2)
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
OUR_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]

Target = Callable[["Pipes", PoolConfig], int]

_ends_of_others: set[int] = set()
"""Descriptors of this process that no forked child may keep: while one lives, their reader
would never see the end."""


@dataclass(slots=True)
class Pipes:
    """The two ends that the new process has."""

    control: int
    report: int
    parent: int
    """Who started it. Its own parent need not be the same: that may have died before it looked."""

    def tell(self, **facts: Any) -> None:
        """Report something. Nobody may be there to hear it any more."""
        with suppress(OSError):
            os.write(self.report, json.dumps(facts).encode() + b"\n")


class Launched:
    """A process that this one started."""

    def __init__(self, pid: int, control: int, report: int, popen: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.control = control
        self.report = report
        self._popen = popen
        self._unread = b""

    def order(self, command: bytes) -> None:
        """Send a command; one that has ended hears nothing."""
        with suppress(OSError):
            os.write(self.control, command)

    def terminate(self) -> None:
        """Send SIGTERM. Only before `ended` has said so: until then its number cannot be another's."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def read_reports(self) -> list[dict[str, Any]] | None:
        """What it reported since; None when it has closed its end."""
        try:
            data = os.read(self.report, 65536)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def stops(self) -> list[bool]:
        """Whether it was stopped (SIGSTOP), or continued, since this was last asked: in their order."""
        changes: list[bool] = []
        while hasattr(os, "waitid"):
            try:
                change = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            except ChildProcessError:
                break
            if change is None:
                break
            changes.append(change.si_code != os.CLD_CONTINUED)
        return changes

    def dump_stack(self) -> None:
        """Have it write where its threads are, see `Cells.keep_stacks`. Only before `ended` has said so."""
        if STACK_SIGNAL is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, STACK_SIGNAL)

    def ended(self) -> int | None:
        """Its return code, as `subprocess` has it, if it has ended; None while it runs."""
        self._end_what_it_left()
        if self._popen is not None:
            return self._popen.poll()
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else waited for all children
            return 0
        return os.waitstatus_to_exitcode(status) if pid else None

    def _end_what_it_left(self) -> None:
        """When it has ended, end its session too: programs that its tasks started and left behind."""
        if not hasattr(os, "waitid"):
            return
        try:
            # WNOWAIT leaves it a zombie, whose number is nobody else's yet.
            end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if end is not None:
            self.kill_session()

    def kill_session(self) -> None:
        """End it and all that it started, at once. Only before `ended` has said so: until then
        its number cannot be another's."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in (self.pid, *processes_of_session(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the pipes."""
        for end in (self.control, self.report):
            _ends_of_others.discard(end)
            with suppress(OSError):
                os.close(end)


def keep_from_children(*descriptors: int) -> None:
    """No process that is forked from here on keeps these."""
    _ends_of_others.update(descriptors)


def launch(target: Target, config: PoolConfig, start_method: str) -> Launched:
    """Start a process that runs `target`, a function of one of our modules, and ends with its status."""
    control_read, control_write = os.pipe()
    report_read, report_write = os.pipe()
    theirs, ours = Pipes(control_read, report_write, os.getpid()), (control_write, report_read)
    try:
        if start_method == "fork":
            pid, popen = _fork(target, config, theirs, ours), None
        else:
            popen = _spawn(target, theirs)
            pid = popen.pid
    except BaseException:
        for end in ours:
            os.close(end)
        raise
    finally:
        os.close(control_read)
        os.close(report_write)
    os.set_blocking(report_read, False)
    keep_from_children(*ours)
    if popen is not None:
        os.write(control_write, config.to_json())
    return Launched(pid, *ours, popen)


def _fork(target: Target, config: PoolConfig, theirs: Pipes, ours: tuple[int, int]) -> int:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # whatever a program has put there: a buffer must not be printed twice
            stream.flush()
    # Until `run_target` has let go of it, a signal to the child would go to our wake-up descriptor.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)
    pid = 1  # also if it cannot fork
    try:
        pid = os.fork()
    finally:
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid:
        return pid
    status = 1
    try:
        for end in (*ours, *_ends_of_others):
            os.close(end)
        _ends_of_others.clear()
        status = run_target(target, theirs, config)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)  # never back into the code of whoever forked


def _spawn(target: Target, theirs: Pipes) -> subprocess.Popen[bytes]:
    name = f"{target.__module__}:{target.__name__}"
    numbers = map(str, (theirs.control, theirs.report, theirs.parent))
    command = [sys.executable, "-m", "localq.processes", name, *numbers]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=(theirs.control, theirs.report),
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """The environment, with localq importable in it from where it was imported here."""
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [package_parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def run_target(target: Target, pipes: Pipes, config: PoolConfig) -> int:
    """In the new process: a session of its own, no standard input, default signals; then the target."""
    with suppress(OSError):  # a spawned one has it already
        os.setsid()
    _detach_standard_input()
    for number in OUR_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    keep_from_children(pipes.control, pipes.report)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return target(pipes, config)


def die_with_parent(parent: int) -> bool:
    """Have the system end this process when its parent `parent` ends; False where it does not do so."""
    if sys.platform != "linux":
        return False
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    return True


def _detach_standard_input() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:
        os.close(null)


def read_config(control: int) -> PoolConfig:
    """In a spawned process: its config, the first line on its control pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(control, 1)
        if not byte:
            raise SystemExit(1)  # whoever started it has died
        line += byte
    return PoolConfig.from_json(bytes(line))
