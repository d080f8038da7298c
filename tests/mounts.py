"""File systems that tests mount: a small disk that can be filled, and one that says that it is another machine's.

Only root may mount. Where the tests do not run as root, those that need it are skipped, and say so; they can be run
by ``unshare --user --map-root-user --mount pytest ...``.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REMEDY = "run as root, or by 'unshare --user --map-root-user --mount pytest ...'"


@contextmanager
def mounted(folder: Path, kind: str, options: str, source: str = "none") -> Iterator[None]:
    """A file system of that type at `folder`, for the time of the block; the test is skipped where it cannot be."""
    folder.mkdir(exist_ok=True)
    if sys.platform != "linux":
        pytest.skip("file systems are mounted on Linux only")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(folder), kind.encode(), 0, options.encode()):
        pytest.skip(f"cannot mount a {kind} here ({os.strerror(ctypes.get_errno())}); {REMEDY}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class SmallDisk:
    """A disk of so many bytes, in memory."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._ballast = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Take all room but `leave` bytes, in blocks of 4096."""
        with open(self._ballast, "ab", buffering=0) as file:
            while (room := self.room() - leave) > 0:
                try:
                    file.write(bytes(min(room, 1 << 16)))
                except OSError:  # somebody else was faster
                    return

    def free(self) -> None:
        """Give all of that back."""
        self._ballast.unlink(missing_ok=True)

    def room(self) -> int:
        """Bytes that are free."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """A disk that can be filled (a tmpfs), mounted at `folder` for the time of the block."""
    with mounted(folder, "tmpfs", f"size={size}"):
        yield SmallDisk(folder, size)
