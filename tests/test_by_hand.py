"""Messages that run without a worker: a broker that runs them at once, and consumers of a broker's own.

Such brokers are what packages for tests consist of. They know the hooks around a
message, but nothing of what a worker does between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import localq
from localq import Message, MessageProxy
from localq.brokers.stub import StubBroker
from localq.middleware import CurrentMessage, GroupCallbacks
from localq.rate_limits.backends import StubBackend as StubCounters
from localq.results import ResultFailure, Results
from localq.results.backends import StubBackend


class BrokerAtOnce(StubBroker):
    """Runs what is sent before `enqueue` returns."""

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        running = MessageProxy(message)
        try:
            self.emit_before("process_message", running)
            result = self.get_actor(message.actor_name)(*running.args, **running.kwargs)
            self.emit_after("process_message", running, result=result)
        except Exception as error:
            running.stuff_exception(error)
            self.emit_after("process_message", running, exception=error)
        self.emit_after("nack" if running.failed else "ack", running)
        return message


@pytest.fixture(params=["a backend", "the broker's store"])
def at_once(request: pytest.FixtureRequest) -> BrokerAtOnce:
    broker = BrokerAtOnce()
    broker.add_middleware(Results(backend=StubBackend(), store_results=True))
    broker.add_middleware(GroupCallbacks(StubCounters() if request.param == "a backend" else None))
    broker.add_middleware(CurrentMessage())
    localq.set_broker(broker)
    return broker


def test_results_pipelines_and_groups_are_there_when_the_broker_runs_messages_at_once(
    at_once: BrokerAtOnce,
) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    assert add.send(1, 2).get_result() == 3
    steps = add.message(1, 2) | localq.Message("default", "add", (3,), {}, {})
    assert steps.run().get_result() == 6
    assert list(localq.group([add.message(1, 1), steps]).run().get_results()) == [2, 6]


def test_a_failure_is_retried_and_told_when_the_broker_runs_messages_at_once(at_once: BrokerAtOnce) -> None:
    tries = []

    @localq.actor(max_retries=2, min_backoff=1)
    def fail() -> None:
        tries.append(CurrentMessage.get_current_message())
        raise ValueError("on purpose")

    message = fail.send()
    assert len(tries) == 3
    with pytest.raises(ResultFailure, match="ValueError: on purpose"):
        message.get_result()


def test_callbacks_of_groups_are_sent_once_when_the_broker_runs_messages_at_once(at_once: BrokerAtOnce) -> None:
    told = []

    @localq.actor(max_retries=0)
    def divide(x: int, y: int) -> float:
        return x / y

    @localq.actor
    def tell(name: str) -> None:
        told.append(name)

    for divisor, name in [(0, "the one that fails"), (1, "first"), (1, "second")]:
        group = localq.group([divide.message(1, 1), divide.message(1, divisor)])
        group.add_completion_callback(tell.message(name))
        group.run()
    assert told == ["first", "second"]


def test_a_consumer_of_a_broker_of_its_own_needs_no_constructor() -> None:
    class Queue(localq.Consumer):
        def __init__(self, messages: list[Message[Any]]) -> None:
            self.messages = messages

        def __next__(self) -> MessageProxy | None:
            return MessageProxy(self.messages.pop(0)) if self.messages else None

    message = Message[Any]("default", "task", (), {}, {})
    queue = Queue([message])
    assert iter(queue) is queue
    assert [next(queue), next(queue)] == [message, None]
    queue.requeue([message])
    queue.close()


def test_a_bare_consumer_has_nothing_to_give() -> None:
    bare = localq.Consumer()
    for call in (bare.__next__, lambda: bare.ack(None), lambda: bare.nack(None)):
        with pytest.raises(NotImplementedError):
            call()


def test_a_group_goes_through_what_stands_in_the_place_of_enqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = StubBroker()
    localq.set_broker(broker)
    sent: list[tuple[str, int | None]] = []

    @localq.actor
    def task(x: int) -> None: ...

    monkeypatch.setattr(broker, "enqueue", lambda message, *, delay=None: sent.append((str(message), delay)))
    localq.group([task.message(1), task.message(2)]).run(delay=5)
    assert sent == [("task(1)", 5), ("task(2)", 5)]


def got_for(sent: str, broker: StubBroker, start_worker: Any) -> list[str]:
    """What an actor gets when that is sent to it."""
    got = []

    @localq.actor
    def task(x: str) -> None:
        got.append(x)

    task.send(sent)
    worker = start_worker(broker)
    broker.join("default")
    worker.join()
    return got


@pytest.fixture
def swapping() -> Iterator[StubBroker]:
    class Swaps(localq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            message._message = message._message.copy(args=("swapped",))

    broker = StubBroker()
    broker.add_middleware(Swaps())
    localq.set_broker(broker)
    yield broker
    broker.close()


def test_a_hook_can_put_another_message_in_its_place(swapping: StubBroker, start_worker: Any) -> None:
    assert got_for("sent", swapping, start_worker) == ["swapped"]


class Shouting:
    """An encoder that derives from nothing of ours."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return localq.JSONEncoder().encode(data).replace(b"hello", b"HELLO")

    def decode(self, data: bytes) -> dict[str, Any]:
        return localq.JSONEncoder().decode(data)


def test_any_object_with_the_two_methods_is_an_encoder(start_worker: Any) -> None:
    localq.set_encoder(Shouting())  # type: ignore[arg-type]
    broker = StubBroker()
    localq.set_broker(broker)
    assert got_for("hello", broker, start_worker) == ["HELLO"]
