"""mypy and pyright see what users see: the types of actors, messages and results."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "types" / "program.py"
REFUSED = {
    number for number, line in enumerate(PROGRAM.read_text("utf-8").splitlines(), 1) if line.endswith("# refused")
}


def run(*command: str) -> str:
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPYPATH": str(ROOT)}
    # In a folder of its own: a configuration of ours must not make it easier.
    ran = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=PROGRAM.parent, timeout=110,
        env=environment,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr  # both say so where they refuse something
    return ran.stdout


def test_some_lines_are_to_be_refused() -> None:
    assert len(REFUSED) == 7


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_mypy_refuses_those_lines_and_no_others(version: str, tmp_path: Path) -> None:
    options = ("--strict", "--python-version", version, "--cache-dir", str(tmp_path), "--no-error-summary")
    output = run("mypy", *options, str(PROGRAM))
    assert {int(number) for number in re.findall(r"program\.py:(\d+): error", output)} == REFUSED, output


def test_pyright_refuses_those_lines_and_no_others() -> None:
    # One test: where pyright runs for the first time it fetches itself, which two at a time must not do.
    for version in ("3.10", "3.14"):
        options = ("--outputjson", "--pythonversion", version, "--pythonpath", sys.executable)
        found = json.loads(run("pyright", *options, str(PROGRAM)))["generalDiagnostics"]
        errors = {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}
        assert errors == REFUSED, found
