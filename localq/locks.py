"""The operating system's lock on a file: ours until it is freed, or until this process dies.

The one place that knows the platform: `flock` on POSIX, straight from the
standard library (`filelock` has its own ideas of what happens at a fork, and
when it is first imported in the middle of one its locks are left held);
`LockFileEx` by way of `filelock` on Windows, on the first byte, so that what is
read by others lies past it. A descriptor that a forked child inherits shares
the lock: let go of it there.
"""

from __future__ import annotations

import os
import sys

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""What `os.open` is told where a link must not be followed: in a folder of ours there is none."""

if sys.platform == "win32":
    from filelock import lock_descriptor, unlock_descriptor

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Take the lock on an open file, without waiting; say whether it is ours now. `shared` (not here):
        with all who only want to know whether somebody has it."""
        return bool(lock_descriptor(descriptor, blocking=False))

    def unlock(descriptor: int) -> None:
        """Free the lock."""
        unlock_descriptor(descriptor)

else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Take the lock on an open file, without waiting; say whether it is ours now. `shared`: with all who
        only want to know whether somebody has it."""
        try:
            flock(descriptor, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Free the lock."""
        flock(descriptor, LOCK_UN)
