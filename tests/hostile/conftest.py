from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support import Queue


@pytest.fixture(autouse=True)
def nothing_is_logged() -> Iterator[None]:
    """Half characters in the log of a test are too much for pytest-xdist."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """A queue file with everyday actors."""
    made = Queue(tmp_path / "queue")
    yield made
    made.close()


@pytest.fixture(scope="module")
def fresh_folder() -> Iterator[Callable[[], Path]]:
    """Gives a new folder at each call: hypothesis runs many examples in one test."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()
        yield lambda: Path(folder, str(next(numbers)))
