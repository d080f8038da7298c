"""ShutdownNotifications: actors that asked for it are told when their worker stops."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

import localq
from localq import Broker
from localq.errors import ResultMissing
from localq.middleware import Shutdown, ShutdownNotifications, default_middleware
from localq.store import Selection
from localq.threading import Interrupt

NAME = "localq.middleware.shutdown.ShutdownNotifications"


class Runs:
    """An actor's function that runs until it is told to stop, or released."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.released = threading.Event()
        self.ends: list[str] = []

    def __call__(self) -> None:
        self.started.release()
        try:
            self.wait_for_release()
            self.ends.append("returned")
        except Shutdown:
            self.ends.append("told")
            raise

    def wait_for_release(self) -> None:
        end = time.monotonic() + 20
        while not self.released.is_set() and time.monotonic() < end:
            time.sleep(0.001)


@pytest.fixture
def runs() -> Runs:
    return Runs()


# -- who is told


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("actor", [None, False, True])
@pytest.mark.parametrize("message", [None, False, True])
def test_the_message_decides_then_the_actor_then_the_middleware(
    broker: Broker, default: bool, actor: bool | None, message: bool | None
) -> None:
    middleware = ShutdownNotifications(notify_shutdown=default)
    work = localq.actor(lambda: None, actor_name="work", notify_shutdown=actor)

    decided = middleware.should_notify(work, work.message_with_options(notify_shutdown=message))

    expected = message if message is not None else actor if actor is not None else default
    assert decided is expected


def test_the_notice_is_an_interrupt_which_no_task_catches_by_accident() -> None:
    assert issubclass(Shutdown, Interrupt)
    assert not issubclass(Shutdown, Exception)


def test_nobody_is_told_by_default(broker: Broker) -> None:
    work = localq.actor(lambda: None, actor_name="work")

    assert ShutdownNotifications().should_notify(work, work.message()) is False


@pytest.mark.parametrize("value", [1, "yes", 0])
def test_the_decision_is_a_bool(broker: Broker, value: Any) -> None:
    work = localq.actor(lambda: None, actor_name="work", notify_shutdown=value)

    assert ShutdownNotifications().should_notify(work, work.message()) is bool(value)


# -- being told


def test_an_actor_that_asked_is_told_and_its_message_is_retried_later(
    broker: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    localq.actor(runs, actor_name="work", notify_shutdown=True).send()
    worker = start_worker(broker)
    assert runs.started.acquire(timeout=20)

    worker.stop()

    assert runs.ends == ["told"]
    assert broker.get_queue_message_counts("default") == (0, 1, 0)


def test_an_actor_that_asked_and_has_no_retries_is_a_dead_letter(
    broker_with_results: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    broker = broker_with_results
    message = localq.actor(runs, actor_name="work", notify_shutdown=True, max_retries=0).send()
    worker = start_worker(broker)
    assert runs.started.acquire(timeout=20)

    worker.stop()

    (dead,) = broker.store.browse(Selection())
    assert (dead.reason or "").startswith("Shutdown")
    with pytest.raises(localq.results.ResultFailure, match="actor raised Shutdown"):
        message.get_result()


def test_an_actor_that_did_not_ask_runs_to_its_end(
    broker_with_results: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    message = localq.actor(runs, actor_name="work").send()
    worker = start_worker(broker_with_results)
    assert runs.started.acquire(timeout=20)

    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    with pytest.raises(ResultMissing):
        message.get_result()
    runs.released.set()
    stopping.join(20)

    assert not stopping.is_alive()
    assert runs.ends == ["returned"]
    assert message.get_result() is None


@pytest.mark.parametrize(("on_message", "on_actor", "end"), [(True, False, "told"), (False, True, "returned")])
def test_the_option_of_a_message_wins_over_that_of_its_actor(
    broker: Broker, start_worker: Callable[..., Any], runs: Runs, on_message: bool, on_actor: bool, end: str
) -> None:
    work = localq.actor(runs, actor_name="work", notify_shutdown=on_actor)
    work.send_with_options(notify_shutdown=on_message)
    worker = start_worker(broker)
    assert runs.started.acquire(timeout=20)

    threading.Timer(0.3, runs.released.set).start()
    worker.stop()

    assert runs.ends == [end]


def test_the_middleware_can_have_all_told(
    make_broker: Callable[..., Broker], url: str, start_worker: Callable[..., Any], runs: Runs
) -> None:
    usual = [make() for make in default_middleware if make is not ShutdownNotifications]
    broker = make_broker(url, [*usual, ShutdownNotifications(notify_shutdown=True)])
    localq.actor(runs, actor_name="work", broker=broker).send()
    worker = start_worker(broker)
    assert runs.started.acquire(timeout=20)

    worker.stop()

    assert runs.ends == ["told"]


def test_all_threads_whose_messages_asked_are_told(
    broker: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    work = localq.actor(runs, actor_name="work", notify_shutdown=True)
    for _ in range(4):
        work.send()
    worker = start_worker(broker, worker_threads=4)
    for _ in range(4):
        assert runs.started.acquire(timeout=20)

    worker.stop()

    assert runs.ends == ["told"] * 4


def test_a_thread_whose_message_has_ended_is_not_told(
    broker: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    localq.actor(lambda: None, actor_name="asked", notify_shutdown=True).send()
    unasked = localq.actor(runs, actor_name="unasked")
    worker = start_worker(broker, worker_threads=1)
    broker.join("default", timeout=20_000)
    unasked.send()
    assert runs.started.acquire(timeout=20)

    threading.Timer(0.3, runs.released.set).start()
    worker.stop()

    assert runs.ends == ["returned"]
    assert broker.store.counts() == {}


def test_a_thread_whose_message_was_skipped_is_not_told(broker: Broker, drain: Callable[..., None]) -> None:
    (middleware,) = (one for one in broker.middleware if isinstance(one, ShutdownNotifications))

    class Skipping(localq.Middleware):
        def before_process_message(self, broker: Broker, message: Any) -> None:
            raise localq.errors.SkipMessage("not today")

    broker.add_middleware(Skipping())
    localq.actor(lambda: None, actor_name="work", notify_shutdown=True).send()

    drain(broker)

    assert middleware.manager.notifications == []


def test_an_actor_may_catch_the_notice_and_return(
    broker_with_results: Broker, start_worker: Callable[..., Any], runs: Runs
) -> None:
    @localq.actor(notify_shutdown=True)
    def work() -> str:
        try:
            runs()
        except Shutdown:
            return "saved"
        return "done"

    message = work.send()
    worker = start_worker(broker_with_results)
    assert runs.started.acquire(timeout=20)

    worker.stop()

    assert message.get_result() == "saved"


# -- what is logged and warned of


def test_what_is_logged_when_a_worker_stops(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    raised = Mock()
    monkeypatch.setattr(sys.modules["localq.middleware.shutdown"], "raise_thread_exception", raised)
    middleware = ShutdownNotifications()
    middleware.manager.notifications = [1, 2]

    middleware.before_worker_shutdown(broker, None)  # type: ignore[arg-type]

    assert caplog.record_tuples == [
        (NAME, logging.DEBUG, "Sending shutdown notification to worker threads..."),
        (NAME, logging.INFO, "Worker shutdown notification. Raising exception in worker thread 1."),
        (NAME, logging.INFO, "Worker shutdown notification. Raising exception in worker thread 2."),
    ]
    assert [call.args for call in raised.call_args_list] == [(1, Shutdown), (2, Shutdown)]


def test_a_platform_without_interrupts_is_warned_of_at_boot(
    monkeypatch: pytest.MonkeyPatch, broker: Broker
) -> None:
    monkeypatch.setattr(sys.modules["localq.middleware.shutdown"], "current_platform", "not supported")

    with pytest.warns(RuntimeWarning) as caught:
        broker.emit_after("process_boot")

    assert [str(warning.message) for warning in caught] == [
        "ShutdownNotifications cannot kill threads on your current platform ('not supported')."
    ]


def test_nothing_is_warned_of_on_a_platform_with_interrupts(broker: Broker) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ShutdownNotifications().after_process_boot(broker)

    assert caught == []
