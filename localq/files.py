"""Files beside the database: what processes share through memory, and what is said when the system refuses one.

A page of a mapped file for which the disk has no room ends the process that touches it (SIGBUS). So these files
have no holes: their room is allocated before they are mapped, and a full disk is an error like any other.
"""

from __future__ import annotations

import errno
import mmap
import os

from .errors import StoreError

Identity = tuple[int, int]
"""Device and number of a file: the same as long as it is the same file, whatever is in it."""


def map_file(path: str, size: int) -> tuple[int, mmap.mmap]:
    """Open a file for this user alone, make it where there is none, and map its first `size` bytes; returns the
    descriptor too.

    Raises:
      OSError: it cannot be opened or made, or there is no room for it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return descriptor, map_open_file(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def map_open_file(descriptor: int, size: int) -> mmap.mmap:
    """Map the first `size` bytes of a file.

    Raises:
      OSError: there is no room for it.
    """
    if os.fstat(descriptor).st_size < size:
        _allocate(descriptor, size)
    return mmap.mmap(descriptor, size)


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    missing = size - os.fstat(descriptor).st_size
    os.lseek(descriptor, -missing + size, os.SEEK_SET)
    while missing > 0:
        missing -= os.write(descriptor, bytes(missing))


def identity(path: str) -> Identity | None:
    """Which file is there; None if there is none.

    Raises:
      OSError: the system does not say, for example because a folder above it may not be entered.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def is_still(path: str, known: Identity | None) -> bool:
    """Whether the file at that path is the one that was there before, as far as the system says."""
    try:
        return identity(path) == known
    except OSError:
        return True


def refused(path: str, error: OSError) -> StoreError:
    """What the system said about a path, with what to do."""
    said = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"the disk of {path!r} is full ({said}); free some space and try again")
    if error.errno == errno.EROFS:
        return StoreError(f"{path!r} is on a read-only file system; mount it for writing, or name another place")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError(
            f"this user may not use {path!r} ({said}); give it the right to read and write there, or name "
            "another place"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoreError(f"cannot open {path!r} ({said}); close files that are not needed, or raise 'ulimit -n'")
    return StoreError(f"cannot use {path!r} ({said}); look at the folder's existence and rights")
