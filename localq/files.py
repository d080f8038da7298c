"""Files beside the database: made for this user alone, and never somebody else's; what processes share through
memory; and what is said when the system refuses one.

A link is not followed: in a folder that others may write it could lead anywhere. Modes are set and not
only asked for, since the umask may take the owner's own rights away.

A page of a mapped file for which the disk has no room ends the process that touches it (SIGBUS). So these files
have no holes: their room is allocated before they are mapped, and a full disk is an error like any other.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

from .errors import StoreError, UnsafeLocation
from .locks import NO_LINK

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a FIFO in its place would be waited for

Identity = tuple[int, int]
"""Device and number of a file: the same as long as it is the same file, whatever is in it."""


def make_private(path: str, mode: int = 0o600) -> None:
    """Give nobody but its owner rights on a file or a folder."""
    if os.name == "posix" and stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)


def make_folder(path: str) -> None:
    """Make a folder and those above it that are not there, 0700 each."""
    folder = Path(path)
    for each in (*reversed(folder.parents), folder):
        try:
            each.mkdir(0o700)
        except OSError:
            if not each.is_dir():  # it may be there, in a folder in which nothing can be made
                raise
        else:
            make_private(str(each), 0o700)


def open_own(path: str) -> int:
    """A descriptor of that file, which is made where there is none.

    Raises:
      OSError: there is something else in its place.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | NO_LINK | _NO_WAIT, 0o600)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is no file", path)
        if stat.S_IMODE(mode) != 0o600 and os.name == "posix":
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_file(path: str, size: int) -> tuple[int, mmap.mmap]:
    """As `open_own`, and map its first `size` bytes, which all processes share.

    Raises:
      OSError: it cannot be opened or made, there is something else in its place, or no room for it.
    """
    descriptor = open_own(path)
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


def write_through(path: str) -> None:
    """Have what was written to a file brought to the disk, by whoever it was. (Of SQLite's files only for the log,
    on which it has no locks: see `store.database`.)

    Raises:
      OSError: it is not there, or the disk refuses.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | NO_LINK)
    try:
        getattr(os, "fdatasync", os.fsync)(descriptor)
    finally:
        os.close(descriptor)


def names_in(folder: str) -> list[str]:
    """What is in the folder, as far as this user may see it."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


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


def refuse_what_others_made(path: str) -> None:
    """What lies beside the queue must be this user's own: who made it could exchange what is in it.

    Root may use anybody's, and is let in where files bear other owners than their makers.

    Raises:
      UnsafeLocation: it is a link, or belongs to another user.
    """
    if os.name != "posix":
        return
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeLocation(f"{path!r} is a link; remove it, so that a folder can be made in its place")
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        raise UnsafeLocation(
            f"{path!r} belongs to another user (number {status.st_uid}), who could replace what is in it; remove "
            "it, or name a file in a folder of your own"
        )


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
