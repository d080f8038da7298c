"""The folder of a queue's file: whether it can hold one safely, and the folder of ours beside the file."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from ..errors import StoreError, UnsafeLocation
from ..files import make_private, refuse_what_others_made, refused
from .network import network_type


def prepare_folder(path: str, side: str, on_network: bool) -> None:
    """Make the folder `side` for what lies beside the file at `path`; refuse a place that cannot hold a queue.

    Raises:
      StoreError: it cannot be used; the text says why.
    """
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise StoreError(f"the folder {folder!r} of {path!r} does not exist; make it, or name another")
    if os.path.isdir(path):
        raise StoreError(f"{path!r} is a folder; name a file in it, such as {os.path.join(path, 'jobs.db')!r}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreError(f"{path!r} is no file, but a device, a pipe or a socket; name another")
    mode = os.stat(folder).st_mode
    if os.name == "posix" and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise UnsafeLocation(
            f"everybody may write in {folder!r} (mode {stat.S_IMODE(mode):o}), and so could replace the "
            f"queue; run 'chmod o-w' on it, or name another folder"
        )
    if not on_network and (kind := network_type(folder)):
        raise UnsafeLocation(
            f"{folder!r} is on a file system of type {kind}, which other machines may use too: locks and shared "
            "memory do not hold there, and the queue would be damaged; name a folder on a local disk, or, if this "
            "is the only machine that uses it and you know that they hold, add ?network=allow to the URL"
        )
    try:
        if os.path.exists(path):
            refuse_what_others_made(path)
        for sub in (side, *(os.path.join(side, name) for name in ("bells", "workers", "holders"))):
            _make_own_folder(sub)
    except OSError as error:
        raise refused(folder, error) from error


def _make_own_folder(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    refuse_what_others_made(path)
    if not os.path.isdir(path):
        raise StoreError(f"{path!r} is in the way of a folder for locks and bells; move it elsewhere")
    make_private(path, 0o700)
