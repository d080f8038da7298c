"""A library that localq is measured beside."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from ..contender import Contender


@dataclass(slots=True, frozen=True)
class Place:
    """Where it may keep its queue: a folder for files, and a Redis that is emptied before."""

    folder: str
    redis_url: str = ""
    redis_pid: int = 0


@dataclass(slots=True, frozen=True)
class Peer:
    """What is known of it before it is connected to anything."""

    name: str
    packages: tuple[str, ...]
    """What must be installed; the first is the library itself."""
    connect: Callable[[Place], Contender]
    settings: str
    """Its best ones that were found, in words."""
    redis: bool = True
    """Whether it needs one."""

    def missing(self) -> str | None:
        """Why it cannot be measured here, or None."""
        absent = [f"package {name!r}" for name in self.packages if not importlib.util.find_spec(name)]
        if self.redis and shutil.which("redis-server") is None:
            absent.append("program redis-server")
        return f"there is no {' and no '.join(absent)}" if absent else None

    def describe(self) -> str:
        """Which version, and how it is set."""
        return f"{self.name}: {version(self.packages[0])}, {self.settings}"
