"""The stub broker: a store in memory that tests look into, and a join that raises what went wrong."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest

import localq
from localq.brokers.stub import StubBroker
from localq.common import dq_name, iter_queue, join_queue
from localq.middleware import AsyncIO, GroupCallbacks, Shutdown, SkipMessage, TimeLimit, TimeLimitExceeded
from localq.rate_limits.backends import StubBackend
from localq.results import Results


@pytest.fixture
def stub() -> Iterator[StubBroker]:
    broker = StubBroker()
    localq.set_broker(broker)
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def worker(stub: StubBroker, start_worker: Callable[..., localq.Worker]) -> localq.Worker:
    return start_worker(stub, worker_timeout=100)


def test_what_was_sent_lies_encoded_in_a_queue(stub: StubBroker) -> None:
    @localq.actor
    def task(x: int) -> None: ...

    sent = task.send(1)

    assert stub.queues["default"].qsize() == 1
    assert stub.queues["default"].unfinished_tasks == 1
    assert localq.Message.decode(stub.queues["default"].get(timeout=1)) == sent
    assert stub.queues["default"].qsize() == 0
    stub.queues["default"].task_done()
    assert stub.queues["default"].unfinished_tasks == 0
    with pytest.raises(ValueError, match="too many times"):
        stub.queues["default"].task_done()


def test_its_queues_are_queues_of_both_names(stub: StubBroker) -> None:
    stub.declare_queue("mail")

    assert set(stub.queues) == {"mail", "mail.DQ"}
    assert all(isinstance(each, queue.Queue) for each in stub.queues.values())
    assert stub.queues["mail"].empty()
    assert not stub.queues["mail"].full()
    with pytest.raises(queue.Empty):
        stub.queues["mail"].get_nowait()
    with pytest.raises(queue.Empty):
        stub.queues["mail"].get(timeout=0.01)
    join_queue(stub.queues["mail"], timeout=1)


def test_a_delayed_copy_says_when_it_is_due_and_lies_in_the_delay_queue(stub: StubBroker) -> None:
    @localq.actor
    def task() -> None: ...

    before = localq.clock.current_millis()
    sent = task.send_with_options(delay=60_000)

    (data,) = iter_queue(stub.queues["default.DQ"])
    message = localq.Message.decode(data)
    assert message == sent
    assert message.queue_name == "default.DQ"
    assert before + 60_000 <= message.options["eta"] <= localq.clock.current_millis() + 60_000
    assert stub.queues["default"].qsize() == 0


def test_a_worker_runs_bytes_that_were_put_by_hand(stub: StubBroker, worker: localq.Worker) -> None:
    ran = []

    @localq.actor
    def task(x: int) -> None:
        ran.append(x)

    stub.queues["default"].put(task.message(7).encode())
    stub.join("default", timeout=5000)

    assert ran == [7]


def test_bytes_that_are_no_message_do_not_stop_a_queue(stub: StubBroker, worker: localq.Worker) -> None:
    ran = []

    @localq.actor
    def task() -> None:
        ran.append(1)

    stub.queues["default"].put(b"no message")
    task.send()
    with pytest.raises(localq.DecodeError):
        stub.join("default", timeout=5000)

    assert ran == [1]
    assert stub.get_queue_message_counts("default") == (0, 0, 1)


def test_a_delayed_message_knows_its_queue_by_its_usual_name_when_it_runs(
    stub: StubBroker, worker: localq.Worker
) -> None:
    stub.add_middleware(localq.middleware.CurrentMessage())
    names = []

    @localq.actor
    def task() -> None:
        names.append(localq.middleware.CurrentMessage.get_current_message().queue_name)

    task.send_with_options(delay=10)
    stub.join("default", timeout=5000)

    assert names == ["default"]


@pytest.mark.parametrize("verb", ["consume", "join"])
def test_a_queue_that_nobody_declared_is_not_found(stub: StubBroker, verb: str) -> None:
    with pytest.raises(localq.QueueNotFound, match="nowhere"):
        getattr(stub, verb)("nowhere")


def test_nothing_is_sent_to_a_queue_that_nobody_declared(stub: StubBroker) -> None:
    with pytest.raises(localq.QueueNotFound, match="nowhere"):
        stub.enqueue(Mock(queue_name="nowhere"))


def test_join_gives_up_in_time(stub: StubBroker) -> None:
    @localq.actor
    def task() -> None: ...

    task.send()
    with pytest.raises(localq.QueueJoinTimeout, match="1 waiting"):
        stub.join("default", timeout=50)


def test_join_raises_what_the_actor_raised(stub: StubBroker, worker: localq.Worker) -> None:
    error = LookupError("over there")

    @localq.actor(max_retries=0)
    def task() -> None:
        raise error

    message = task.send()

    with pytest.raises(LookupError) as caught:
        stub.join("default", timeout=5000)
    assert caught.value is error
    (letter,) = stub.dead_letters
    assert letter.message_id == message.message_id
    assert stub.dead_letters_by_queue["default"] == [letter]
    stub.join("default", timeout=5000, fail_fast=False)


def test_join_waits_for_retries_and_raises_nothing_if_one_succeeds(stub: StubBroker, worker: localq.Worker) -> None:
    tries = []

    @localq.actor(min_backoff=1, max_backoff=1)
    def task() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    task.send()
    stub.join("default", timeout=5000)

    assert len(tries) == 3
    assert stub.dead_letters == []


def test_whether_join_raises_can_be_set_for_the_broker(start_worker: Callable[..., localq.Worker]) -> None:
    broker = StubBroker(fail_fast_default=False)

    @localq.actor(broker=broker, max_retries=0)
    def task() -> None:
        raise LookupError

    start_worker(broker)
    task.send()
    broker.join("default", timeout=5000)
    with pytest.raises(LookupError):
        broker.join("default", timeout=5000, fail_fast=True)


def test_join_raises_that_nobody_declares_the_actor(stub: StubBroker, worker: localq.Worker) -> None:
    stub.declare_queue("default")
    message = stub.enqueue(localq.Message("default", "nobody", (), {}, {}))

    with pytest.raises(localq.ActorNotFound, match=r"^nobody$"):
        stub.join("default", timeout=5000)
    assert stub.dead_letters == [message]


def test_join_raises_the_skip_of_a_message_that_was_failed(stub: StubBroker, worker: localq.Worker) -> None:
    @localq.actor(max_age=1)
    def task() -> None: ...

    message = task.message()
    stub.enqueue(message.copy(message_timestamp=message.message_timestamp - 1000))

    with pytest.raises(SkipMessage, match=r"^Message age limit exceeded$"):
        stub.join("default", timeout=5000)


def test_flushing_empties_everything_in_place(stub: StubBroker, worker: localq.Worker) -> None:
    @localq.actor(max_retries=0)
    def task() -> None:
        raise LookupError

    task.send()
    stub.join("default", fail_fast=False, timeout=5000)
    letters, view = stub.dead_letters_by_queue["default"], stub.queues["default"]
    assert len(letters) == 1
    worker.pause()
    task.send()
    task.send_with_options(delay=60_000)

    stub.flush_all()

    assert stub.queues["default"] is view
    assert (view.qsize(), view.unfinished_tasks, stub.queues["default.DQ"].unfinished_tasks) == (0, 0, 0)
    assert letters == stub.dead_letters == []
    assert stub.dead_letters_by_queue["default"] is letters


def test_a_consumer_takes_messages_without_a_worker(stub: StubBroker) -> None:
    @localq.actor
    def task(x: int) -> None: ...

    one, two, three = (task.send(x) for x in range(3))
    consumer = stub.consume("default", timeout=10)

    first, second, third = (next(consumer) for _ in range(3))
    assert [first, second, third] == [one, two, three]
    assert stub.queues["default"].unfinished_tasks == 3
    consumer.ack(first)
    consumer.nack(second)
    consumer.requeue([third])
    assert stub.dead_letters == [two]
    assert next(consumer) == three
    assert next(consumer) is None
    consumer.close()
    assert stub.queues["default"].qsize() == 1


def test_results_are_kept_in_its_memory(stub: StubBroker, worker: localq.Worker) -> None:
    stub.add_middleware(Results())

    @localq.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    assert add.send_with_options(args=(1, 2), delay=5).get_result(block=True, timeout=5000) == 3


def test_ten_retries_without_backoff_are_quick(stub: StubBroker, worker: localq.Worker) -> None:
    tries: list[float] = []

    @localq.actor(max_retries=10, min_backoff=0, max_backoff=0)
    def task() -> None:
        tries.append(time.monotonic())
        raise RuntimeError

    task.send()
    stub.join("default", fail_fast=False, timeout=10_000)

    assert len(tries) == 11


def test_its_declared_queues_are_told_with_their_forms_for_delayed_messages(stub: StubBroker) -> None:
    stub.declare_queue("mail")

    assert stub.get_declared_delay_queues() == {dq_name("mail")}


def test_an_unknown_argument_is_named() -> None:
    unknown: Any = {"colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        StubBroker(**unknown)


@pytest.mark.parametrize("kind", ["time limit", "shutdown"])
def test_join_raises_an_interrupt_that_ended_the_actor(
    stub: StubBroker, start_worker: Callable[..., localq.Worker], kind: str
) -> None:
    options: dict[str, Any] = {"time_limit": 50} if kind == "time limit" else {"notify_shutdown": True}
    started = threading.Event()

    @localq.actor(max_retries=0, **options)
    def task() -> None:
        started.set()
        while True:
            time.sleep(0.002)

    for one in stub.middleware:
        if isinstance(one, TimeLimit):
            one.interval = 20
    stub.emit_after("process_boot")
    worker = start_worker(stub)
    task.send()
    assert started.wait(20)
    if kind == "shutdown":
        worker.stop()

    with pytest.raises(TimeLimitExceeded if kind == "time limit" else Shutdown):
        stub.join("default", timeout=20_000)


def test_callbacks_of_groups_are_sent_once(stub: StubBroker, worker: localq.Worker) -> None:
    stub.add_middleware(GroupCallbacks(StubBackend()))
    done = []

    @localq.actor
    def task() -> None: ...

    @localq.actor
    def finished() -> None:
        done.append(1)

    group = localq.group(task.message() for _ in range(5))
    group.add_completion_callback(finished.message())
    group.run()
    stub.join("default", timeout=5000)

    assert done == [1]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_is_let_go_of_with_the_dead_letter(
    stub: StubBroker, start_worker: Callable[..., localq.Worker], is_async: bool
) -> None:
    stub.add_middleware(AsyncIO())
    errors: list[weakref.ref[BaseException]] = []

    class Failure(Exception):
        def __init__(self) -> None:
            errors.append(weakref.ref(self))

    def fail() -> None:
        raise Failure

    async def fail_async() -> None:
        fail()

    localq.actor(fail_async if is_async else fail, actor_name="fail", max_retries=1, min_backoff=1, max_backoff=1)
    worker = start_worker(stub, worker_threads=1)
    logging.disable(logging.CRITICAL)  # log handlers, those of pytest among them, keep what they are given
    gc.collect()
    gc.disable()
    try:
        stub.get_actor("fail").send()
        stub.join("default", timeout=10_000, fail_fast=False)
        worker.stop()
        assert len(errors) == 2
        assert errors[0]() is None
        stub.flush_all()
        assert errors[1]() is None
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def test_an_eta_that_is_none_is_warned_of_and_its_message_runs_at_once(
    stub: StubBroker, worker: localq.Worker, logged: Callable[[int], list[str]]
) -> None:
    ran = []
    task = localq.actor(lambda x: ran.append(x), actor_name="task")

    task.send_with_options(args=[1], eta="tomorrow")
    stub.queues["default"].put(task.message_with_options(args=[2], eta="tomorrow").encode())
    stub.join("default", timeout=5000)

    assert sorted(ran) == [1, 2]
    assert sum("Invalid eta value for message" in line for line in logged(logging.WARNING)) == 2


def test_an_actor_chooses_when_it_is_retried(stub: StubBroker, worker: localq.Worker) -> None:
    started: list[float] = []

    @localq.actor
    def task() -> None:
        started.append(time.monotonic())
        if len(started) == 1:
            raise localq.Retry(delay=100)

    task.send()
    stub.join("default", timeout=10_000)

    assert started[1] - started[0] >= 0.1


def test_a_message_that_a_hook_failed_at_its_very_end_is_a_dead_letter_too(
    stub: StubBroker, worker: localq.Worker
) -> None:
    class Refuses(localq.Middleware):
        def before_ack(self, broker: localq.Broker, message: localq.MessageProxy) -> None:
            message.fail()

    stub.add_middleware(Refuses())
    sent = localq.actor(lambda: None, actor_name="task").send()

    stub.join("default", fail_fast=False)

    assert stub.dead_letters == [sent]


def test_a_hook_that_is_called_by_hand_buries_nothing(stub: StubBroker) -> None:
    message = localq.actor(lambda: None, actor_name="task").message()

    stub.emit_before("nack", localq.MessageProxy(message))

    assert stub.dead_letters == []


def test_bytes_that_a_consumer_cannot_read_are_a_dead_letter_of_its_broker(stub: StubBroker) -> None:
    stub.declare_queue("default")
    stub.queues["default"].put(b"nonsense")

    assert next(stub.consume("default", timeout=1)) is None

    with pytest.raises(localq.DecodeError):
        stub.join("default")


def test_middleware_that_is_added_late_hears_of_each_form_of_a_queue_once(stub: StubBroker) -> None:
    heard = []

    class Listens(localq.Middleware):
        def after_declare_queue(self, broker: localq.Broker, queue_name: str) -> None:
            heard.append(("queue", queue_name))

        def after_declare_delay_queue(self, broker: localq.Broker, queue_name: str) -> None:
            heard.append(("delayed", queue_name))

    stub.declare_queue("mail")
    stub.add_middleware(Listens())

    assert heard == [("queue", "mail"), ("delayed", "mail.DQ")]


def test_the_join_of_its_worker_waits_for_the_last_hooks_and_raises_nothing(
    stub: StubBroker, worker: localq.Worker
) -> None:
    told = []

    class Slow(localq.Middleware):
        def after_nack(self, broker: localq.Broker, message: localq.MessageProxy) -> None:
            time.sleep(0.05)
            told.append(message.message_id)

    @localq.actor(max_retries=0)
    def fail() -> None:
        raise KeyError

    stub.add_middleware(Slow())
    sent = fail.send()
    worker.join()

    assert told == [sent.message_id]


def test_what_was_taken_from_a_queue_is_unfinished_until_it_is_said_to_be_done(stub: StubBroker) -> None:
    sent = localq.actor(lambda: None, actor_name="task").send()
    mail = stub.queues["default"]
    assert list(mail.queue) == [sent.encode()]

    mail.get()
    assert (mail.qsize(), mail.unfinished_tasks) == (0, 1)
    mail.task_done()

    assert mail.unfinished_tasks == 0
    mail.join()
    with pytest.raises(ValueError, match="too many times"):
        mail.task_done()


def test_what_runs_is_unfinished(stub: StubBroker, worker: localq.Worker) -> None:
    inside, go_on = threading.Event(), threading.Event()

    @localq.actor
    def task() -> None:
        inside.set()
        assert go_on.wait(20)

    task.send()
    assert inside.wait(20)
    assert (stub.queues["default"].qsize(), stub.queues["default"].unfinished_tasks) == (0, 1)
    go_on.set()
    stub.join("default")
    assert stub.queues["default"].unfinished_tasks == 0


def test_join_waits_for_what_delayed_messages_send_delayed(stub: StubBroker, worker: localq.Worker) -> None:
    ran = []
    second = localq.actor(ran.append, actor_name="second")

    @localq.actor
    def first() -> None:
        second.send_with_options(args=(1,), delay=20)

    first.send_with_options(delay=20)
    stub.join("default", timeout=20_000)

    assert ran == [1]


def test_a_failure_that_no_middleware_retries_is_acknowledged_as_in_dramatiq(
    start_worker: Callable[..., localq.Worker],
) -> None:
    heard: list[str] = []

    class Recorder(localq.Middleware):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            heard.append(type(outcome["exception"]).__name__)

        def after_ack(self, broker: Any, message: Any) -> None:
            heard.append("ack")

        def after_nack(self, broker: Any, message: Any) -> None:
            heard.append("nack")

    stub = StubBroker(middleware=[Recorder()])
    localq.set_broker(stub)

    @localq.actor
    def fail() -> None:
        raise ValueError("on purpose")

    fail.send()
    worker = start_worker(stub)
    stub.join("default")
    worker.join()
    assert heard == ["ValueError", "ack"]
    assert stub.dead_letters == []
