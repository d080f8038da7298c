"""The benchmarks still run, print what they measured and nothing else, and leave nothing behind."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .goals import figures
from .groups import GROUPS
from .run import QUICK as QUICK_SIZE

QUICK = ("tests.benchmarks.road", "--quick", "--messages", "100")
ALONE = (*QUICK, "--no-peers")


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


def samples_of(road: Any, file: Path) -> tuple[str, Any]:
    """What a run printed, and the samples that it wrote."""
    out, err = road.communicate(timeout=110)
    assert road.returncode == 0, err
    return out, json.loads(file.read_text())["samples"]


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_of_figures_is_measured(
    start: Callable[..., Any], tmp_path: Path, group: str
) -> None:
    file = tmp_path / "samples.json"
    out, samples = samples_of(start(*ALONE, "--only", group, "--json", str(file)), file)

    measured = [figure for figure in figures(replace(QUICK_SIZE, messages=100)) if figure.name in samples]
    assert measured
    for figure in measured:
        assert figure.label in out
        assert samples[figure.name]["localq"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_table_says_what_a_figure_is_divided_by_and_what_is_wanted(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "samples.json"
    out, samples = samples_of(start(*ALONE, "--only", "throughput", "--json", str(file)), file)

    assert set(samples["drain"]) == {"localq", "raw loop"}
    (line,) = [line for line in out.splitlines() if line.startswith("drain of no-ops")]
    divisor, _, ratio, goal, mark = re.split(r"\s{2,}", line)[-5:]
    assert (divisor, goal) == ("raw loop", ">= 0.6")
    assert float(ratio) == pytest.approx(samples["drain"]["localq"][0] / samples["drain"]["raw loop"][0], rel=0.01)
    assert mark == ("reached" if float(ratio) >= 0.6 else "NOT REACHED")
    assert "dramatiq + Redis was not measured: not asked for" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process_and_no_file(
    start: Callable[..., Any], until: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    road = start(*ALONE)
    until(lambda: list(temporary.glob("localq-crew-*/hold-*/held-*")), "a running worker")
    assert len(processes_that_use(temporary)) > 1

    road.send_signal(number)
    out, _ = road.communicate(timeout=60)

    assert road.returncode != 0
    assert out == ""
    assert processes_that_use(temporary) == []
    assert list(temporary.iterdir()) == []


def test_the_profile_names_statements_and_functions(start: Callable[..., Any]) -> None:
    profile = start("tests.benchmarks.profile_road", "--messages", "100", "--lines", "500")
    out, err = profile.communicate(timeout=100)

    assert profile.returncode == 0, err
    for expected in ("COMMIT", "INSERT", "claim(...)", "remove(...)", "execution.py"):
        assert expected in out
