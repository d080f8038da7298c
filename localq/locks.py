"""The operating system's lock on a file: ours until it is freed, or until this process dies.

The one place that knows the platform, by way of `filelock`: `flock` on POSIX,
`LockFileEx` on the first byte on Windows (so what is read by others lies past
it). A descriptor that a forked child inherits shares the lock: let go of it there.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def try_lock(descriptor: int) -> bool:
    """Take the lock on an open file, without waiting; say whether it is ours now."""
    return bool(_filelock().lock_descriptor(descriptor, blocking=False))


def unlock(descriptor: int) -> None:
    """Free the lock."""
    _filelock().unlock_descriptor(descriptor)


@cache
def _filelock() -> Any:
    # Imported when the first lock is taken: it costs every program 30 ms at its start otherwise,
    # also those that only declare actors.
    import filelock

    return filelock
