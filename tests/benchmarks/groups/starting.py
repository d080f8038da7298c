"""From nothing: the import, and the first message of a fresh process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..actors import URL_VARIABLE
from ..columns import OURS
from ..contender import ROOT, environment_with
from ..crew import crew
from ..run import Run

IMPORTS = 5
"""Pairs of interpreters a round, with the import and without."""

IMPORT, NOTHING = "import localq", "pass"

FIRST_MESSAGE = """
import os, sys, time
import localq
localq.connect(os.environ["LOCALQ_BENCHMARK_URL"])

@localq.actor
def noop():
    pass

message = noop.send()
sent = time.monotonic_ns()
if sys.argv[1:] == ["wait"]:
    message.get_result(block=True, timeout=60_000)
print(sent, time.monotonic_ns(), flush=True)
"""


def measure(run: Run) -> None:
    """In milliseconds; a fresh interpreter each time, whose own start counts for the messages."""
    environment = run.kept("bytecode", _with_bytecode)
    for _ in range(IMPORTS):
        took = _interpreter(IMPORT, environment) - _interpreter(NOTHING, environment)
        run.samples.add("import", OURS, took)
    with tempfile.TemporaryDirectory(prefix="localq-start-") as folder:
        sent, _ = _first_message({**environment, URL_VARIABLE: f"sqlite:///{folder}/jobs.db"})
    run.samples.add("first_send", OURS, sent)
    with run.ours() as contender, crew(contender) as workers:
        workers.release()
        url = contender.environment[URL_VARIABLE]
        _, result = _first_message({**environment, URL_VARIABLE: url}, "wait")
    run.samples.add("first_result", OURS, result)


@contextmanager
def _with_bytecode() -> Iterator[dict[str, str]]:
    """An environment in which all modules are compiled already, as those of an installed package are, also
    where this one is told to write no bytecode."""
    with tempfile.TemporaryDirectory(prefix="localq-bytecode-") as folder:
        environment = environment_with(PYTHONPYCACHEPREFIX=folder)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _first_message({**environment, URL_VARIABLE: f"sqlite:///{folder}/jobs.db"})
        yield environment


def _interpreter(code: str, environment: dict[str, str]) -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    return 1000 * (time.monotonic() - begin)


def _first_message(environment: dict[str, str], *arguments: str) -> tuple[float, float]:
    """Until `send` has returned, and until the result is in hand."""
    begin = time.monotonic_ns()
    process = subprocess.run(
        [sys.executable, "-c", FIRST_MESSAGE, *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    sent, result = map(int, process.stdout.split())
    return (sent - begin) / 1e6, (result - begin) / 1e6
