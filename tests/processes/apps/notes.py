"""How the actors of these apps tell a test what they do, and wait for its word."""

from __future__ import annotations

import os
import time
from pathlib import Path

FOLDER = Path(os.environ["LAB_FOLDER"])


def note(*words: object) -> None:
    """Append a line to the test's notes, in one write."""
    line = " ".join(str(word) for word in words) + "\n"
    descriptor = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def count(line: str) -> int:
    """How often that line was noted so far."""
    file = FOLDER / "notes"
    return file.read_text().splitlines().count(line) if file.exists() else 0


def hold(name: str, seconds: float = 60) -> None:
    """Say ``held NAME PID``, wait until the test releases that name, say ``released NAME PID``."""
    note("held", name, os.getpid())
    deadline = time.monotonic() + seconds
    while not (FOLDER / f"release-{name}").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody released {name!r}")
        time.sleep(0.005)
    note("released", name, os.getpid())
