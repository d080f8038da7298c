"""Packages written for dramatiq, as their users run them: programs in which ``import dramatiq`` gives localq."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..processes.support import Lab

if not Path("/proc/self/environ").exists():
    collect_ignore_glob = ["test_*.py"]  # as tests/processes


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A folder with a queue in it, whose programs import dramatiq without a line of their own for it."""
    lab = Lab(tmp_path, None)
    lab.env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), lab.env["PYTHONPATH"]])
    # Every program imports it when it starts. Some console scripts import dramatiq before they read anything else.
    lab.write("sitecustomize.py", "import localq; localq.install_as_dramatiq()")
    yield lab
    lab.close()
