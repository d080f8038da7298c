"""Which store is used when nobody named one, and why that one."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from .store import sqlite_url

ENVIRONMENT_VARIABLE = "LOCALQ_URL"
ROOT_MARKERS = ("pyproject.toml", ".git")


@dataclass(slots=True, frozen=True)
class Location:
    """The URL of a store, why it was chosen (for ``localq info``), and the folder to make for it."""

    url: str
    why: str
    folder: str = ""


def default_location() -> Location:
    """``LOCALQ_URL`` if it is set, else the project's own file.

    That file lies in the user's data folder, under a name made from the project's root: the
    folder with a ``pyproject.toml`` or ``.git`` at or above the main script (for a command such as
    ``localq``, the working directory). So the scripts of one project share a queue, and two
    projects never do. Nothing is read or written but to look for those two names.
    """
    url = os.environ.get(ENVIRONMENT_VARIABLE)
    if url:
        return Location(url, f"the environment variable {ENVIRONMENT_VARIABLE} is set")
    start, what = _start()
    root = _root_above(start)
    why = f"the queue of the project in {root or start} ({what}"
    why += f" is in it; {_marker(root)} marks its root)" if root else "; no pyproject.toml or .git above it)"
    file = _file_of(root or start)
    return Location(sqlite_url(file), why, str(file.parent))


def _start() -> tuple[Path, str]:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or _is_tool(Path(script)):
        return Path.cwd(), "the working directory"
    return Path(script).resolve().parent, f"the main script {os.path.basename(script)}"


def _is_tool(script: Path) -> bool:
    """Whether the main script is an installed command (``localq``, ``pytest``), not the user's."""
    script = Path(os.path.abspath(script))  # not resolved: a command may be a link to elsewhere
    if {"site-packages", "dist-packages"} & set(script.parts):
        return True
    own_folder = Path(__file__).absolute().parent
    commands = {Path(sys.prefix, folder) for folder in ("bin", "Scripts")}
    library = Path(os.__file__).absolute().parent
    return script.parent in commands or own_folder in script.parents or library in script.parents


def _root_above(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if _marker(folder):
            return folder
    return None


def _marker(folder: Path | None) -> str:
    if folder is None:
        return ""
    return next((name for name in ROOT_MARKERS if (folder / name).exists()), "")


def _file_of(root: Path) -> Path:
    import platformdirs

    # The hash keeps two projects of one name apart.
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:10]
    return Path(platformdirs.user_data_dir("localq", appauthor=False), f"{root.name}-{digest}", "jobs.db")
