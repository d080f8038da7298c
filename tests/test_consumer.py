"""Messages taken one by one, without a worker, from each store; and what a worker shows of them."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest

import localq
import localq.worker
from localq.brokers import SQLiteBroker
from localq.brokers.stub import StubBroker
from localq.message import Message
from localq.middleware import default_middleware
from localq.results import ResultBackend


@pytest.fixture
def task(broker: localq.Broker) -> localq.Actor[Any, Any]:
    @localq.actor(actor_name="task")
    def task(x: int) -> None: ...

    return task


def test_a_consumer_gives_the_messages_of_its_queue_and_then_none(
    broker: localq.Broker, task: localq.Actor[Any, Any]
) -> None:
    sent = [task.send(x) for x in range(2)]
    broker.enqueue(Message("other", "task", (), {}, {}))

    consumer = broker.consume("default", prefetch=3, timeout=10)

    assert iter(consumer) is consumer
    assert isinstance(consumer, localq.Consumer)
    assert [next(consumer), next(consumer)] == sent
    assert next(consumer) is None
    consumer.close()


def test_acknowledged_messages_are_gone_and_rejected_ones_are_dead(
    broker: localq.Broker, task: localq.Actor[Any, Any]
) -> None:
    task.send(1), task.send(2)
    consumer = broker.consume("default", timeout=1000)

    consumer.ack(next(consumer))
    consumer.nack(next(consumer))

    assert broker.get_queue_message_counts("default") == (0, 0, 1)
    consumer.close()


def test_what_a_consumer_holds_goes_back_when_it_is_closed_or_asked(
    broker: localq.Broker, task: localq.Actor[Any, Any]
) -> None:
    first, second = task.send(1), task.send(2)
    consumer = broker.consume("default", timeout=1000)
    taken = [next(consumer), next(consumer)]
    assert broker.get_queue_message_counts("default") == (0, 0, 0)

    consumer.requeue(taken[:1])
    assert broker.get_queue_message_counts("default") == (1, 0, 0)
    consumer.close()
    consumer.close()

    again = broker.consume("default", timeout=1000)
    assert [next(again), next(again)] == [first, second]
    again.close()


def test_a_message_that_nobody_knows_can_be_rejected(broker: localq.Broker, task: localq.Actor[Any, Any]) -> None:
    consumer = broker.consume("default", timeout=10)

    consumer.nack(task.message(1))
    consumer.ack(localq.MessageProxy(task.message(1)))

    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    consumer.close()


def test_a_consumer_wakes_for_a_message_that_is_sent_meanwhile(
    broker: localq.Broker, task: localq.Actor[Any, Any]
) -> None:
    consumer = broker.consume("default", timeout=20_000)
    message = task.send_with_options(args=(1,), delay=50)

    taken = next(consumer)

    assert taken is not None
    assert taken.message_id == message.message_id
    consumer.close()


def test_bytes_that_are_no_message_are_dead_and_the_next_one_is_given(
    broker: localq.Broker, task: localq.Actor[Any, Any], logged: Callable[[int], list[str]]
) -> None:
    broker.store.put([localq.store.Record("x", "default", "task", b"nothing")], now=0)
    message = task.send(1)
    consumer = broker.consume("default", timeout=1000)

    assert next(consumer) == message
    assert broker.get_queue_message_counts("default")[2] == 1
    assert any("Cannot decode the message x" in line for line in logged(logging.ERROR))
    consumer.close()


def test_the_message_that_a_stopped_worker_gives_back_is_there_for_a_consumer(
    broker: localq.Broker, task: localq.Actor[Any, Any], start_worker: Callable[..., localq.Worker]
) -> None:
    worker = start_worker(broker)
    worker.pause()
    message = task.send(1)
    worker.stop()

    consumer = broker.consume("default", timeout=1000)
    assert next(consumer) == message
    consumer.close()


# -- what a worker shows


def test_a_worker_shows_a_consumer_for_each_queue_that_it_serves(
    broker: localq.Broker, start_worker: Callable[..., localq.Worker]
) -> None:
    broker.declare_queue("a")
    broker.declare_queue("b")
    worker = start_worker(broker, queues={"a", "c"})
    assert set(worker.consumers) == {"a", "a.DQ"}
    broker.declare_queue("c")
    assert set(worker.consumers) == {"a", "a.DQ", "c", "c.DQ"}

    shown = worker.consumers["a"]
    assert isinstance(shown, localq.ConsumerThread)
    assert isinstance(shown.consumer, localq.Consumer)
    assert shown.consumer is worker.consumers["a"].consumer


def test_settings_of_dramatiqs_workers_can_be_changed(
    broker: localq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUEUE_PREFETCH", "DELAY_QUEUE_PREFETCH", "WORKER_TIMEOUT", "CONSUMER_RESTART_DELAY"):
        monkeypatch.setattr(localq.worker, name, 7)
    monkeypatch.setattr(localq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.5)

    worker = localq.Worker(broker)

    assert worker.worker_timeout == 7
    assert worker.longest_pause == 0.5
    assert localq.Worker(broker, worker_timeout=9).worker_timeout == 9


def test_settling_a_message_twice_counts_once(broker: localq.Broker, task: localq.Actor[Any, Any]) -> None:
    consumer = broker.consume("default", timeout=1)
    task.send(1)
    message = next(consumer)

    consumer.ack(message)
    consumer.nack(message)
    consumer.requeue([message])
    consumer.close()

    assert broker.store.counts() == {}


def test_two_messages_of_one_id_are_settled_one_by_one(broker: localq.Broker, task: localq.Actor[Any, Any]) -> None:
    consumer, message = broker.consume("default", timeout=1), task.message(1)
    broker.enqueue_many([message, message])

    consumer.ack(next(consumer))
    assert broker.store.counts() == {"default": {"waiting": 1}}
    consumer.ack(next(consumer))

    assert broker.store.counts() == {}
    consumer.close()


def hold_one_until_killed(path: str, connection: Connection) -> None:
    message = next(SQLiteBroker(path).consume("default", timeout=20_000))
    connection.send(message and message.message_id)
    signal.pause()


def test_what_a_process_held_that_died_is_there_for_others(tmp_path: Path, start: Callable[..., Any]) -> None:
    path = str(tmp_path / "jobs.db")
    broker = SQLiteBroker(path)
    sent = localq.actor(lambda: None, actor_name="task", broker=broker).send()
    process, connection = start(hold_one_until_killed, path)
    assert connection.recv() == sent.message_id

    os.kill(process.pid, signal.SIGKILL)
    process.join()
    broker.store.reap(now=localq.common.current_millis())

    consumer = broker.consume("default", timeout=20_000)
    assert next(consumer) == sent
    consumer.close()
    broker.close()


# -- what packages lean on


@pytest.mark.parametrize("kind", [localq.Broker, SQLiteBroker, StubBroker])
def test_an_argument_that_a_broker_does_not_know_is_named(kind: Any) -> None:
    with pytest.raises(TypeError, match="'colour'"):
        kind(colour="red")


def test_the_actors_of_a_broker_can_be_cleared_and_declared_anew(broker: localq.Broker) -> None:
    def task() -> None: ...

    localq.actor(task)
    broker.actors.clear()
    assert localq.actor(task) is broker.get_actor("task")


def test_the_middleware_of_a_broker_can_be_assigned(broker: localq.Broker) -> None:
    heard = []

    class Listens(localq.Middleware):
        def before_enqueue(self, *args: Any, **kwargs: Any) -> None:
            heard.append(args[1].actor_name)

        def before_signal_of_our_own(self, *args: Any) -> None:
            heard.append(args[1])

    broker.middleware = [Listens()]
    broker.enqueue(Message("default", "task", (), {}, {}))
    broker.emit_before("signal_of_our_own", "hello")

    assert heard == ["task", "hello"]
    assert [type(one) for one in broker.middleware] == [Listens]


def test_brokers_and_backends_can_be_mocked() -> None:
    assert isinstance(MagicMock(spec=localq.Broker), localq.Broker)
    backend = create_autospec(ResultBackend)
    assert backend.get_result is not None


def test_the_init_of_all_brokers_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    original = localq.Broker.__init__
    made = []

    def replaced(self: localq.Broker, *args: Any, **kwargs: Any) -> None:
        made.append(type(self).__name__)
        middleware = kwargs.pop("middleware", None) or (args[0] if args else None)
        original(self, middleware or [make() for make in default_middleware], **kwargs)

    monkeypatch.setattr(localq.Broker, "__init__", replaced)
    brokers = [StubBroker(), localq.brokers.SQLiteBroker("jobs.db")]

    assert made == ["StubBroker", "SQLiteBroker"]
    assert [len(broker.middleware) for broker in brokers] == [len(default_middleware)] * 2


def test_a_stub_broker_may_be_a_proxy_of_another() -> None:
    real = StubBroker()

    class Proxy(StubBroker):
        def __init__(self) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    proxy = Proxy()
    task = localq.actor(lambda: None, actor_name="task", broker=proxy)
    task.send()

    assert proxy.get_actor("task") is task
    assert real.queues["default"].qsize() == 1


def test_an_actor_may_be_a_proxy_of_another(broker: localq.Broker, drain: Callable[..., None]) -> None:
    ran = []
    real = localq.actor(lambda: ran.append(1), actor_name="task")

    class Proxy(localq.Actor[Any, Any]):
        def __init__(self) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    Proxy().send()
    real.fn = lambda: ran.append(2)
    drain(broker)

    assert ran == [2]


def test_a_message_takes_ids_and_times_of_any_kind(broker: localq.Broker, drain: Callable[..., None]) -> None:
    ran = []
    localq.actor(lambda: ran.append(1), actor_name="task")

    broker.enqueue(Message("default", "task", (), {}, {}, message_id=17, message_timestamp=1.5))  # type: ignore[arg-type]
    drain(broker)

    assert ran == [1]


def test_the_actor_class_of_the_decorator_can_be_patched(
    broker: localq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(localq.Actor[Any, Any]):
        pass

    monkeypatch.setitem(localq.actor.__kwdefaults__, "actor_class", Mine)
    assert type(localq.actor(lambda: None, actor_name="task")) is Mine


def test_every_hook_gets_the_same_object_which_can_be_written_to(
    broker: localq.Broker, drain: Callable[..., None]
) -> None:
    seen = []

    class Marks(localq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            message.mark = object()
            message.options["note"] = "written"
            seen.append(message)

        def after_process_message(self, *args: Any, **kwargs: Any) -> None:
            seen.append(args[1])
            assert args[1].mark is not None

    broker.add_middleware(Marks())
    localq.actor(lambda: None, actor_name="task").send()
    drain(broker)

    assert seen[0] is seen[1]
    assert seen[1].options["note"] == "written"
