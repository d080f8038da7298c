from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import ROOT, Receiver

NOT_SET = ("LOCALQ_URL", "PYTHONUNBUFFERED", "ROLLBAR_ACCESS_TOKEN", "ROLLBAR_ENDPOINT", "SENTRY_DSN")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """As a user has it who has set nothing, but with a data folder that is empty."""
    names = {name: value for name, value in os.environ.items() if name not in NOT_SET}
    here = {"XDG_DATA_HOME": str(tmp_path / "data"), "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    return {**names, **here}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()
