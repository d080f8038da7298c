"""`examples/starlette_factors.py`: requests by Starlette's test client, and a worker that really runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .frameworks import EXAMPLES, Stage, wait_until

CLIENT = f"""
import json, sys
sys.path.insert(0, {str(EXAMPLES)!r})
from starlette.testclient import TestClient
from starlette_factors import app
with TestClient(app) as client:
    answers = [{{requests}}]
print(json.dumps([[answer.status_code, answer.json()] for answer in answers]))
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def ask(stage: Stage, *requests: str) -> list[tuple[int, Any]]:
    script = CLIENT.format(requests=", ".join(requests))
    return [(status, answer) for status, answer in json.loads(stage.python(script))]


def order(stage: Stage, *numbers: int) -> list[str]:
    """Send these numbers by requests; returns a request for each result."""
    answers = ask(stage, *(f"client.post('/factors', content='{number}')" for number in numbers))
    assert [status for status, _ in answers] == [202] * len(numbers)
    return [f"client.get({answer['factors']!r})" for _, answer in answers]


def test_a_request_sends_and_another_asks_for_the_result(stage: Stage) -> None:
    results = order(stage, 12, 97, 1)
    assert ask(stage, *results) == [(202, {"factors": None})] * 3

    worker = stage.start_worker("starlette_factors", "--path", EXAMPLES, "-p", "2")

    wait_until(lambda: {status for status, _ in ask(stage, *results)} == {200}, why="all results")
    assert [answer["factors"] for _, answer in ask(stage, *results)] == [[2, 2, 3], [97], []]
    worker.stop()


def test_a_number_that_was_sent_while_the_worker_runs_comes_back_too(stage: Stage) -> None:
    worker = stage.start_worker("starlette_factors", "--path", EXAMPLES, "-p", "1")
    (result,) = order(stage, 600851475143)
    wait_until(lambda: ask(stage, result)[0][0] == 200, why="the result")
    assert ask(stage, result) == [(200, {"factors": [71, 839, 1471, 6857]})]
    worker.stop()


def test_a_failure_is_shown_as_one(stage: Stage) -> None:
    (result,) = order(stage, 12)
    (stage.folder / "broken.py").write_text(
        "import localq\n\n@localq.actor(max_retries=0)\ndef factorize(number):\n    raise OSError('no numbers')\n"
    )
    worker = stage.start_worker("broken", "-p", "1")
    wait_until(lambda: ask(stage, result)[0][0] != 202, why="an end")
    assert ask(stage, result) == [(500, {"error": "actor raised OSError: no numbers"})]
    worker.stop()


def test_what_is_no_number_is_refused(stage: Stage) -> None:
    assert [status for status, _ in ask(stage, "client.post('/factors', content='twelve')")] == [400]
    assert "(no messages)" in stage.localq("status")
