"""When each hook of a middleware is called, and what becomes of what it raises."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

import localq
from localq import Broker, Middleware
from localq.brokers.stub import StubBroker
from localq.middleware import SkipMessage
from localq.store.base import DEAD, Selection

from .test_broker import HOOKS

AROUND_A_WORKER = [
    "before_worker_boot",
    "after_worker_boot",
    "after_consumer_thread_boot",
    "after_worker_thread_boot",
    "before_worker_shutdown",
    "before_consumer_thread_shutdown",
    "before_worker_thread_shutdown",
    "after_worker_shutdown",
]
CALLED_IN_A_WORKER = [
    *AROUND_A_WORKER,
    *(f"{when}_{what}" for when in ("before", "after") for what in ("ack", "nack", "enqueue", "process_message")),
    "after_skip_message",
]
REFUSALS = {"before_enqueue", "before_worker_boot", "before_process_message"}
"""Hooks that may raise a `MiddlewareError` in order to refuse something."""


def middleware_with(hooks: dict[str, Callable[..., Any]]) -> Middleware:
    return type("Hooked", (Middleware,), dict(hooks))()


def recorder(calls: list[tuple[str, Any]], names: list[str]) -> Middleware:
    """Notes the hook, and its first argument behind the broker."""

    def hook(name: str) -> Callable[..., None]:
        return lambda self, broker, *args, **kwargs: calls.append((name, args[0] if args else None))

    return middleware_with({name: hook(name) for name in names})


def test_the_hooks_around_a_worker_are_called_in_the_order_of_its_life(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    calls: list[tuple[str, Any]] = []
    broker.add_middleware(recorder(calls, AROUND_A_WORKER))
    worker = start_worker(broker, worker_threads=2)
    until(lambda: len(calls) == 6)
    names = [name for name, _ in calls]
    assert names[0] == "before_worker_boot"
    assert sorted(names[1:]) == sorted(
        ["after_worker_boot", *2 * ["after_consumer_thread_boot", "after_worker_thread_boot"]]
    )
    worker.stop()
    names = [name for name, _ in calls[6:]]
    assert (names[0], names[-1]) == ("before_worker_shutdown", "after_worker_shutdown")
    assert sorted(names[1:-1]) == sorted(2 * ["before_consumer_thread_shutdown", "before_worker_thread_shutdown"])


def test_they_get_the_worker_or_its_thread(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    calls: list[tuple[str, Any]] = []
    broker.add_middleware(recorder(calls, AROUND_A_WORKER))
    worker = start_worker(broker, worker_threads=2)
    until(lambda: len(calls) == 6)
    worker.stop()
    for name, argument in calls:
        assert (argument in worker.workers) if "_thread_" in name else (argument is worker), name


def test_the_hooks_of_a_thread_are_called_on_that_thread(broker: Broker, start_worker: Callable[..., Any]) -> None:
    wrong: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def call(self: Any, broker: Broker, thread: Any) -> None:
            if thread is not threading.current_thread():
                wrong.append(name)

        return call

    broker.add_middleware(middleware_with({name: hook(name) for name in AROUND_A_WORKER if "_thread_" in name}))
    start_worker(broker, worker_threads=2).stop()
    assert wrong == []


def test_a_worker_that_is_stopped_twice_shuts_down_once(broker: Broker, start_worker: Callable[..., Any]) -> None:
    calls: list[tuple[str, Any]] = []
    broker.add_middleware(recorder(calls, ["before_worker_shutdown", "after_worker_shutdown"]))
    worker = start_worker(broker)
    worker.stop()
    worker.stop()
    assert [name for name, _ in calls] == ["before_worker_shutdown", "after_worker_shutdown"]


def test_a_delayed_message_runs_without_having_been_held_in_memory(
    broker: Broker, drain: Callable[..., None]
) -> None:
    calls: list[tuple[str, Any]] = []
    names = ["before_delay_message", "before_process_message", "before_ack"]
    broker.add_middleware(recorder(calls, names))

    @localq.actor
    def act() -> None:
        pass

    act.send_with_options(delay=30)
    drain(broker)
    assert [name for name, _ in calls] == ["before_process_message", "before_ack"]


def test_what_an_actor_raised_is_the_current_exception_of_the_hook_after_it(
    broker: Broker, drain: Callable[..., None]
) -> None:
    calls: list[tuple[str, Any, list[str]]] = []

    def look(self: Any, broker: Broker, message: Any, *, exception: BaseException | None = None, **_: Any) -> None:
        error = sys.exc_info()[1]
        assert error is (exception or message._exception)
        frames = traceback.extract_tb(error.__traceback__) if error is not None else []
        calls.append((message.actor_name, type(error), [frame.name for frame in frames]))

    broker.add_middleware(middleware_with({"after_process_message": look, "after_skip_message": look}))
    send_of_all_kinds()
    drain(broker, worker_threads=1)
    kinds = [(actor, kind) for actor, kind, _ in calls]
    assert sorted(set(kinds), key=str) == [("fail", RuntimeError), ("old", SkipMessage), ("succeed", type(None))]
    assert [names[-1:] for actor, _, names in calls if actor == "fail"] == 2 * [["fail"]]
    assert [names.count("_run_hooks_after") for _, _, names in calls] == len(calls) * [0]


# -- hooks that are replaced while the broker is in use


@pytest.mark.parametrize("name", ["before_enqueue", "before_process_message", "before_ack", "after_ack"])
@pytest.mark.parametrize("owner", [lambda one: one, type, lambda _: Middleware], ids=["object", "class", "base"])
def test_on_the_stub_broker_a_test_replaces_hooks_while_they_are_in_use(
    drain: Callable[..., None], owner: Callable[[Middleware], Any], name: str
) -> None:
    broker = StubBroker(middleware=[])
    middleware = middleware_with({})
    broker.add_middleware(middleware)
    localq.set_broker(broker)

    @localq.actor
    def act() -> None:
        pass

    act.send()
    drain(broker)
    with mock.patch.object(owner(middleware), name) as hook:
        act.send()
        drain(broker)
    assert hook.call_count == 1
    act.send()
    drain(broker)
    assert hook.call_count == 1


def test_a_mock_passes_for_middleware(broker: Broker, drain: Callable[..., None]) -> None:
    @localq.actor
    def act() -> None:
        pass

    pretender = mock.MagicMock(spec=Middleware, actor_options=set())
    broker.middleware.append(pretender)
    act.send()
    drain(broker)
    (_, message), results = pretender.after_process_message.call_args
    assert (message.actor_name, results) == ("act", {"result": None, "exception": None})


def test_a_broker_that_listens_to_itself_hears_every_signal(start_worker: Callable[..., localq.Worker]) -> None:
    heard = []

    class Listening(StubBroker):
        def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
            heard.append(f"before_{signal}")
            super().emit_before(signal, *args, **kwargs)

        def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
            heard.append(f"after_{signal}")
            super().emit_after(signal, *args, **kwargs)

    broker = Listening(middleware=[])
    localq.set_broker(broker)

    @localq.actor
    def act() -> None:
        pass

    worker = start_worker(broker)
    act.send()
    broker.join("default")
    worker.stop()
    others = {"before_delay_message", "before_nack", "after_nack", "after_skip_message", "after_process_boot"}
    assert set(HOOKS) - others <= set(heard)


# -- hooks that raise


def send_of_all_kinds() -> list[str]:
    """Messages that succeed, that fail and that are skipped; returns what is noted when they run."""
    ran: list[str] = []

    @localq.actor
    def succeed(number: int) -> None:
        ran.append(f"succeed {number}")

    @localq.actor(max_retries=1, min_backoff=1, max_backoff=1)
    def fail() -> None:
        ran.append("fail")
        raise RuntimeError("as expected")

    @localq.actor(max_age=1)
    def old() -> None:
        ran.append("old")

    for number in range(3):
        succeed.send(number)
    fail.send()
    localq.get_broker().enqueue(old.message().copy(message_timestamp=1))
    return ran


def raising(name: str, error: BaseException) -> Middleware:
    def hook(self: Any, *args: Any, **kwargs: Any) -> None:
        raise error

    return middleware_with({name: hook})


@pytest.mark.parametrize("hook", ["after_process_message", "after_skip_message"])
def test_the_hooks_after_an_exception_run_where_sys_exc_info_gives_it(
    broker: Broker, drain: Callable[..., None], hook: str
) -> None:
    """Middleware written for dramatiq asks there for the traceback."""
    seen: list[tuple[Any, list[str], list[str]]] = []

    def skip(*args: Any) -> None:
        raise SkipMessage("on purpose")

    def look(*args: Any, **outcome: Any) -> None:
        kind, error, trace = sys.exc_info()
        assert error is not None
        seen.append((kind, names(trace), names(error.__traceback__)))

    def names(trace: Any) -> list[str]:
        return [frame.name for frame in traceback.extract_tb(trace)]

    @localq.actor(max_retries=0)
    def work() -> None:
        raise RuntimeError("on purpose")

    skips = hook == "after_skip_message"
    broker.add_middleware(middleware_with({hook: look, **({"before_process_message": skip} if skips else {})}))
    work.send()
    drain(broker)

    ((kind, frames, of_error),) = seen
    assert kind is (SkipMessage if skips else RuntimeError)
    assert frames[-1] == of_error[-1] == ("skip" if skips else "work")
    assert [name for name in of_error if "hooks_after" in name] == [], "it has not been raised there"


@pytest.mark.parametrize("error", [RuntimeError("of the hook"), SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("name", CALLED_IN_A_WORKER)
def test_a_hook_that_raises_is_logged_as_critical_and_every_message_ends(
    broker: Broker,
    drain: Callable[..., None],
    logged: Callable[[int], list[str]],
    name: str,
    error: BaseException,
) -> None:
    broker.add_middleware(raising(name, error))
    ran = send_of_all_kinds()
    drain(broker)
    assert sorted(set(ran)) == ["fail", "succeed 0", "succeed 1", "succeed 2"]
    assert [record.actor for record in sorted_dead(broker)] == ["fail", "old"]
    assert any(f"Unexpected failure in {name}" in text for text in logged(logging.CRITICAL))
    assert broker.get_queue_message_counts("default") == (0, 0, 2)


def sorted_dead(broker: Broker) -> list[Any]:
    return sorted(broker.store.browse(Selection(states=[DEAD])), key=lambda record: record.actor)


@pytest.mark.parametrize("name", [name for name in CALLED_IN_A_WORKER if name not in REFUSALS])
def test_a_hook_that_has_nothing_to_refuse_may_not_raise_a_middleware_error_either(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]], name: str
) -> None:
    broker.add_middleware(raising(name, SkipMessage("too late for that")))
    ran = send_of_all_kinds()
    drain(broker)
    assert sorted(set(ran)) == ["fail", "succeed 0", "succeed 1", "succeed 2"]
    assert len(sorted_dead(broker)) == 2
    assert any(f"Unexpected failure in {name}" in text for text in logged(logging.CRITICAL))


def test_a_hook_may_refuse_that_a_worker_boots_and_nothing_is_left_of_it(
    broker: Broker, drain: Callable[..., None]
) -> None:
    refusing = raising("before_worker_boot", SkipMessage("not here"))
    broker.add_middleware(refusing)
    ran = send_of_all_kinds()
    with pytest.raises(SkipMessage, match="not here"):
        localq.Worker(broker).start()
    assert broker.store.workers() == []
    broker.middleware.remove(refusing)
    drain(broker)
    assert "succeed 0" in ran


@pytest.mark.parametrize("name", ["before_enqueue", "after_enqueue"])
def test_a_hook_around_sending_that_raises_leaves_the_message_sent(
    broker: Broker, logged: Callable[[int], list[str]], name: str
) -> None:
    @localq.actor
    def act() -> None:
        pass

    broker.add_middleware(raising(name, RuntimeError("of the hook")))
    act.send()
    assert broker.get_queue_message_counts("default") == (1, 0, 0)
    assert len(logged(logging.CRITICAL)) == 1


@pytest.mark.parametrize("name", [name for name in HOOKS if "_declare_" in name])
def test_a_hook_around_a_declaration_that_raises_leaves_the_actor_declared(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]], name: str
) -> None:
    broker.add_middleware(raising(name, RuntimeError("of the hook")))
    ran = send_of_all_kinds()
    drain(broker)
    assert "succeed 0" in ran
    assert any(f"Unexpected failure in {name}" in text for text in logged(logging.CRITICAL))
