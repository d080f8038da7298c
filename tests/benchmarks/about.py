"""What is said around the table: on what it was measured, and beside what."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
from collections.abc import Sequence

from .contender import ROOT
from .peers import PEERS
from .peers.peer import Peer
from .run import Size


def describe(size: Size, peers: Sequence[Peer]) -> list[str]:
    """On what, and how much, in words."""
    lines = [
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.system()} "
        f"{platform.release()}, {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} at the start",
        f"localq at {_commit()}, files on {_file_system(tempfile.gettempdir())}",
        f"{size.messages:,} messages and {size.tries} tries of each latency ({size.peer_messages:,} and "
        f"{size.peer_tries} of other libraries); medians of {size.rounds} round{'s' if size.rounds > 1 else ''}",
    ]
    if any(peer.redis for peer in peers):
        lines.append("Redis: a server of its own without persistence, on localhost")
    return [*lines, *(peer.describe() for peer in peers)]


def left_out(measured: Sequence[Peer], wanted: Sequence[Peer]) -> list[str]:
    """Who was not measured, and why."""
    return [
        f"{peer.name} was not measured: {peer.missing() if peer in wanted else 'not asked for'}"
        for peer in PEERS
        if peer not in measured
    ]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _commit() -> str:
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"


def _file_system(folder: str) -> str:
    """The type of the one that the folder is on: on one in memory, nothing waits for a disk."""
    command = ["stat", "-f", "-c", "%T", folder]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown file system"
