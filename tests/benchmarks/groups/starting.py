"""From nothing: the import, and the first message of a fresh process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from ..actors import URL_VARIABLE
from ..columns import OURS
from ..contender import ROOT, environment_with
from ..crew import crew
from ..run import Run

IMPORTS = 5
"""Interpreters a round, with the import and without."""

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
    for _ in range(IMPORTS):
        run.samples.add("import", OURS, _interpreter("import localq") - _interpreter("pass"))
    with tempfile.TemporaryDirectory(prefix="localq-start-") as folder:
        sent, _ = _first_message(f"sqlite:///{folder}/jobs.db")
    run.samples.add("first_send", OURS, sent)
    with run.ours() as contender, crew(contender) as workers:
        workers.release()
        _, result = _first_message(contender.environment[URL_VARIABLE], "wait")
    run.samples.add("first_result", OURS, result)


def _interpreter(code: str) -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return 1000 * (time.monotonic() - begin)


def _first_message(url: str, *arguments: str) -> tuple[float, float]:
    """Until `send` has returned, and until the result is in hand."""
    environment = environment_with(**{URL_VARIABLE: url})
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
