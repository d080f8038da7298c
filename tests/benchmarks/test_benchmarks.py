"""The benchmarks still run, print what they measured and nothing else, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .contender import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc and use flock")

QUICK = ("tests.benchmarks.road", "--quick", "--no-peer", "--messages", "100")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a module of the benchmarks, whose temporary files lie in a folder of its own."""
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": ROOT}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def processes_that_use(folder: Path) -> list[str]:
    """The commands of processes that have the folder for their temporary files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}\0" in (process / "environ").read_text("utf-8", "replace"):
                found.append((process / "cmdline").read_text("utf-8", "replace"))
        except OSError:
            continue
    return found


def test_the_road_is_measured_beside_the_raw_loop(start: Callable[..., Any], tmp_path: Path) -> None:
    road = start(*QUICK, "--json", str(tmp_path / "samples.json"))
    out, err = road.communicate(timeout=100)

    assert road.returncode == 0, err
    assert "dramatiq + Redis was not measured: --no-peer was given" in out
    rows = json.loads((tmp_path / "samples.json").read_text())["rows"]
    assert set(rows["drain"]["medians"]) == {"localq", "raw loop"}
    assert all(value > 0 for value in rows["round_trip_p50"]["samples"]["localq"])
    assert "drain_8" not in rows
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process_and_no_file(
    start: Callable[..., Any], until: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    road = start(*QUICK)
    until(lambda: list(temporary.glob("localq-crew-*/held-*")), "a running worker")
    assert len(processes_that_use(temporary)) > 1

    road.send_signal(number)
    out, _ = road.communicate(timeout=60)

    assert road.returncode != 0
    assert out == ""
    assert processes_that_use(temporary) == []
    assert list(temporary.iterdir()) == []


def test_the_profile_names_statements_and_functions(start: Callable[..., Any]) -> None:
    profile = start("tests.benchmarks.profile_road", "--messages", "100")
    out, err = profile.communicate(timeout=100)

    assert profile.returncode == 0, err
    for expected in ("COMMIT", "INSERT", "claim(...)", "remove(...)", "execution.py"):
        assert expected in out
