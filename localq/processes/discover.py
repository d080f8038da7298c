"""Finding the modules of an application that are named ``tasks``: ``--discover``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from keyword import iskeyword

NAME = "tasks"
LEFT_OUT = ("__pycache__", "node_modules")
MARKS_OF_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")

Parts = tuple[str, ...]
"""A module's name, taken apart at its dots."""


def find_task_modules(folder: str) -> list[tuple[Parts, str]]:
    """The modules in a folder and below it that are named ``tasks`` or lie in a package of that name, each
    with its file, sorted.

    A name begins in the nearest folder of ``sys.path`` that the file is in. Hidden folders,
    ``node_modules`` and virtual environments are left out, and links to folders are not followed.
    """
    roots = sorted((os.path.abspath(root) for root in sys.path), key=len)
    found = []
    for file in _python_files(os.path.abspath(folder)):
        inside = [root for root in roots if is_inside(os.path.dirname(file), root)]
        parts = _name_of(os.path.relpath(file, inside[-1] if inside else folder))
        if NAME in parts and parts[-1] != "__main__":
            found.append((parts, file))
    return sorted(found)


def is_inside(folder: str, other: str) -> bool:
    """Whether an absolute path is another one, or below it."""
    return folder == other or folder.startswith(os.path.join(other, ""))


def can_be_imported(parts: Parts) -> bool:
    """Whether an ``import`` statement could name such a module."""
    return all(part.isidentifier() and not iskeyword(part) for part in parts)


def _name_of(path: str) -> Parts:
    *folders, last = path.removesuffix(".py").split(os.sep)
    return tuple(folders) if last == "__init__" else (*folders, last)


def _python_files(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_left_out(place, name)]
        yield from (os.path.join(place, name) for name in files if name.endswith(".py"))


def _is_left_out(place: str, name: str) -> bool:
    if name.startswith(".") or name in LEFT_OUT:
        return True
    return any(os.path.exists(os.path.join(place, name, mark)) for mark in MARKS_OF_ENVIRONMENTS)
