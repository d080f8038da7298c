"""The operating system's lock on a file: ours until it is freed, or until this process dies.

The one place that knows the platform: `flock` on POSIX, straight from the
standard library (`filelock` has its own ideas of what happens at a fork, and
when it is first imported in the middle of one its locks are left held);
`LockFileEx` by way of `filelock` on Windows, on the first byte, so that what is
read by others lies past it. A descriptor that a forked child inherits shares
the lock: let go of it there.

`try_lock_for_process` takes another kind on POSIX, which belongs to the process:
no child shares it, however it was made. But closing any descriptor of that file
frees it, so a process never opens a file again that it has locked in this way.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from filelock import lock_descriptor, unlock_descriptor

    def try_lock(descriptor: int) -> bool:
        """Take the lock on an open file, without waiting; say whether it is ours now."""
        return bool(lock_descriptor(descriptor, blocking=False))

    def try_lock_for_process(descriptor: int, *, shared: bool = False) -> bool:
        """As `try_lock`."""
        return try_lock(descriptor)

    def unlock(descriptor: int) -> None:
        """Free the lock."""
        unlock_descriptor(descriptor)

else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock, lockf

    def try_lock(descriptor: int) -> bool:
        """Take the lock on an open file, without waiting; say whether it is ours now."""
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def try_lock_for_process(descriptor: int, *, shared: bool = False) -> bool:
        """As `try_lock`, for this process alone and not for its children; `shared`: with all who only want
        to know whether somebody has it."""
        try:
            lockf(descriptor, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Free the lock."""
        flock(descriptor, LOCK_UN)
