"""A short form of `python -m tests.torture.interrupts`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .interrupts import WAYS, run

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it counts file descriptors")


@pytest.mark.parametrize("way", WAYS)
def test_interrupts_anywhere_in_what_a_task_does_with_localq_leave_nothing_behind(way: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)  # shown when it fails
    totals = run(WAYS[way], seed=seed, interrupts=600, processes=2)
    assert sum(totals.raised.values()) >= 600
    assert totals.places["send"] > 0
    assert totals.places["get_result"] > 0
