"""Rows that no store has written: SQLite keeps any value in any column, whoever can write the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import localq
from localq.errors import DecodeError, ResultError
from localq.results import ResultFailure
from localq.store import Claim, Selection, WorkerRecord
from localq.store.base import DEAD

from .support import Queue, cells, wait_until

COLUMNS = [
    "message_id", "queue", "actor", "lane", "priority", "position", "eta", "owner", "claim", "claimed_at",
    "attempts", "crashes", "verdict", "reason", "died_at", "encoder", "wire", "created_at", "root", "unique_key",
    "body",
]  # fmt: skip

many = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
rows = st.dictionaries(st.sampled_from(COLUMNS), cells, min_size=1, max_size=4)


# -- messages


@many
@given(st.lists(rows, min_size=1, max_size=4))
def test_whatever_stands_in_a_row_it_runs_or_is_a_dead_letter_and_the_worker_goes_on(
    fresh_folder: Callable[[], Path], hostile: list[dict[str, Any]]
) -> None:
    queue = Queue(fresh_folder())
    for columns in hostile:
        queue.insert(**columns)

    def all_ours_are_done() -> bool:
        # A queue of another name is no damage: some other worker may serve it.
        foreign = {row["queue"] for row in hostile if isinstance(row.get("queue"), (str, int, float))}
        return all(
            set(counts) <= {DEAD} or name in set(map(str, foreign)) or name.replace(".", "").strip("-").isdigit()
            or name in ("0.5", "Inf", "-Inf", "1.0e+300")
            for name, counts in queue.broker.store.counts().items()
        )  # fmt: skip

    try:
        queue.work(all_ours_are_done)
        for letter in queue.dead():
            assert letter.reason
        queue.broker.store.purge(Selection())
        assert queue.records() == []
    finally:
        queue.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("priority", "high"),
        ("priority", 1e400),
        ("priority", b"\x00"),
        ("position", "x"),
        ("position", b"x"),
        ("eta", "tomorrow"),
        ("eta", float("inf")),
        ("actor", b"add"),
        ("message_id", b"\xff"),
        ("encoder", b"msgpack"),
        ("wire", "one"),
        ("wire", b"\x01"),
        ("body", "text"),
        ("body", 5),
        ("verdict", b"WorkerCrashed: x"),
        ("root", b"x"),
        ("created_at", "x"),
        ("crashes", "many"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_in_the_reason(queue: Queue, column: str, value: Any) -> None:
    assert queue.insert(**{column: value})
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert letter.reason is not None
    assert letter.reason.startswith("DecodeError: its row is damaged: ")
    assert column in letter.reason
    assert queue.ran == [(20, 22)]


def test_an_eta_and_a_priority_that_cannot_be_do_not_keep_the_others_from_running(queue: Queue) -> None:
    for number, priority in enumerate(["x", 0, b"\x00", float("inf"), -(2**63), 2**63 - 1]):
        queue.insert(message_id=f"m{number}", priority=priority)
    queue.work(queue.nothing_waits)
    assert [letter.message_id for letter in queue.dead()] == ["m0", "m2", "m3"]
    assert queue.ran.count((1, 2)) == 3


def test_a_body_that_is_missing_is_a_dead_letter(queue: Queue) -> None:
    queue.insert(body=None)
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert letter.reason == "DecodeError: its row is damaged: its body is missing"


def test_a_large_body_that_is_no_bytes_is_a_dead_letter(queue: Queue) -> None:
    queue.insert(body=None, sequence=7)
    queue.insert("payload", sequence=7, body="x" * 5000)
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert letter.reason == "DecodeError: its row is damaged: its body is missing"


def test_bytes_that_are_no_text_in_a_column_of_texts_are_read_all_the_same(queue: Queue) -> None:
    queue.insert(body=b"\xc1")
    queue.execute("UPDATE message SET actor = CAST(x'ff616464' AS TEXT), root = CAST(x'fe' AS TEXT)")
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert letter.actor == "\\xffadd"
    queue.execute("UPDATE message SET reason = CAST(x'fffe' AS TEXT)")
    assert [letter.reason for letter in queue.dead()] == ["\\xff\\xfe"]


def test_who_waits_for_the_result_of_a_damaged_row_is_told(queue: Queue) -> None:
    message = queue.add.message(1, 2)
    queue.insert(message_id=message.message_id, body=message.encode(), priority="high")
    queue.work(queue.nothing_waits)
    with pytest.raises(ResultFailure, match="priority is a str"):
        message.get_result(backend=queue.broker.get_results_backend())


def test_a_damaged_row_can_be_retried_and_purged(queue: Queue) -> None:
    queue.insert(priority="high")
    queue.work(queue.nothing_waits)
    store = queue.broker.store
    assert store.move(Selection([DEAD]), "waiting", now=1) == 1
    queue.work(queue.nothing_waits)
    assert store.purge(Selection([DEAD])) == 1
    assert queue.records() == []


@pytest.mark.parametrize(
    "columns",
    [
        {"lane": "nowhere"},
        {"lane": "zzz"},
        {"lane": "b"},
        {"lane": b"thread"},
        {"lane": ""},
        {"queue": b"default"},
        {"queue": b"default", "lane": "alone"},
        {"queue": b"default", "state": "delayed"},
        {"state": "running"},
        {"state": "running", "owner": "me"},
        {"state": "running", "owner": b"me"},
        {"state": "asleep"},
        {"state": "Waiting"},
        {"state": "zzz"},
        {"state": ""},
        {"state": b"waiting"},
        {"state": 7},
    ],
)
def test_what_nobody_could_ever_claim_or_finish_is_a_dead_letter(queue: Queue, columns: dict[str, Any]) -> None:
    assert queue.insert(**columns)
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert letter.reason == "DecodeError: its row is damaged: nobody can claim it"


def test_sweeping_leaves_alone_what_waits_is_delayed_or_runs(queue: Queue) -> None:
    store = queue.broker.store
    for delay in (None, 60_000, None):
        queue.add.send_with_options(args=(1, 2), delay=delay)
    worker = store.join(WorkerRecord("w", 1, ["default"], []), now=1)
    store.claim(Claim(worker, ["default"]), now=1)
    before = queue.records()
    assert store.sweep(now=1) == 0
    assert queue.records() == before


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"wire": 999}, "newer localq"),
        ({"encoder": "no such"}, "'no such'"),
        ({"encoder": "pickle"}, "PickleEncoder"),
        ({"encoder": "json"}, "json encoder cannot decode"),
        ({"encoder": ""}, "''"),
        ({"body": b""}, "cannot decode"),
        ({"actor": "x" * 1_000_000, "body": b"\xc1"}, "cannot decode"),
        ({"verdict": "Nonsense"}, "WorkerCrashed"),
        ({"verdict": "TimeLimitExceeded: x"}, "TimeLimitExceeded: x"),
    ],
)
def test_what_cannot_be_run_is_a_dead_letter_with_its_reason(
    queue: Queue, columns: dict[str, Any], reason: str
) -> None:
    queue.insert(**columns)
    queue.work(queue.nothing_waits)
    (letter,) = queue.dead()
    assert reason in (letter.reason or "")


def test_a_consumer_without_a_worker_buries_damaged_rows_too(queue: Queue) -> None:
    queue.insert(priority="high")
    queue.add.send(3, 4)
    consumer = queue.broker.consume("default", timeout=0)
    message = next(consumer)
    assert message is not None
    assert message.args == (3, 4)
    consumer.ack(message)
    assert next(consumer) is None
    consumer.close()
    assert [letter.reason for letter in queue.dead()] == ["DecodeError: its row is damaged: priority is a str"]


def test_bodies_that_are_hostile_messages_fail_and_the_worker_goes_on(queue: Queue) -> None:
    encode = localq.get_encoder().encode
    fields = queue.add.message(1, 2).asdict()
    options: list[Any] = [
        {"retries": "many"}, {"eta": "never"}, {"time_limit": "x"}, {"max_age": []}, {"pipe_target": 5},
        {"pipe_target": {"queue_name": 1}}, {"group_callbacks": 7}, {"on_success": ["x"]}, {"on_failure": {}},
        {"priority": "low"}, {"result_ttl": "x"}, {"store_results": {}}, {"requeue_timestamp": {}},
        {"group_callback_barrier_ttl": "x", "group_callback_uuid": [], "group_callbacks": [1]},
        {"notify_shutdown": "yes"}, {"abortable": []}, {"min_backoff": "x", "max_backoff": {}}, {1: 2},
        {"throws": 3}, {"retry_when": 4}, {"max_retries": "x"}, {"": None},
    ]  # fmt: skip
    changes: list[dict[str, Any]] = [{"options": each} for each in options]
    changes += [{"message_timestamp": value} for value in ("x", None, [], -1, 10**30, float("nan"))]
    changes += [{"message_id": value} for value in (None, 5, [], {}, "x" * 10_000, "\0", "\ud800")]
    changes += [{"kwargs": {1: 2}}, {"kwargs": {"x": 1}}, {"args": [1] * 1000}, {"actor_name": "\ud800"}]
    changes += [{"queue_name": "no such"}, {"queue_name": ""}, {"args": (10**5000, 1)}]
    for number, change in enumerate(changes):
        queue.insert(message_id=f"m{number}", body=encode(fields | change))
    queue.work(queue.nothing_waits)
    for letter in queue.dead():
        assert letter.reason


# -- the other tables


@many
@given(st.fixed_dictionaries(dict.fromkeys(("pid", "pool", "queues", "actors", "threads", "joined_at"), cells)))
def test_workers_that_no_worker_has_entered_are_reaped(
    fresh_folder: Callable[[], Path], columns: dict[str, Any]
) -> None:
    queue = Queue(fresh_folder())
    try:
        queue.insert("worker", name="forged", **columns)
        for worker in queue.broker.store.workers():
            assert isinstance(worker.pid, int)
            assert all(isinstance(name, str) for name in (*worker.queues, *worker.actors))
        queue.work(lambda: len(queue.broker.store.workers()) == 1)
    finally:
        queue.close()


@pytest.mark.parametrize(
    "name", ["../../innocent", "/ABSOLUTE", "", ".", "..", "a/../../../innocent", "x" * 5000, "a\0b", b"x", "it's"]
)
def test_the_name_of_a_forged_worker_leads_to_no_file_outside(queue: Queue, name: Any) -> None:
    innocent = queue.folder / "innocent"
    innocent.write_text("precious")
    if name == "/ABSOLUTE":
        name = str(innocent)
    row = {"pid": 1, "pool": "", "queues": "[]", "actors": "[]", "threads": 1, "joined_at": 1}
    queue.insert("worker", name=name, **row)
    queue.work(lambda: len(queue.broker.store.workers()) == 1)
    assert innocent.read_text() == "precious"


@pytest.mark.parametrize("text", ["", "x", "{}", "[1, null]", "[[[", "[" * 100_000, "null", '{"a": 1}', b"\xff", 5])
def test_what_a_forged_worker_declares_harms_nobody(queue: Queue, text: Any) -> None:
    row = {"name": "w", "pid": 1, "pool": "", "threads": 1, "joined_at": 1}
    queue.insert("worker", queues=text, actors="[]", **row)
    assert [worker.queues for worker in queue.broker.store.workers()] == [[]]
    queue.work(lambda: len(queue.broker.store.workers()) == 1)


@many
@given(cells, cells)
def test_a_result_that_is_none_is_an_error_of_ours_and_no_other(
    fresh_folder: Callable[[], Path], data: Any, expires: Any
) -> None:
    queue = Queue(fresh_folder())
    try:
        message = queue.add.message(1, 2)
        backend = queue.broker.get_results_backend()
        queue.insert("value", key=backend.build_message_key(message), data=data, expires_at=expires)
        with pytest.raises((ResultError, DecodeError)):
            message.get_result(backend=backend)
    finally:
        queue.close()


@pytest.mark.parametrize(
    "kept",
    [
        {}, {"other": 1}, {"result": {"__t": "dramatiq.results.Result", "exn": {}}},
        {"result": {"__t": "dramatiq.results.Result", "exn": 5}}, {"result": {"__t": "localq.results.Value"}},
        {"result": {"__t": "dramatiq.results.Result"}}, {"result": {"__t": []}},
        {"result": {"__t": "dramatiq.results.Result", "exn": {"type": [], "msg": {}}}},
    ],
)  # fmt: skip
def test_results_of_another_make_are_values_or_errors_of_ours(queue: Queue, kept: dict[str, Any]) -> None:
    message = queue.add.message(1, 2)
    backend = queue.broker.get_results_backend()
    for data in (localq.get_encoder().encode(kept), json.dumps(kept).encode()):
        key = backend.build_message_key(message)
        queue.execute("INSERT OR REPLACE INTO value (key, data, expires_at) VALUES (?, ?, ?)", (key, data, 2**62))
        try:
            assert message.get_result(backend=backend, block=True, timeout=1_000) == kept["result"]
        except (ResultFailure, DecodeError):
            pass


@many
@given(cells, cells)
def test_a_counter_that_is_none_counts_from_nothing(
    fresh_folder: Callable[[], Path], value: Any, expires: Any
) -> None:
    queue = Queue(fresh_folder())
    store = queue.broker.store
    try:
        if not queue.insert("counter", key="k", value=value, expires_at=expires):
            return
        store.incr("k", 1, 10, 1000, now=5)
        store.decr("k", 1, 0, 1000, now=5)
        store.incr_and_sum("k", lambda: ["k", "l"], 1, 10, 1000, now=5)
        store.add("k", 1, 1000, now=5)
        store.sweep(now=5)
    finally:
        queue.close()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"5", "text", 5, b"\xff", b'{"id": 1}', b"[" * 50_000])
def test_events_that_are_none_keep_nobody_from_aborting(queue: Queue, data: Any) -> None:
    @localq.actor(broker=queue.broker, max_retries=0)
    def spin() -> None:
        queue.ran.append("spins")
        wait_until(lambda: False)

    queue.insert("event", topic="aborts", data=data, expires_at=2**62)
    message = spin.send()

    def aborted() -> bool:
        if "spins" in queue.ran and "aborted" not in queue.ran:
            queue.ran.append("aborted")
            localq.abort(message.message_id, middleware=abortable_of(queue.broker))
        return bool(queue.dead())

    queue.work(aborted)
    assert [letter.reason for letter in queue.dead()] == ["Abort: the message was aborted"]


def abortable_of(broker: localq.Broker) -> localq.Abortable:
    (found,) = (each for each in broker.middleware if isinstance(each, localq.Abortable))
    return found


@many
@given(cells, cells, cells)
def test_schedules_that_are_none_are_read_and_deleted(
    fresh_folder: Callable[[], Path], name: Any, due_at: Any, body: Any
) -> None:
    queue = Queue(fresh_folder())
    store = queue.broker.store
    try:
        queue.insert("schedule", name=name, due_at=due_at, body=body)
        store.due_schedules(now=2**62)
        if isinstance(name, str):
            store.delete_schedule(name)
    finally:
        queue.close()
