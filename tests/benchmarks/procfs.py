"""What Linux says about a tree of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:  # grows meanwhile
        found += children.get(pid, ())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """The time that the processes have had on a core so far."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    # In nanoseconds, where the kernel tells; `stat` counts in hundredths of a second, which an
    # idle process may not use up while it is watched.
    if files := list(Path(f"/proc/{pid}/task").glob("*/schedstat")):
        return sum(int(file.read_text("ascii").split()[0]) for file in files) / 1e9
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0  # utime and stime, proc(5)


def wake_ups(pids: Iterable[int]) -> int:
    """How often the threads of the processes have gone to sleep so far: each was woken as often."""
    return sum(
        _number(status, "voluntary_ctxt_switches")
        for pid in pids
        for status in Path(f"/proc/{pid}/task").glob("*/status")
    )


def megabytes(pids: Iterable[int]) -> float:
    """What the processes take of the memory, pages that several share counted once (PSS)."""
    return sum(_number(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids) / 1024


def _stat(pid: int) -> list[str]:
    """The fields from the state on; empty for a process that has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _number(file: Path, name: str) -> int:
    try:
        lines = file.read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
