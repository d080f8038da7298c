"""Seeing that source files have changed: by looking, which works on every system and file system."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from ..clock import Deadline, clock

INTERVAL = 400
"""Milliseconds between two looks."""
SHARE = 10
"""A look that takes long is followed by a pause of that many times its length: a great tree does
not keep a processor busy, nor the supervisor from its other duties."""

Stamp = tuple[int, int, int]


class Watcher:
    """Looks at the files in a folder, and in those below it, again and again.

    A file counts when its path ends like a pattern (``*.py`` always; also ``*.html``,
    ``templates/*``) and like none of the excluded ones. Folders whose name begins with a dot,
    ``__pycache__`` and excluded ones are left out.
    """

    def __init__(self, folder: str, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._folder = folder
        self._include = ("*.py", *include)
        self._exclude = tuple(exclude)
        self._known: dict[str, bool] = {}  # whether each path counts: that takes longer to find out than its stamp
        self._seen = self._look()

    def changed(self) -> str | None:
        """The path of a file that came, went or was written since the last look, if it is time for another."""
        if not self.due.passed():
            return None
        before, self._seen = self._seen, self._look()
        if before == self._seen:
            return None
        return min(path for path, _ in before.items() ^ self._seen.items())

    def _look(self) -> dict[str, Stamp]:
        started = clock.monotonic()
        seen = dict(self._stamps(self._folder))
        self.due = Deadline(max(INTERVAL, SHARE * (clock.monotonic() - started)))
        return seen

    def _stamps(self, folder: str) -> Iterator[tuple[str, Stamp]]:
        try:
            entries = list(os.scandir(folder))
        except OSError:  # it has just gone, or is not for us to see
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith((".", "__pycache__")) and not _matches(entry.path, self._exclude):
                    yield from self._stamps(entry.path)
            elif self._counts(entry.path):
                try:
                    stat = entry.stat()
                except OSError:
                    continue
                yield entry.path, (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _counts(self, path: str) -> bool:
        counts = self._known.get(path)
        if counts is None:
            counts = _matches(path, self._include) and not _matches(path, self._exclude)
            self._known[path] = counts
        return counts


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    pure = PurePath(path)
    return any(pure.match(pattern) for pattern in patterns)
