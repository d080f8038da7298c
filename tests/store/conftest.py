from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localq.store.sqlite import SQLiteStore


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a queue may be."""
    return str(tmp_path / "jobs.db")


@pytest.fixture
def store(path: str) -> Iterator[SQLiteStore]:
    """A queue at that path."""
    store = SQLiteStore(path)
    yield store
    store.close()
