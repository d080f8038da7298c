"""Processes that hold places under a limit: which of them live, and so which places are taken.

A process that takes a place has a file of its own in a folder beside the queue, and
holds the operating system's lock on it from before the table `hold` names it to its
death. Nothing else frees its places: not that it was stopped, and no time that passes.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from contextlib import suppress
from uuid import uuid4

from ..files import make_private, names_in, refused
from ..locks import try_lock


class Holder:
    """This process, as one that holds places. Made inside the gate: so who is inside never sees a
    file that is not locked yet.

    Parameters:
      folder: where the files of all holders are; it exists.
    """

    def __init__(self, folder: str) -> None:
        self.owed: deque[str] = deque()
        """The keys of places that are to be given back."""
        self.is_trying_again = False
        self._process = os.getpid()
        while True:
            self.name = uuid4().hex
            self.path = os.path.join(folder, self.name)
            self._descriptor = self._make()
            if try_lock(self._descriptor):
                break
            self.close()  # somebody outside of the gate looked at it in this very moment
        _open_holders.add(self)

    def _make(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            make_private(self.path)
            return descriptor
        except OSError as error:
            raise refused(self.path, error) from error

    @property
    def is_ours(self) -> bool:
        """Whether it is this very process, and not the one that it was forked from."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Free the lock and remove the file: it holds nothing any more."""
        with suppress(OSError):
            os.unlink(self.path)
        self.let_go()

    def let_go(self) -> None:
        """Close the descriptor alone: in a forked child, which must not keep the places of a dead parent."""
        _open_holders.discard(self)
        os.close(self._descriptor)


_open_holders: weakref.WeakSet[Holder] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for holder in list(_open_holders):
        holder.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def is_dead(path: str) -> bool:
    """Whether the process of that file has ended. A missing file means dead, one that cannot be looked
    at alive. For certain only inside the gate."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)  # which frees the lock


def dead_in(folder: str) -> list[str]:
    """The files in the folder whose processes seem to have ended."""
    return [path for name in names_in(folder) if is_dead(path := os.path.join(folder, name))]
