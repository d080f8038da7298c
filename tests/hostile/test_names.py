"""Names and ids of all kinds: each is refused where it is given, or goes all the way and back."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import localq
from localq.errors import BrokerError, EncodeError, StoreError
from localq.names import queue_name_re
from localq.store import Claim, Count, Event, Outcome, Record, Schedule, Selection, Store, Value, WorkerRecord
from localq.store.base import DEAD, RETRY, WAITING
from localq.store.memory import MemoryStore

from .support import NASTY_TEXTS, Queue, any_text

REFUSED = (ValueError, TypeError, StoreError, EncodeError)
"""What a sender may be told."""

many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
anything = st.one_of(
    any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=20), st.just(object()),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


FIELDS = ("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp")


def tables(queue: Queue) -> list[str]:
    with queue.broker.store.database.read as connection:  # type: ignore[attr-defined]
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return [name for (name,) in rows]


# -- at the sender


@many
@given(any_text)
def test_a_queue_is_declared_exactly_when_its_name_is_one(name: str) -> None:
    broker = localq.Broker([], url="memory://")
    if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9._-]*", name):
        broker.declare_queue(name)
        return
    with pytest.raises(ValueError, match="is no name for a queue"):
        broker.declare_queue(name)
    with pytest.raises(ValueError, match="is no name for a queue"):
        localq.actor(lambda: None, actor_name="a", queue_name=name, broker=broker)
    with pytest.raises(ValueError, match="is no name for a queue"):
        broker.enqueue(localq.Message(name, "a", (), {}, {}))
    assert broker.actors == {}
    assert broker.store.counts() == {}


@pytest.mark.parametrize("name", NASTY_TEXTS)
def test_an_actor_of_any_name_runs_or_is_refused_where_it_is_declared(queue: Queue, name: str) -> None:
    ran: list[str] = []

    def declare() -> Any:
        return localq.actor(lambda text: ran.append(text) or text, actor_name=name, broker=queue.broker)

    if not name:
        name = "<lambda>"  # none was given
    if "\0" in name or "\ud800" in name:
        with pytest.raises(ValueError, match="is no name for an actor"):
            declare()
        assert list(queue.broker.actors) == ["add"]
        with pytest.raises(ValueError, match="is no name for an actor"):
            queue.broker.enqueue(localq.Message("default", name, (), {}, {}))
        return
    message = declare().send("x")
    queue.work(lambda: ran)
    assert message.get_result(backend=queue.broker.get_results_backend(), block=True, timeout=20_000) == "x"
    assert queue.records() == []


@pytest.mark.parametrize("name", [name for name in NASTY_TEXTS if not {"\0", "\ud800"} & set(name)])
def test_a_dead_letter_of_an_actor_of_any_name_is_revived_when_it_is_declared(queue: Queue, name: str) -> None:
    queue.broker.enqueue(localq.Message("default", name, ("x",), {}, {}))
    queue.work(queue.dead)
    ran: list[str] = []
    if name:
        localq.actor(ran.append, actor_name=name, broker=queue.broker)
        queue.work(lambda: ran)
        assert queue.records() == []


@many
@given(anything)
@example("")
@example("\0")
def test_a_message_of_any_id_has_its_result_or_is_refused(fresh_folder: Callable[[], Path], given_id: Any) -> None:
    queue = Queue(fresh_folder())
    try:
        message = queue.add.message(1, 2).copy(message_id=given_id)
        try:
            sent = queue.broker.enqueue(message)
        except REFUSED:
            assert queue.records() == []
            return
        queue.work(queue.nothing_waits)
        assert queue.dead() == []
        backend = queue.broker.get_results_backend()
        assert sent.get_result(backend=backend, block=True, timeout=20_000) == 3
    finally:
        queue.close()


@many
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(FIELDS, anything),
    )
)
def test_a_message_of_any_fields_is_refused_or_comes_to_an_end(
    fresh_folder: Callable[[], Path], fields: dict[str, Any]
) -> None:
    queue = Queue(fresh_folder())
    try:
        try:
            queue.broker.enqueue(queue.add.message(1, 2).copy(**fields))
        except REFUSED:
            assert queue.records() == []
            return
        queue.work(lambda: queue.nothing_waits() or {"default"} != set(queue.broker.store.counts()))
        assert all(letter.reason for letter in queue.dead())
    finally:
        queue.close()


OPTIONS = [
    "priority", "eta", "max_retries", "min_backoff", "max_backoff", "time_limit", "max_age", "result_ttl",
    "store_results", "on_success", "on_failure", "on_retry_exhausted", "notify_shutdown", "abortable",
    "pipe_ignore", "pipe_target", "retries", "nobody_knows", "throws", "retry_when", "delay", "args", "kwargs",
]  # fmt: skip


@many
@given(st.dictionaries(st.sampled_from(OPTIONS), anything, max_size=4))
def test_options_of_any_type_are_refused_at_once_or_their_message_comes_to_an_end(
    fresh_folder: Callable[[], Path], options: dict[str, Any]
) -> None:
    queue = Queue(fresh_folder())
    try:
        try:
            queue.add.send_with_options(**{"args": (1, 2), **options})
        except REFUSED:
            assert queue.records() == []
            return
        postponed = {"delayed", DEAD}
        queue.work(lambda: all(set(counts) <= postponed for counts in queue.broker.store.counts().values()))
    finally:
        queue.close()


@many
@given(st.sampled_from([name for name in OPTIONS if name not in ("args", "kwargs", "delay")]), anything)
def test_options_of_an_actor_are_refused_where_it_is_declared_or_it_runs(name: str, value: Any) -> None:
    broker = localq.connect("memory://")
    try:
        declared = localq.actor(lambda: 1, actor_name="a", broker=broker, **{"max_retries": 0, name: value})
    except (TypeError, ValueError):
        assert broker.actors == {}
        return
    worker = localq.Worker(broker, worker_threads=1)
    worker.start()
    try:
        declared.send()
        broker.join("default", timeout=20_000)
    except (TypeError, ValueError):  # of the message, for what the actor gives it
        pass
    finally:
        worker.stop()


# -- in every verb of a store


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, queue: Queue) -> Store:
    return queue.broker.store if request.param == "sqlite" else MemoryStore("memory://")


@pytest.mark.parametrize("name", NASTY_TEXTS)
def test_a_name_in_every_verb_is_only_a_name(queue: Queue, store: Store, name: str) -> None:
    before = tables(queue)
    innocent = Record("innocent", "other", "other", b"")
    store.put([innocent], now=1)
    try:
        everywhere(store, name)
    except REFUSED:
        assert "\ud800" in name, f"only what cannot be stored may be refused, not {name[:50]!r}"
    assert [record.message_id for record in store.browse(Selection(queues=["other"]))] == ["innocent"]
    assert tables(queue) == before
    assert not (Path.cwd() / "pwned").exists()
    store.close() if isinstance(store, MemoryStore) else None


def everywhere(store: Store, name: str) -> None:
    """Give the name to every verb, in the place of every text."""
    record = Record(name, name, name, b"x", encoder=name, root=name, unique_key=name)
    store.put([record], now=1)
    assert [found.actor for found in store.browse(Selection(message_ids=[name]))] == [name]
    assert store.counts()[name] == {WAITING: 1}
    selections = [Selection(queues=[name]), Selection(actors=[name]), Selection(message_ids=[name], queues=[name])]
    assert [len(store.browse(selection)) for selection in selections] == [1, 1, 1]
    worker = store.join(WorkerRecord("w", 1, [name], [name], pool=name), now=1)
    assert [list(each.actors) for each in store.workers()] == [[name]]
    assert store.wait([name], now=1, timeout=0)
    assert not store.wait([name], now=1, timeout=0, skip=lambda: frozenset([name]))
    assert store.claim(Claim(worker, [name], skip=frozenset([name])), now=1) == []
    (claimed,) = store.claim(Claim(worker, [name]), now=1)
    counts = [Count(name, 1, 1000, [Record(name, name, name, b"callback")])]
    carried = {"values": [Value(name, b"v", 1000, name)], "events": [Event(name, b"e", 1000)], "counts": counts}
    again = Record(name, name, name, b"again")
    store.finish([Outcome(claimed, RETRY, retry=again, puts=[again], **carried)], now=1)  # type: ignore[arg-type]
    assert len(store.browse(Selection(queues=[name]))) == 3
    assert store.get_value(name, now=2) == b"v"
    assert [event.topic for _, event in store.events([name], after=0)] == [name]
    claimed = store.claim(Claim(worker, [name]), now=1)[0]
    store.finish([Outcome(claimed, DEAD, f"{name}: {name}")], now=1)
    assert [letter.reason for letter in store.browse(Selection([DEAD]))] == [f"{name}: {name}"]
    assert store.move(Selection([DEAD], queues=[name]), WAITING, now=1) == 1
    assert store.get_value(name, now=2) is None
    assert store.add(name, 1, 1000, now=1)
    assert store.incr(name, 1, 5, 1000, now=1)
    assert store.decr(name, 1, 0, 1000, now=1)
    assert store.incr_and_sum(name, lambda: [name, name], 1, 9, 1000, now=1)
    store.put_schedule(Schedule(name, 5, b"s"))
    (due,) = store.due_schedules(now=5)
    assert store.advance_schedule(due, 10, [again], now=5)
    assert store.delete_schedule(name)
    store.leave(worker, now=1)
    assert store.purge(Selection(queues=[name])) == 4


# -- URLs


@many
@given(anything)
@pytest.mark.skipif(os.name == "nt", reason="names of files")
def test_what_is_no_url_is_a_broker_error(url: Any) -> None:
    if isinstance(url, str) and url.startswith(("sqlite:", "memory:")):
        return
    with pytest.raises(BrokerError, match="names no store"):
        localq.store.open_store(url)


paths = st.one_of(any_text, st.text("/.%?#&=;:~ a\\\n", max_size=30))


@many
@given(paths, st.lists(st.tuples(any_text, any_text), max_size=2))
@example("\ud800", [])
@example("a", [("gate_timeout", "9" * 5000)])
@example("a", [("gate_timeout", "99999999999")])
@example("a", [("busy_timeout", "2147483648")])
@example("a" * 300, [])
@example("%00", [])
@example("dev/null", [])
@example("/dev/null", [])
@example("/dev/full", [])
def test_any_url_of_a_file_names_one_or_is_a_broker_error(
    fresh_folder: Callable[[], Path], path: str, options: list[tuple[str, str]]
) -> None:
    folder = fresh_folder()
    folder.mkdir()
    query = "&".join(f"{name}={value}" for name, value in options)
    for url in (f"sqlite:///{path}?{query}", f"sqlite:///{folder}/{path}?{query}", f"sqlite://{path}{query}"):
        before, os_folder = Path.cwd(), folder
        os.chdir(os_folder)
        try:
            store = localq.store.open_store(url) if inside(folder, url) else None
        except BrokerError:
            continue
        finally:
            os.chdir(before)
        if store is not None:
            store.put([Record("m", "q", "a", b"")], now=1)
            store.close()


def inside(folder: Path, url: str) -> bool:
    """Whether it leads nowhere but into the folder, or nowhere at all."""
    try:
        path = localq.store.sqlite_path(url)
    except BrokerError:
        return True
    return path.startswith((f"{folder}/", "/dev/"))


def test_a_url_in_the_environment_that_is_none_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("redis://x", "sqlite://", "x" * 10_000, "sqlite:///\udcff/\udcff", "\n", "sqlite:///a?b=c"):
        monkeypatch.setenv("LOCALQ_URL", url)
        broker = localq.Broker([])
        with pytest.raises(BrokerError):
            broker.enqueue(localq.Message("default", "a", (), {}, {}))


def test_names_of_queues_are_those_of_dramatiq() -> None:
    assert queue_name_re.fullmatch("x" * 10_000)
    assert not queue_name_re.fullmatch("default\n")
