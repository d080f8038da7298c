from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localq import Abortable

from .support import Lab

if not Path("/proc/self/environ").exists():
    collect_ignore_glob = ["test_*.py"]  # they find the processes that they started by their environment


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes many seconds")


@pytest.fixture
def start_method(request: pytest.FixtureRequest) -> str | None:
    """How pools start their processes: as `both_start_methods` says, else as they like."""
    return getattr(request, "param", None)


@pytest.fixture
def lab(tmp_path: Path, start_method: str | None) -> Iterator[Lab]:
    lab = Lab(tmp_path, start_method)
    yield lab
    lab.close()


@pytest.fixture
def abortable(lab: Lab) -> Abortable:
    """What aborts messages of the lab's queue, from the test."""
    abortable = Abortable()
    lab.broker.add_middleware(abortable)
    lab.broker.declare_queue("default")
    return abortable
