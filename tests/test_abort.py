"""Aborting messages: those that wait never run, those that run are interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import Abort, Abortable, AbortMode, Broker, abort, abort_requested
from localq.aborting import Event
from localq.aborting.backends import StoreBackend, StubBackend
from localq.clock import current_millis
from localq.errors import ResultFailure
from localq.middleware import default_middleware
from localq.store import Selection, open_store


class Runs:
    """An actor's function that runs until it is aborted, or for ten seconds."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.ends: list[str] = []

    def __call__(self) -> None:
        self.started.set()
        try:
            end = time.monotonic() + 10
            while time.monotonic() < end:
                time.sleep(0.001)
            self.ends.append("returned")
        except Abort:
            self.ends.append("aborted")
            raise


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def stub_backend() -> StubBackend:
    return StubBackend()


@pytest.fixture(params=["own store", "stub"])
def broker(request: pytest.FixtureRequest, url: str) -> Broker:
    middleware = [make() for make in default_middleware]
    backend = StubBackend() if request.param == "stub" else None
    return localq.connect(
        url, middleware=[*middleware, localq.results.Results(store_results=True), Abortable(backend=backend)]
    )


def abortable_of(broker: Broker) -> Abortable:
    return next(one for one in broker.middleware if isinstance(one, Abortable))


def test_a_running_message_is_interrupted_and_not_retried(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any], runs: Runs
) -> None:
    work = localq.actor(runs, actor_name="work")
    start_worker(broker)
    message = work.send()
    assert runs.started.wait(10)

    asked = time.monotonic()
    abort(message.message_id)

    with pytest.raises(ResultFailure, match="Abort"):
        message.get_result(block=True)
    assert time.monotonic() - asked < 5
    assert runs.ends == ["aborted"]
    until(lambda: broker.store.counts() == {"default": {"dead": 1}})


def test_a_waiting_message_never_runs_and_who_waits_hears_it(
    broker: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    work = localq.actor(runs, actor_name="work")
    message = work.send()
    abort(message.message_id)
    start_worker(broker)

    with pytest.raises(ResultFailure, match="Abort"):
        message.get_result(block=True)
    assert not runs.started.is_set()


def test_in_the_own_store_a_delayed_message_is_cancelled_at_once(url: str, runs: Runs) -> None:
    broker = localq.connect(url)
    work = localq.actor(runs, actor_name="work")
    message = work.send_with_options(delay=3_600_000)

    abort(message.message_id)

    with pytest.raises(ResultFailure, match="Abort"):
        message.get_result()
    assert broker.store.counts() == {"default": {"cancelled": 1}}


def test_a_cancelled_member_of_a_group_is_told_to_those_who_fire_on_failure(
    url: str, start_worker: Callable[..., Any], runs: Runs, until: Callable[..., Any]
) -> None:
    broker = localq.connect(url)
    work, told = localq.actor(runs, actor_name="work"), []

    @localq.actor(fire_on_failure=True)
    def tell(failures: list[dict[str, Any]]) -> None:
        told.append(failures)

    members = localq.group([work.message()], broker=broker)
    members.add_completion_callback(tell.message())
    members.run()

    abort(members.children[0].message_id)
    start_worker(broker)

    until(lambda: told)
    ((failure,),) = told
    assert (failure["actor_name"], failure["type"]) == ("work", "Abort")
    assert not runs.started.is_set()


def test_a_cancelled_message_runs_when_it_is_moved_back(url: str, start_worker: Callable[..., Any]) -> None:
    broker = localq.connect(url)

    @localq.actor
    def work() -> str:
        return "ran after all"

    message = work.send()
    abort(message.message_id)
    broker.store.move(Selection(message_ids=[message.message_id]), "waiting", now=current_millis())
    start_worker(broker)

    assert message.get_result(block=True) == "ran after all"


def test_a_message_that_is_not_there_leaves_nothing(url: str) -> None:
    broker = localq.connect(url)
    abort("nobody")
    abort("nobody", mode=AbortMode.CANCEL)
    assert broker.store.browse(Selection()) == []
    assert StoreBackend(broker.store).poll("cancel:nobody") is None


def test_cancel_leaves_a_running_message_alone(broker: Broker, start_worker: Callable[..., Any]) -> None:
    started, go = threading.Event(), threading.Event()

    @localq.actor
    def work() -> str:
        started.set()
        while not go.wait(0.001):
            pass
        return "done"

    start_worker(broker)
    message = work.send()
    assert started.wait(10)
    abort(message.message_id, mode=AbortMode.CANCEL)
    go.set()
    assert message.get_result(block=True) == "done"


def test_with_a_timeout_the_actor_may_end_by_itself(broker: Broker, start_worker: Callable[..., Any]) -> None:
    started = threading.Event()

    @localq.actor
    def work() -> float:
        started.set()
        while (left := abort_requested()) is None:
            time.sleep(0.001)
        return left

    start_worker(broker)
    message = work.send()
    assert started.wait(10)
    assert abort_requested(message.message_id) is None
    abort(message.message_id, abort_timeout=60_000)
    assert 0 < message.get_result(block=True) <= 60_000


def test_who_does_not_end_by_itself_is_interrupted_when_the_time_is_over(
    broker: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    work = localq.actor(runs, actor_name="work")
    start_worker(broker)
    message = work.send()
    assert runs.started.wait(10)
    abort(message.message_id, abort_timeout=200)
    with pytest.raises(ResultFailure, match="Abort"):
        message.get_result(block=True)
    assert runs.ends == ["aborted"]


def test_the_watcher_can_be_started_on_a_worker_that_runs(
    url: str, start_worker: Callable[..., Any], stub_backend: StubBackend, runs: Runs
) -> None:
    broker = localq.connect(url, middleware=[make() for make in default_middleware])
    worker = start_worker(broker)
    abortable = Abortable(backend=stub_backend)
    broker.add_middleware(abortable)
    abortable.before_worker_boot(broker, worker)
    message = localq.actor(runs, actor_name="work").send()
    assert runs.started.wait(10)
    abort(message.message_id)
    broker.join("default", timeout=10_000)
    assert runs.ends == ["aborted"]


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("actor", [None, False, True])
@pytest.mark.parametrize("message", [None, False, True])
def test_the_message_decides_then_the_actor_then_the_middleware(
    broker: Broker, default: bool, actor: bool | None, message: bool | None
) -> None:
    work = localq.actor(lambda: None, actor_name="work", abortable=actor)
    decided = Abortable(abortable=default).is_abortable(work, work.message_with_options(abortable=message))
    assert decided is (message if message is not None else actor if actor is not None else default)


def test_without_the_middleware_nothing_can_be_aborted(url: str) -> None:
    localq.connect(url, middleware=[])
    with pytest.raises(RuntimeError, match="Abortable"):
        abort("some")
    with pytest.raises(RuntimeError, match="Abortable"):
        abort_requested()


def test_killing_is_refused(broker: Broker) -> None:
    with pytest.raises(NotImplementedError, match="KILL"):
        abort("some", mode=AbortMode.KILL)


# -- events


@pytest.fixture(params=["stub", "store"])
def events(request: pytest.FixtureRequest, url: str) -> StubBackend | StoreBackend:
    return StubBackend() if request.param == "stub" else StoreBackend(open_store(url))


def test_an_event_is_delivered_once(events: Any) -> None:
    events.notify([Event("one", {"n": [1, None]}), Event("two", {})], ttl=60_000)
    assert events.poll("three") is None
    assert events.poll("one") == Event("one", {"n": [1, None]})
    assert events.poll("one") is None
    assert events.wait_many(["one", "two"], timeout=1000) == Event("two", {})
    assert events.wait_many(["one", "two"], timeout=10) is None


def test_who_waits_is_woken(events: Any) -> None:
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(events.wait_many(["a", "b"], timeout=20_000)))
    waiter.start()
    events.notify([Event("c", {})], ttl=60_000)
    events.notify([Event("b", {"x": 1})], ttl=60_000)
    waiter.join(10)
    assert found == [Event("b", {"x": 1})]


def test_an_event_is_forgotten_when_its_time_is_over(events: Any) -> None:
    events.notify([Event("one", {})], ttl=0)
    assert events.poll("one") is None


# -- the one that was meant


def test_an_abort_that_comes_as_its_message_ends_never_hits_the_next_one(
    url: str, start_worker: Callable[..., Any]
) -> None:
    broker = localq.connect(url)
    started: list[str] = []

    @localq.actor
    def short(name: str) -> str:
        started.append(name)
        time.sleep(0.002)
        return name

    start_worker(broker, worker_threads=1)
    pairs = [(short.send(f"meant {n}"), short.send(f"next {n}")) for n in range(40)]
    for n, (meant, _) in enumerate(pairs):
        give_up = time.monotonic() + 10
        while f"meant {n}" not in started and time.monotonic() < give_up:
            time.sleep(0.0002)
        abort(meant.message_id)
    for n, (_, following) in enumerate(pairs):
        assert following.get_result(block=True) == f"next {n}"
