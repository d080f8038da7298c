"""`examples/django_orders`: requests by Django's own test client, and a worker that really runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .frameworks import EXAMPLES, Stage, wait_until

SET_UP = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.test import Client
from shop.models import Order
client = Client(SERVER_NAME="localhost")
"""

POST = """
answer = client.post("/orders/", {wanted!r}, content_type="application/json")
print(json.dumps([answer.status_code, answer.json()]))
"""

GET = """
answer = client.get("/orders/{pk}/")
print(json.dumps([answer.status_code, answer.json() if answer.status_code == 200 else None]))
"""

PROBE = """
import localq
from django.db import connection
from shop.models import Order

@localq.actor
def connection_is_open_before_and_after_a_query():
    before = connection.connection is not None
    Order.objects.count()
    return before, connection.connection is not None
"""

ASK_PROBE = """
from probe import connection_is_open_before_and_after_a_query as ask
print(json.dumps([ask.send().get_result(block=True, timeout=30_000) for _ in range(3)]))
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A copy of the project, in which its files are left, with an empty database."""
    project = tmp_path / "django_orders"
    leave_out = shutil.ignore_patterns("__pycache__", "db.sqlite3*", "jobs.db*")
    shutil.copytree(EXAMPLES / "django_orders", project, ignore=leave_out)
    with Stage(project) as stage:
        stage.run(sys.executable, "manage.py", "migrate")
        yield stage


def ask(stage: Stage, script: str, **values: object) -> Any:
    return json.loads(stage.python(SET_UP + script.format(**values)))


def post(stage: Stage, *wanted: dict[str, object]) -> tuple[int, dict[str, Any]]:
    status, answer = ask(stage, POST, wanted=json.dumps(wanted))
    return status, answer


def is_packed(stage: Stage, pk: int) -> bool:
    status, order = ask(stage, GET, pk=pk)
    assert status == 200
    return order["packed_at"] is not None


def test_what_a_request_sends_is_done_by_the_worker_and_seen_by_the_next_request(stage: Stage) -> None:
    worker = stage.start_worker("shop.worker", "-p", "2")
    status, answer = post(stage, {"item": "tea", "quantity": 2}, {"item": "rice", "quantity": 5})
    assert (status, answer) == (202, {"orders": [1, 2]})
    for pk, label in ((1, "2 x tea"), (2, "5 x rice")):
        wait_until(lambda pk=pk: is_packed(stage, pk), why="the order is packed")
        _, order = ask(stage, GET, pk=pk)
        assert order["label"] == label
    assert ask(stage, "print(Order.objects.filter(packed_at=None).count())") == 0
    worker.stop()


def test_what_was_sent_before_the_worker_ran_is_done_later_and_from_any_folder(
    stage: Stage, tmp_path: Path
) -> None:
    assert post(stage, {"item": "tea", "quantity": 2})[0] == 202
    assert not is_packed(stage, 1)
    project, stage.folder = stage.folder, tmp_path
    worker = stage.start_worker("-P", project, "-p", "1", "shop.worker")
    stage.folder = project
    wait_until(lambda: is_packed(stage, 1), why="the order is packed")
    worker.stop()


def test_a_transaction_that_is_rolled_back_sends_nothing(stage: Stage) -> None:
    status, _ = post(stage, {"item": "tea", "quantity": 2}, {"item": "rice", "quantity": -1})
    assert status == 400
    assert ask(stage, "print(Order.objects.count())") == 0
    assert "(no messages)" in stage.localq("status", "--app", "shop.worker")
    assert post(stage, {"item": "tea", "quantity": 2})[0] == 202
    assert "(no messages)" not in stage.localq("status", "--app", "shop.worker")


@pytest.mark.parametrize("body", ["no json", '[{"item": "tea"}]', "[1]", '[{"item": "tea", "quantity": 1e300}]'])
def test_a_request_that_makes_no_sense_is_refused(stage: Stage, body: str) -> None:
    status, _ = ask(stage, POST, wanted=body)
    assert status == 400


def test_an_order_that_is_packed_already_stays_as_it_is(stage: Stage) -> None:
    twice = """
from shop.tasks import pack
pk = Order.objects.create(item="tea", quantity=2).pk
pack(pk)
first = Order.objects.get()
pack(pk)
print(json.dumps(first.packed_at == Order.objects.get().packed_at and first.label == "2 x tea"))
"""
    assert ask(stage, twice) is True


def test_connections_are_closed_between_messages(stage: Stage) -> None:
    (stage.folder / "probe.py").write_text(PROBE)
    worker = stage.start_worker("shop.worker", "probe", "-p", "1")
    assert ask(stage, ASK_PROBE) == [[False, True]] * 3
    worker.stop()


def test_the_project_passes_djangos_own_checks_and_has_no_migration_left_to_make(stage: Stage) -> None:
    stage.run(sys.executable, "manage.py", "check")
    stage.run(sys.executable, "manage.py", "makemigrations", "--check", "--dry-run")


def test_no_secret_is_in_the_settings(stage: Stage) -> None:
    keys = {
        ask(stage, "from django.conf import settings\nprint(json.dumps(settings.SECRET_KEY))") for _ in range(2)
    }
    assert len(keys) == 2
