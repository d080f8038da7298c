"""Abort: messages that are not wanted any more never run, or are interrupted."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import Abort, Abortable, AbortMode, Broker, abort, abort_requested
from localq.aborting.backends import StubBackend
from localq.brokers.stub import StubBroker
from localq.errors import ResultFailure
from localq.middleware import CurrentMessage, GroupCallbacks, Middleware, default_middleware
from localq.results import Results
from localq.store import Selection
from localq.store.base import CANCELLED, DEAD, DELAYED, HELD, WAITING

modes = pytest.mark.parametrize("mode", [AbortMode.ABORT, AbortMode.CANCEL])


class Runs:
    """An actor's function that runs until it is aborted, or released."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.released = threading.Event()
        self.ends: list[str] = []

    def __call__(self) -> None:
        self.started.release()
        try:
            end = time.monotonic() + 20
            while not self.released.is_set() and time.monotonic() < end:
                time.sleep(0.001)
            self.ends.append("returned")
        except Abort:
            self.ends.append("aborted")
            raise


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def broker(url: str) -> Broker:
    return localq.connect(url)


@pytest.fixture
def stub_backend() -> StubBackend:
    return StubBackend()


def state(broker: Broker, message: localq.Message[Any]) -> str | None:
    records = broker.store.browse(Selection(message_ids=[str(message.message_id)]))
    return records[0].state if records else None


# -- messages that have not begun


@modes
def test_a_waiting_message_never_runs(broker: Broker, drain: Callable[..., None], mode: AbortMode) -> None:
    ran = []
    actor = localq.actor(ran.append, actor_name="append")
    unwanted, wanted = actor.send(1), actor.send(2)

    abort(unwanted.message_id, mode=mode)

    assert state(broker, unwanted) == CANCELLED
    drain(broker)
    assert ran == [2]
    assert state(broker, wanted) is None


@modes
def test_a_delayed_message_never_runs(broker: Broker, drain: Callable[..., None], mode: AbortMode) -> None:
    ran: list[int] = []
    actor = localq.actor(ran.append, actor_name="append")
    message = actor.send_with_options(args=(1,), delay=100)
    abort(message.message_id, mode=mode)
    assert state(broker, message) == CANCELLED
    actor.send_with_options(args=(2,), delay=200)
    drain(broker)
    assert ran == [2]


def test_a_message_that_waits_for_its_next_try_is_not_tried_again(
    broker: Broker, start_worker: Callable[..., localq.Worker], until: Callable[..., Any]
) -> None:
    tries = []

    @localq.actor(min_backoff=60_000)
    def fail() -> None:
        tries.append(1)
        raise ValueError("once more")

    message = fail.send()
    start_worker(broker)
    until(lambda: state(broker, message) == DELAYED)

    abort(message.message_id)

    assert state(broker, message) == CANCELLED
    assert tries == [1]


def test_a_message_that_a_person_holds_can_be_aborted(broker: Broker) -> None:
    actor = localq.actor(lambda: None, actor_name="nothing")
    message = actor.send()
    broker.store.move(Selection(message_ids=[message.message_id]), HELD, now=0)
    abort(message.message_id)
    assert state(broker, message) == CANCELLED


def test_who_waits_for_the_result_hears_at_once_although_no_worker_is_there(broker: Broker) -> None:
    actor = localq.actor(lambda: None, actor_name="nothing")
    message = actor.send()
    heard: list[Any] = []

    def wait() -> None:
        try:
            message.get_result(block=True, timeout=20_000)
        except ResultFailure as error:
            heard.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    abort(message.message_id)
    waiter.join(10)

    assert not waiter.is_alive()
    (error,) = heard
    assert error.orig_exc_type == "Abort"
    assert str(error) == "actor raised Abort: the message was aborted before it ran"


def test_who_waits_for_the_end_of_a_pipeline_hears_that_a_step_was_aborted(broker: Broker) -> None:
    actor = localq.actor(lambda *numbers: sum(numbers), actor_name="add")
    pipe = (actor.message(1) | actor.message(2) | actor.message(3)).run()
    abort(pipe.messages[0].message_id)
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        pipe.get_result(block=True)


def test_a_group_that_lost_a_member_to_an_abort_has_failed(broker: Broker) -> None:
    actor = localq.actor(lambda number: number, actor_name="same")
    group = localq.group([actor.message(1), actor.message(2)]).run()
    abort(group.children[1].message_id)
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        group.wait(timeout=10_000)


def test_a_group_tells_who_asked_that_a_member_was_aborted(broker: Broker, drain: Callable[..., None]) -> None:
    told: list[Any] = []
    actor = localq.actor(lambda: None, actor_name="nothing")
    tell = localq.actor(told.append, actor_name="tell", fire_on_failure=True)
    group = localq.group([actor.message(), actor.message()])
    group.add_completion_callback(tell.message())
    group.run()
    abort(group.children[0].message_id)
    drain(broker)
    ((failure,),) = told
    assert failure["type"] == "Abort"


def test_an_aborted_message_tells_its_reason_and_the_hooks_hear_of_it(url: str) -> None:
    heard: list[str] = []

    class Hears(Middleware):
        def before_nack(self, broker: Broker, message: Any) -> None:
            heard.append("before nack")

        def after_nack(self, broker: Broker, message: Any) -> None:
            heard.append(f"after nack of one that is {state(broker, message)}")

    broker = localq.connect(url, middleware=[Abortable(), Hears()])
    message = localq.actor(lambda: None, actor_name="nothing").send()
    abort(message.message_id)
    (record,) = broker.store.browse(Selection(states=[CANCELLED]))
    assert record.reason == "Abort: the message was aborted before it ran"
    assert heard == ["before nack", "after nack of one that is cancelled"]


def test_an_aborted_message_that_is_brought_back_to_life_runs(broker: Broker, drain: Callable[..., None]) -> None:
    actor = localq.actor(lambda: "ran", actor_name="ran")
    message = actor.send()
    abort(message.message_id)
    broker.store.move(Selection(message_ids=[message.message_id]), WAITING, now=int(time.time() * 1000))
    drain(broker)
    assert message.get_result() == "ran"


def test_what_is_waiting_when_a_worker_starts_is_not_run_if_it_was_claimed_before_it_was_aborted(
    broker: Broker, start_worker: Callable[..., localq.Worker], until: Callable[..., Any]
) -> None:
    """A burst is claimed at once: some of it is aborted by its first message."""
    ran: list[int] = []
    messages: list[localq.Message[Any]] = []

    @localq.actor
    def task(number: int) -> None:
        ran.append(number)
        if number == 20:  # the burst has grown by now
            for message in messages[21:40]:
                abort(message.message_id)

    messages += broker.enqueue_many([task.message(number) for number in range(60)])
    start_worker(broker, worker_threads=1)
    until(lambda: 59 in ran)
    assert ran == [*range(21), *range(40, 60)]


@pytest.mark.parametrize("what", ["unknown", "finished"])
def test_an_abort_of_what_is_not_there_does_nothing(broker: Broker, drain: Callable[..., None], what: str) -> None:
    message = localq.actor(lambda: 1, actor_name="one").send()
    drain(broker)
    abort("no such message" if what == "unknown" else message.message_id)
    assert message.get_result() == 1
    assert broker.store.counts() == {}
    assert broker.store.events([], after=0) == []


def test_all_that_an_abort_leaves_is_swept(broker: Broker, until: Callable[..., Any]) -> None:
    message = localq.actor(lambda: 1, actor_name="one").send()
    abort(message.message_id, abort_ttl=1)
    now = int(time.time() * 1000)
    broker.store.sweep(now=now + 60_000)
    assert broker.store.events([], after=0) == []
    assert state(broker, message) == CANCELLED
    broker.store.sweep(now=now + 8 * 24 * 3600 * 1000)
    assert state(broker, message) is None


# -- messages that run


def test_a_running_message_is_interrupted_and_not_retried(
    broker: Broker, start_worker: Callable[..., localq.Worker], runs: Runs, logged: Callable[[int], list[str]]
) -> None:
    message = localq.actor(runs, actor_name="runs").send()
    start_worker(broker)
    assert runs.started.acquire(timeout=20)

    abort(message.message_id)

    with pytest.raises(ResultFailure, match="actor raised Abort: the message was aborted"):
        message.get_result(block=True, timeout=20_000)
    assert runs.ends == ["aborted"]
    (record,) = broker.store.browse(Selection())
    assert record.state == DEAD
    assert record.reason == "Abort: the message was aborted"
    assert logged(logging.ERROR) == logged(logging.WARNING) == []


def test_cancelling_leaves_alone_what_runs(
    broker: Broker, start_worker: Callable[..., localq.Worker], runs: Runs
) -> None:
    first, second = localq.actor(runs, actor_name="runs"), localq.actor(lambda: 1, actor_name="one")
    message, after = first.send(), second.send()
    start_worker(broker, worker_threads=1)
    assert runs.started.acquire(timeout=20)
    abort(message.message_id, mode=AbortMode.CANCEL)
    runs.released.set()
    assert after.get_result(block=True) == 1
    assert message.get_result() is None
    assert runs.ends == ["returned"]


def test_only_the_message_that_was_aborted_is_interrupted(
    broker: Broker, start_worker: Callable[..., localq.Worker], until: Callable[..., Any]
) -> None:
    """Hundreds are aborted about when they end: no other one that runs on the same thread is hit."""
    hit: list[tuple[int, int]] = []
    ended: list[int] = []
    begun: list[int] = []

    @localq.actor
    def victim(number: int) -> None:
        begun.append(number)
        try:
            time.sleep(0.002)
        except Abort:
            hit.append((number, number))
            raise
        finally:
            ended.append(number)

    @localq.actor
    def bystander(number: int) -> None:
        try:
            for _ in range(300):
                pass
        except Abort:
            hit.append((number, -1))
        finally:
            ended.append(number)

    total = 300
    messages = [(victim.message(number), bystander.message(number)) for number in range(total)]
    broker.enqueue_many([message for pair in messages for message in pair])
    start_worker(broker, worker_threads=2)
    for number, (message, _) in enumerate(messages):
        until(lambda number=number: number in begun or len(ended) == 2 * total)
        abort(message.message_id)
    until(lambda: broker.store.counts().get("default", {}).keys() <= {DEAD, CANCELLED})
    assert [each for each in hit if each[1] == -1] == []
    dead = broker.store.browse(Selection(states=[DEAD]), limit=1000)
    assert {record.actor for record in dead} <= {"victim"}
    assert sum(1 for number in ended) == 2 * total


def test_a_coroutine_is_cancelled_and_cleans_up(broker: Broker, start_worker: Callable[..., localq.Worker]) -> None:
    started, cleaned = threading.Event(), []

    @localq.actor
    async def sleeper() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(1)

    message = sleeper.send()
    start_worker(broker)
    assert started.wait(20)
    abort(message.message_id)
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        message.get_result(block=True, timeout=20_000)
    assert cleaned == [1]


def test_an_abort_also_ends_a_wait_for_a_result(broker: Broker, start_worker: Callable[..., localq.Worker]) -> None:
    started = threading.Event()
    never = localq.actor(lambda: None, actor_name="never", queue_name="nobody").message()

    @localq.actor
    def waits() -> None:
        started.set()
        never.get_result(block=True, timeout=60_000)

    message = waits.send()
    start_worker(broker)
    assert started.wait(20)
    abort(message.message_id)
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        message.get_result(block=True, timeout=20_000)


def test_an_actor_can_abort_its_own_message(broker: Broker, start_worker: Callable[..., localq.Worker]) -> None:
    @localq.actor
    def suicidal() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        abort(message.message_id)
        time.sleep(0.01)
        while True:
            time.sleep(0.001)

    message = suicidal.send()
    start_worker(broker)
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        message.get_result(block=True, timeout=20_000)


def test_an_actor_can_abort_another_one_in_a_hook_that_runs_after_it(url: str, drain: Callable[..., None]) -> None:
    class AbortsTheOther(Middleware):
        def after_process_message(self, broker: Broker, message: Any, **_: Any) -> None:
            if message.actor_name == "first":
                abort(other.message_id)
                third.send()

    ran: list[str] = []
    broker = localq.connect(
        url, middleware=[*(make() for make in default_middleware), Results(store_results=True), Abortable(),
                         AbortsTheOther()]
    )  # fmt: skip
    first = localq.actor(lambda: "first", actor_name="first")
    second = localq.actor(lambda: ran.append("second"), actor_name="second")
    third = localq.actor(lambda: ran.append("third"), actor_name="third")
    other = second.send_with_options(delay=60_000)
    message = first.send()
    drain(broker)
    assert message.get_result() == "first"
    assert ran == ["third"]
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        other.get_result()


# -- time to end by itself


def test_an_actor_sees_the_request_and_ends_by_itself(
    broker: Broker, start_worker: Callable[..., localq.Worker]
) -> None:
    started = threading.Event()

    @localq.actor
    def polite() -> float:
        assert abort_requested() is None
        started.set()
        while (left := abort_requested()) is None:
            time.sleep(0.001)
        return left

    message = polite.send()
    start_worker(broker)
    assert started.wait(20)
    assert abort_requested(message.message_id) is None
    abort(message.message_id, abort_timeout=60_000)
    assert 0 < message.get_result(block=True, timeout=20_000) <= 60_000
    assert abort_requested(message.message_id) is None


def test_a_coroutine_sees_the_request_too(broker: Broker, start_worker: Callable[..., localq.Worker]) -> None:
    started = threading.Event()

    @localq.actor
    async def polite() -> float:
        started.set()
        while (left := abort_requested()) is None:
            await asyncio.sleep(0.001)
        return left

    message = polite.send()
    start_worker(broker)
    assert started.wait(20)
    abort(message.message_id, abort_timeout=60_000)
    assert 0 < message.get_result(block=True, timeout=20_000) <= 60_000


def test_an_actor_that_does_not_end_by_itself_is_interrupted_when_its_time_is_over(
    broker: Broker, start_worker: Callable[..., localq.Worker], runs: Runs
) -> None:
    message = localq.actor(runs, actor_name="runs").send()
    start_worker(broker)
    assert runs.started.acquire(timeout=20)
    before = time.monotonic()
    abort(message.message_id, abort_timeout=200)
    assert abort_requested(message.message_id) is not None
    with pytest.raises(ResultFailure, match="actor raised Abort"):
        message.get_result(block=True, timeout=20_000)
    assert time.monotonic() - before >= 0.2


def test_outside_of_actors_nothing_is_requested(broker: Broker) -> None:
    assert abort_requested() is None
    assert abort_requested("no such message") is None


# -- what can be aborted


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("actor", [None, True, False])
@pytest.mark.parametrize("message", [None, True, False])
def test_the_message_decides_then_the_actor_then_the_middleware(
    broker: Broker, default: bool, actor: bool | None, message: bool | None
) -> None:
    abortable = Abortable(abortable=default)
    nothing = localq.actor(lambda: None, actor_name="nothing", abortable=actor)
    given = [each for each in (message, actor, default) if each is not None]
    assert abortable.is_abortable(nothing, nothing.message_with_options(abortable=message)) is given[0]


def test_what_must_not_be_aborted_is_not(
    broker: Broker, start_worker: Callable[..., localq.Worker], runs: Runs
) -> None:
    protected = localq.actor(runs, actor_name="protected", abortable=False)
    running, waiting = protected.send(), protected.send_with_options(delay=10)
    abort(waiting.message_id)
    assert state(broker, waiting) == DELAYED
    start_worker(broker, worker_threads=1)
    assert runs.started.acquire(timeout=20)
    abort(running.message_id)
    runs.released.set()
    assert running.get_result(block=True) is waiting.get_result(block=True) is None
    assert runs.ends == ["returned", "returned"]


def test_without_the_middleware_an_abort_says_what_is_missing(url: str) -> None:
    localq.connect(url, middleware=[])
    with pytest.raises(RuntimeError, match="no Abortable middleware"):
        abort("some message")
    with pytest.raises(RuntimeError, match="no Abortable middleware"):
        abort_requested()


@pytest.mark.parametrize(
    "arguments", [{"abort_ttl": -1}, {"abort_timeout": "soon"}, {"abort_timeout": float("nan")}, {"mode": "softly"}]
)
def test_arguments_that_mean_nothing_are_refused(broker: Broker, arguments: Any) -> None:
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        abort("some message", **arguments)


def test_to_kill_a_message_that_waits_is_to_cancel_it(broker: Broker) -> None:
    message = localq.actor(lambda: None, actor_name="nothing").send()
    abort(message.message_id, mode=AbortMode.KILL)
    assert state(broker, message) == CANCELLED


def test_another_middleware_than_the_global_one_can_be_named(
    url: str, make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    abortable = Abortable()
    other = make_broker(url, [abortable])
    ran: list[int] = []
    message = localq.actor(ran.append, actor_name="append", broker=other).send(1)
    abort(message.message_id, abortable)
    drain(other)
    assert ran == []


# -- a backend of its own


def test_a_backend_carries_an_abort_to_what_runs(
    url: str, stub_backend: StubBackend, start_worker: Callable[..., localq.Worker], runs: Runs
) -> None:
    broker = localq.connect(url, middleware=[make() for make in default_middleware])
    worker = start_worker(broker, worker_threads=4)
    # Added late, and booted by hand.
    abortable = Abortable(backend=stub_backend)
    assert abortable.wait_timeout == 1000
    broker.add_middleware(abortable)
    abortable.before_worker_boot(broker, worker)
    message = localq.actor(runs, actor_name="runs", abortable=True, max_retries=0).send()
    assert runs.started.acquire(timeout=20)

    abort(message.message_id)

    broker.join("default", timeout=20_000)
    assert runs.ends == ["aborted"]


def test_a_backend_lets_an_actor_end_by_itself(
    url: str, stub_backend: StubBackend, start_worker: Callable[..., localq.Worker]
) -> None:
    abortable = Abortable(backend=stub_backend)
    broker = localq.connect(url, middleware=[Results(store_results=True), abortable])
    started = threading.Event()

    @localq.actor
    def polite() -> float:
        started.set()
        while (left := abort_requested()) is None:
            time.sleep(0.001)
        return left

    message = polite.send()
    start_worker(broker)
    assert started.wait(20)
    abort(message.message_id, abort_timeout=60_000)
    assert 0 < message.get_result(block=True, timeout=20_000) <= 60_000


@modes
def test_with_a_backend_a_waiting_message_never_runs(
    url: str, stub_backend: StubBackend, drain: Callable[..., None], mode: AbortMode
) -> None:
    broker = localq.connect(url, middleware=[Results(store_results=True), Abortable(backend=stub_backend)])
    ran: list[int] = []
    message = localq.actor(ran.append, actor_name="append").send(1)
    abort(message.message_id, mode=mode)
    drain(broker)
    assert ran == []
    assert state(broker, message) == CANCELLED


def test_a_message_of_another_store_is_skipped_when_a_backend_tells_so(
    url: str, stub_backend: StubBackend, drain: Callable[..., None]
) -> None:
    """As when the sender's broker is elsewhere: only the backend is shared."""
    broker = localq.connect(url, middleware=[Results(store_results=True), Abortable(backend=stub_backend)])
    ran: list[int] = []
    message = localq.actor(ran.append, actor_name="append").send(1)
    elsewhere = Abortable(backend=stub_backend)
    elsewhere._broker = Broker([], url="memory://")
    elsewhere.abort(message.message_id)
    assert state(broker, message) == WAITING
    drain(broker)
    assert ran == []
    with pytest.raises(ResultFailure, match="actor raised Abort: the message was aborted before it ran"):
        message.get_result()
    assert state(broker, message) == CANCELLED


# -- threads


def test_one_thread_watches_while_workers_run_and_ends_with_them(
    broker: Broker, start_worker: Callable[..., localq.Worker]
) -> None:
    def watchers() -> int:
        return sum(thread.name == "localq aborts" for thread in threading.enumerate())

    workers = [start_worker(broker), start_worker(broker)]
    assert watchers() == 1
    workers[0].stop()
    assert watchers() == 1
    workers[1].stop()
    assert watchers() == 0
    worker = start_worker(broker)
    assert watchers() == 1
    worker.stop()


def test_the_exception_of_an_aborted_message_is_not_kept(
    broker: Broker, start_worker: Callable[..., localq.Worker], runs: Runs
) -> None:
    message = localq.actor(runs, actor_name="runs").send()
    worker = start_worker(broker)
    assert runs.started.acquire(timeout=20)
    abort(message.message_id)
    with pytest.raises(ResultFailure):
        message.get_result(block=True, timeout=20_000)
    worker.stop()
    gc.collect()
    assert [each for each in gc.get_objects() if isinstance(each, Abort)] == []


def test_group_callbacks_and_aborts_are_there_by_default(url: str) -> None:
    kinds = [type(each) for each in localq.connect(url).middleware]
    assert Abortable in kinds
    assert GroupCallbacks in kinds


# -- the stub broker


@pytest.fixture
def stub_broker() -> StubBroker:
    broker = StubBroker()
    broker.emit_after("process_boot")
    localq.set_broker(broker)
    return broker


@modes
def test_on_the_stub_broker_a_cancelled_message_is_no_failure_to_who_joins(
    stub_broker: StubBroker, stub_backend: StubBackend, start_worker: Callable[..., localq.Worker], mode: AbortMode
) -> None:
    first = start_worker(stub_broker, worker_threads=4)
    abortable = Abortable(backend=stub_backend)
    stub_broker.add_middleware(abortable)
    abortable.before_worker_boot(stub_broker, first)
    ran: list[int] = []
    first.pause()
    actor = localq.actor(ran.append, actor_name="append", max_retries=0)
    message = actor.send(1)
    abort(message.message_id, mode=mode)
    start_worker(stub_broker)
    stub_broker.join("default", timeout=20_000)
    assert ran == []
    assert stub_broker.dead_letters == []


def test_on_the_stub_broker_an_interrupted_message_is_a_failure_to_who_joins(
    stub_broker: StubBroker, stub_backend: StubBackend, start_worker: Callable[..., localq.Worker], runs: Runs
) -> None:
    worker = start_worker(stub_broker, worker_threads=4)
    abortable = Abortable(backend=stub_backend)
    stub_broker.add_middleware(abortable)
    abortable.before_worker_boot(stub_broker, worker)
    message = localq.actor(runs, actor_name="runs", max_retries=0).send()
    assert runs.started.acquire(timeout=20)
    abort(message.message_id)
    with pytest.raises(Abort):
        stub_broker.join("default", timeout=20_000)
    stub_broker.join("default", timeout=20_000, fail_fast=False)
    assert runs.ends == ["aborted"]
