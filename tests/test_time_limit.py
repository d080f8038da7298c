"""TimeLimit: actors that run for too long are interrupted, and nothing else is."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import localq
from localq import Broker, Middleware
from localq.errors import ResultFailure
from localq.middleware import TimeLimit, TimeLimitExceeded, default_middleware
from localq.store import Selection
from localq.store.base import DEAD
from localq.threading import Interrupt

FOREVER = 60.0
"""Seconds that an actor of these tests runs when nobody interrupts it."""

LOG = "Time limit exceeded. Raising exception in worker thread %r."


def spin(seconds: float = FOREVER) -> None:
    """Run Python code for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.001)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No callback of an object that dies runs meanwhile, so that no interrupt can land in one."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_an_actor_past_its_limit_is_interrupted_and_a_dead_letter_after_its_retries(
    broker: Broker, drain: Callable[..., None]
) -> None:
    caught: list[BaseException] = []

    @localq.actor(time_limit=50, max_retries=0)
    def work() -> None:
        try:
            spin()
        except TimeLimitExceeded as error:
            caught.append(error)
            raise

    work.send()
    drain(broker)

    assert len(caught) == 1
    assert isinstance(caught[0], Interrupt)
    assert not isinstance(caught[0], Exception)
    (dead,) = broker.store.browse(Selection())
    assert dead.state == DEAD
    assert (dead.reason or "").startswith("TimeLimitExceeded")


def test_a_limit_that_was_exceeded_is_retried_like_a_failure(broker: Broker, drain: Callable[..., None]) -> None:
    runs = []

    @localq.actor(time_limit=50, min_backoff=0, max_backoff=0)
    def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            spin()

    work.send()
    drain(broker)

    assert len(runs) == 3
    assert broker.store.counts() == {}


def test_an_actor_may_catch_the_interrupt_and_return(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    @localq.actor(time_limit=50)
    def work() -> str:
        try:
            spin()
        except TimeLimitExceeded:
            return "as far as I got"
        return "all"

    message = work.send()
    drain(broker_with_results)

    assert message.get_result() == "as far as I got"


def test_what_waits_for_the_result_hears_of_the_limit(
    broker_with_results: Broker, drain: Callable[..., None]
) -> None:
    message = localq.actor(spin, actor_name="work", time_limit=50, max_retries=0).send()
    drain(broker_with_results)

    with pytest.raises(ResultFailure) as failure:
        message.get_result()
    assert failure.value.orig_exc_type == "TimeLimitExceeded"


@pytest.mark.parametrize(("on_message", "on_actor", "interrupted"), [(50, 60_000, True), (60_000, 50, False)])
def test_the_limit_of_a_message_wins_over_that_of_its_actor(
    broker: Broker, drain: Callable[..., None], on_message: int, on_actor: int, interrupted: bool
) -> None:
    work = localq.actor(
        lambda: spin(5 if interrupted else 0.3), actor_name="work", time_limit=on_actor, max_retries=0
    )

    work.send_with_options(time_limit=on_message)
    drain(broker)

    assert broker.get_queue_message_counts("default") == (0, 0, int(interrupted))


def test_the_limit_of_the_middleware_is_for_all_and_that_of_an_actor_wins(
    make_broker: Callable[..., Broker], url: str, drain: Callable[..., None]
) -> None:
    usual: list[Middleware] = [make() for make in default_middleware if make is not TimeLimit]
    broker = make_broker(url, [*usual, TimeLimit(time_limit=50, interval=10)])
    localq.actor(spin, actor_name="hasty", max_retries=0, broker=broker).send()
    localq.actor(lambda: spin(0.3), actor_name="slow", max_retries=0, time_limit=60_000, broker=broker).send()

    drain(broker)

    (dead,) = broker.store.browse(Selection())
    assert dead.actor == "hasty"


def test_a_limit_may_be_infinite_and_others_are_kept_all_the_same(
    broker: Broker, drain: Callable[..., None]
) -> None:
    @localq.actor(max_retries=0)
    def work(seconds: float) -> None:
        spin(seconds)

    work.send_with_options(args=(0.2,), time_limit=float("inf"))
    drain(broker, worker_threads=1)
    work.send_with_options(args=(0.3,), time_limit=float("inf"))
    work.send_with_options(args=(FOREVER,), time_limit=50)
    drain(broker)

    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_ten_minutes_is_the_default() -> None:
    assert TimeLimit().time_limit == 600_000


def test_only_the_overdue_threads_are_interrupted_with_one_line_each(
    broker: Broker, start_worker: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(4)
    threads: dict[str, int] = {}

    @localq.actor(max_retries=0)
    def work(name: str) -> None:
        threads[name] = threading.get_ident()
        together.wait(20)
        spin(FOREVER if name.startswith("overdue") else 0.5)

    for name in ("overdue 1", "overdue 2"):
        work.send_with_options(args=(name,), time_limit=200)
    for name in ("fine 1", "fine 2"):
        work.send_with_options(args=(name,), time_limit=60_000)
    start_worker(broker, worker_threads=4)
    broker.join("default", timeout=20_000)

    lines = [record for record in caplog.records if record.msg == LOG]
    assert {record.name for record in lines} == {"localq.middleware.time_limit.TimeLimit"}
    assert {record.levelno for record in lines} == {logging.WARNING}
    assert sorted(record.args for record in lines) == sorted((threads[f"overdue {n}"],) for n in (1, 2))
    assert broker.get_queue_message_counts("default") == (0, 0, 2)


def test_a_short_limit_is_kept_while_a_long_one_runs(broker: Broker, start_worker: Callable[..., Any]) -> None:
    long_runs, stop = threading.Event(), threading.Event()

    @localq.actor(max_retries=0)
    def work(name: str) -> None:
        if name == "long":
            long_runs.set()
            stop.wait(20)
        else:
            spin()

    work.send_with_options(args=("long",), time_limit=60_000)
    start_worker(broker, worker_threads=2)
    assert long_runs.wait(20)
    work.send_with_options(args=("short",), time_limit=50, priority=-1)

    while broker.get_queue_message_counts("default")[2] == 0:
        time.sleep(0.005)
    stop.set()
    broker.join("default", timeout=20_000)

    assert broker.get_queue_message_counts("default") == (0, 0, 1)


# -- where it may land


def test_hooks_after_the_actor_are_never_interrupted(broker: Broker, drain: Callable[..., None]) -> None:
    finished = []

    class Slow(Middleware):
        def after_process_message(self, broker: Broker, message: Any, **outcome: Any) -> None:
            spin(0.3)
            finished.append("after_process_message")

        def before_ack(self, broker: Broker, message: Any) -> None:
            spin(0.3)
            finished.append("before_ack")

    broker.add_middleware(Slow())
    localq.actor(lambda: None, actor_name="work", time_limit=100, max_retries=0).send()

    drain(broker)

    assert finished == ["after_process_message", "before_ack"]
    assert broker.store.counts() == {}


def test_hooks_before_the_actor_are_never_interrupted(broker: Broker, drain: Callable[..., None]) -> None:
    finished = []

    class Slow(Middleware):
        def before_process_message(self, broker: Broker, message: Any) -> None:
            spin(0.3)
            finished.append(1)

    broker.add_middleware(Slow())
    localq.actor(lambda: None, actor_name="work", time_limit=100, max_retries=0).send()

    drain(broker)

    assert finished == [1]


def test_a_limit_that_passes_before_the_actor_starts_still_ends_the_actor(
    broker: Broker, drain: Callable[..., None]
) -> None:
    class Slow(Middleware):
        def before_process_message(self, broker: Broker, message: Any) -> None:
            spin(0.3)

    broker.add_middleware(Slow())
    localq.actor(lambda: spin(2), actor_name="work", time_limit=100, max_retries=0).send()

    drain(broker)

    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_an_interrupted_send_is_whole_and_leaves_the_store_in_order(
    broker: Broker, drain: Callable[..., None]
) -> None:
    sent: list[str] = []

    @localq.actor
    def other() -> None: ...

    @localq.actor(max_retries=0, queue_name="busy")
    def work() -> None:
        while True:
            message = other.message()
            sent.append(message.message_id)
            broker.enqueue(message)

    for _ in range(10):
        work.send_with_options(time_limit=30)
    worker = localq.Worker(broker, queues=["busy"], worker_threads=2)
    worker.start()
    with garbage_kept():
        broker.join("busy", timeout=20_000)
    worker.stop()

    reasons = [record.reason or "" for record in broker.store.browse(Selection(queues=["busy"]))]
    assert len(reasons) == 10
    assert all(reason.startswith("TimeLimitExceeded") for reason in reasons)
    stored = {r.message_id for r in broker.store.browse(Selection(queues=["default"]), limit=10**6)}
    assert len(sent) - 10 <= len(stored) <= len(sent)
    assert stored <= set(sent)
    drain(broker)
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


def test_waiting_for_a_result_can_be_interrupted(broker_with_results: Broker, drain: Callable[..., None]) -> None:
    @localq.actor(queue_name="nobody-serves")
    def never() -> None: ...

    @localq.actor(max_retries=0, time_limit=100)
    def work() -> None:
        never.message().get_result(block=True, timeout=12_000)

    work.send()
    began = time.monotonic()
    drain(broker_with_results)

    assert time.monotonic() - began < 10
    (dead,) = broker_with_results.store.browse(Selection())
    assert (dead.reason or "").startswith("TimeLimitExceeded")


def test_many_limits_in_a_row_leave_the_worker_as_it_was(broker: Broker, start_worker: Callable[..., Any]) -> None:
    @localq.actor(max_retries=0, time_limit=5)
    def work() -> None:
        spin()

    ran = []

    @localq.actor
    def after() -> None:
        ran.append(1)

    for _ in range(60):
        work.send()
    worker = start_worker(broker, worker_threads=3)
    broker.join("default", timeout=20_000)
    for _ in range(20):
        after.send()
    broker.join("default", timeout=20_000)

    assert broker.get_queue_message_counts("default") == (0, 0, 60)
    assert len(ran) == 20
    assert all(thread.is_alive() for thread in worker.workers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_limit_that_lands_where_python_ignores_exceptions_is_not_lost(
    broker: Broker, drain: Callable[..., None]
) -> None:
    class Lingering:
        def __del__(self) -> None:
            spin(0.4)

    def work() -> None:
        Lingering()
        spin(5)

    localq.actor(work, actor_name="work", time_limit=100, max_retries=0).send()
    drain(broker)

    assert broker.get_queue_message_counts("default") == (0, 0, 1)


# -- other platforms


def test_a_platform_without_interrupts_is_warned_of_at_boot(
    monkeypatch: pytest.MonkeyPatch, broker: Broker
) -> None:
    module = sys.modules["localq.middleware.time_limit"]
    monkeypatch.setattr(module, "current_platform", "not supported")
    limit = TimeLimit()

    with pytest.warns(RuntimeWarning) as caught:
        limit.after_process_boot(broker)

    assert [str(warning.message) for warning in caught] == [
        "TimeLimit cannot kill threads on your current platform ('not supported')."
    ]


def test_nothing_is_warned_of_on_a_platform_with_interrupts(broker: Broker) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        broker.emit_after("process_boot")

    assert caught == []
