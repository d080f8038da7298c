"""What arrives at Sentry and Rollbar, sent by their real clients to a server of the test's own."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .support import EXAMPLES, ROOT, Receiver, Request, output_of, start


@pytest.fixture
def sentry(environment: dict[str, str], receiver: Receiver) -> dict[str, str]:
    return {**environment, "SENTRY_DSN": f"http://key@{receiver.address}/1"}


def dead_letters(environment: dict[str, str]) -> list[dict[str, Any]]:
    command = ("-m", "localq", "dead", "list", "--json")
    letters: list[dict[str, Any]] = json.loads(output_of(start(*command, environment=environment, cwd=ROOT)))
    return letters


def events_in(request: Request) -> list[dict[str, Any]]:
    """The events of an envelope: lines of JSON, each item being a header and what it announces."""
    lines = [json.loads(line) for line in request.body.splitlines()]
    return [event for header, event in pairwise(lines) if header.get("type") == "event"]


def test_sentry_gets_each_error_once_with_its_actor_its_message_and_its_frames(
    tmp_path: Path, sentry: dict[str, str], receiver: Receiver
) -> None:
    output = output_of(start(EXAMPLES / "report_to_sentry.py", environment=sentry, cwd=tmp_path))
    assert output == ""
    [event] = [event for request in receiver.requests() for event in events_in(request)]
    [letter] = dead_letters(sentry)
    assert event["transaction"] == event["contexts"]["dramatiq"]["data"]["actor_name"] == "ship"
    assert event["extra"]["dramatiq_message_id"] == letter["message_id"]
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("LookupError", "there is no order 42")
    assert (error["mechanism"]["type"], error["mechanism"]["handled"]) == ("dramatiq", False)
    frame = error["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["vars"]) == ("ship", {"order": "42"})


def test_sentry_gets_the_errors_of_a_pool_that_ends_right_after_them(
    tmp_path: Path, sentry: dict[str, str], receiver: Receiver
) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import localq, report_to_sentry
if __name__ == "__main__":
    with localq.pool(processes=2):
        for order in range(20):
            report_to_sentry.ship.send(order)
        localq.get_broker().join("default")
"""
    receiver.slowness = 0.02
    (tmp_path / "many.py").write_text(program)
    output_of(start(tmp_path / "many.py", environment=sentry, cwd=tmp_path))
    events = [event for request in receiver.requests() for event in events_in(request)]
    errors = sorted(event["contexts"]["dramatiq"]["data"]["args"][0] for event in events)
    assert errors == list(range(20))


def test_rollbar_gets_each_attempt_with_its_actor_its_message_and_its_frames(
    tmp_path: Path, environment: dict[str, str], receiver: Receiver
) -> None:
    endpoint = f"http://{receiver.address}/api/1/"
    account = {**environment, "ROLLBAR_ACCESS_TOKEN": "a token", "ROLLBAR_ENDPOINT": endpoint}
    output = output_of(start(EXAMPLES / "report_to_rollbar.py", environment=account, cwd=tmp_path))
    assert output == ""
    requests = receiver.requests()
    assert [request.path for request in requests] == 2 * ["/api/1/item/"]
    assert [request.headers["X-Rollbar-Access-Token"] for request in requests] == 2 * ["a token"]
    reports = [json.loads(request.body)["data"] for request in requests]
    [letter] = dead_letters(account)
    for attempt, report in enumerate(reports, start=1):
        expected = {"actor": "pay", "message_id": letter["message_id"], "attempt": attempt}
        assert report["custom"] == expected
        trace = report["body"]["trace"]
        assert trace["exception"] == {"class": "LookupError", "message": "there is no invoice 42"}
        assert (trace["frames"][-1]["method"], trace["frames"][-1]["locals"]) == ("pay", {"invoice": 42})
