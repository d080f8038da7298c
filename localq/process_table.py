"""What the system tells about processes: whether one lives, since when, what it runs and what belongs to it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def _stat_of(pid: int | str) -> list[bytes]:
    """The fields of a process's line from the third on, see proc(5); OSError where the system has none.

    They are counted behind the name, which may hold blanks and brackets.
    """
    return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()


def born(pid: int) -> int:
    """When that process started, in the system's own unit; 0 where the system does not say."""
    try:
        stat = _stat_of(pid)
    except OSError:
        return 0
    return 0 if stat[0] in b"ZX" else int(stat[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process `pid` that started then still lives; a zombie does not."""
    if not 0 < pid < 2**31:  # what is no process's number would stand for a group of them
        return False
    if started:
        return born(pid) == started
    if os.name == "nt":
        return False  # os.kill(pid, 0) would end it there: better a crash that charges nobody
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def processes_of_session(session: int) -> list[int]:
    """Those that have left its first process group too, where the system lists them."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with suppress(OSError):
                state, _, _, of_session, *_ = _stat_of(name)
                if int(of_session) == session and state not in b"ZX":
                    found.append(int(name))
    return found


def describe_process(pid: int | None) -> str:
    """A process for people: its number and, where the system tells, what it runs and whether it was stopped."""
    if pid is None:
        return "another process"
    try:
        command = Path("/proc", str(pid), "cmdline").read_bytes()
        state = _stat_of(pid)[0]
    except (OSError, IndexError):
        return f"process {pid}"
    text = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    if len(text) > 80:
        text = text[:77] + "..."
    stopped = ", which is stopped," if state in b"Tt" else ""
    return f"process {pid}{f' ({text})' if text else ''}{stopped}"
