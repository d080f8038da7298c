"""Workers in this process: starting, stopping, pausing, order among threads, and what is written when."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import localq
import localq.worker
from localq import Broker, MessageProxy, Middleware, Worker, WorkerThread
from localq.brokers import SQLiteBroker
from localq.errors import ResultMissing
from localq.middleware import CurrentMessage
from localq.results import Results
from localq.results.backends import SQLiteBackend
from localq.store import Selection
from localq.store.base import DEAD

MINUTE = 60_000


class Gate:
    """An actor's function that tells how many have come in, and lets them out on demand."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.opened = threading.Event()
        self.passed: list[Any] = []

    def __call__(self, name: Any = None) -> Any:
        self.inside.release()
        assert self.opened.wait(30)
        self.passed.append(name)
        return name

    def wait_for(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.inside.acquire(timeout=20)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end at the latest, so that no worker waits for it in vain."""
    gate = Gate()
    yield gate
    gate.opened.set()


# -- running


def test_a_hundred_messages_run_a_hundred_times_on_32_threads(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    lock, ran = threading.Lock(), []

    @localq.actor
    def work(n: int) -> None:
        with lock:
            ran.append(n)

    start_worker(broker, worker_threads=32)
    for n in range(100):
        work.send(n)
    broker.join("default", timeout=20_000)

    assert sorted(ran) == list(range(100))


def test_as_many_messages_run_at_once_as_there_are_threads(
    broker: Broker, start_worker: Callable[..., Worker], gate: Gate
) -> None:
    work = localq.actor(gate, actor_name="work")
    for n in range(10):
        work.send(n)

    start_worker(broker, worker_threads=4)
    gate.wait_for(4)

    assert not gate.inside.acquire(timeout=0.1)
    assert broker.store.counts()["default"] == {"running": 4, "waiting": 6}
    gate.opened.set()
    broker.join("default", timeout=20_000)
    assert sorted(gate.passed) == list(range(10))


def test_one_thread_runs_messages_in_the_order_of_sending(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    ran = []

    @localq.actor
    def work(n: int) -> None:
        ran.append(n)

    start_worker(broker, worker_threads=1)
    for n in range(300):
        work.send(n)
    broker.join("default", timeout=20_000)

    assert ran == list(range(300))


def test_a_sleeping_worker_hears_of_a_message_at_once(
    broker_with_results: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    echo = localq.actor(lambda x: x, actor_name="echo")
    worker = start_worker(broker_with_results, worker_timeout=100_000)

    for n in range(20):
        until(lambda: all(thread.idle for thread in worker.workers))
        assert echo.send(n).get_result(block=True, timeout=20_000) == n


def test_two_workers_share_the_work_and_nothing_runs_twice(
    broker: Broker, url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Worker]
) -> None:
    other = make_broker(url)
    meeting = threading.Barrier(2)
    lock, ran = threading.Lock(), []

    def work(who: str, n: int) -> None:
        if n < 2:
            meeting.wait(20)
        with lock:
            ran.append((n, who))

    mine = localq.actor(lambda n: work("broker", n), actor_name="work")
    localq.actor(lambda n: work("other", n), actor_name="work", broker=other)
    start_worker(broker, worker_threads=1)
    start_worker(other, worker_threads=1)
    for n in range(200):
        mine.send(n)
    broker.join("default", timeout=20_000)

    assert sorted(n for n, _ in ran) == list(range(200))
    assert {who for n, who in ran if n < 2} == {"broker", "other"}


@pytest.mark.parametrize("given", [["b"], ["b.DQ"], {"b"}, ("b", "unknown")])
def test_a_worker_serves_only_the_queues_that_it_is_given(
    broker: Broker, start_worker: Callable[..., Worker], given: Any
) -> None:
    ran = []
    actors = [localq.actor(lambda name: ran.append(name), actor_name=name, queue_name=name) for name in "ab"]

    start_worker(broker, queues=given)
    for actor in actors:
        actor.send(actor.actor_name)
        actor.send_with_options(args=(actor.actor_name,), delay=20)
    broker.join("b", timeout=20_000)

    assert ran == ["b", "b"]
    assert sum(broker.get_queue_message_counts("a")) == 2


def test_an_actor_that_is_declared_after_the_worker_started_is_served(
    broker_with_results: Broker, start_worker: Callable[..., Worker]
) -> None:
    start_worker(broker_with_results)

    @localq.actor
    def late() -> int:
        return 1

    assert late.send().get_result(block=True, timeout=5_000) == 1


def test_a_queue_that_is_declared_while_the_worker_sleeps_is_served(
    broker_with_results: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    localq.actor(lambda: 0, actor_name="early", queue_name="early")
    worker = start_worker(broker_with_results, worker_timeout=100_000)
    until(lambda: all(thread.idle for thread in worker.workers))

    @localq.actor(queue_name="late")
    def late() -> int:
        return 1

    assert late.send().get_result(block=True, timeout=5_000) == 1


def test_an_actor_that_was_left_to_others_is_run_here_once_it_is_declared(
    broker_with_results: Broker,
    url: str,
    make_broker: Callable[..., Broker],
    start_worker: Callable[..., Worker],
    until: Callable[..., Any],
) -> None:
    other = make_broker(url)
    ran = []
    elsewhere = localq.actor(lambda: ran.append("other"), actor_name="work", broker=other)
    localq.actor(lambda: None, actor_name="unrelated")
    there = start_worker(other)
    start_worker(broker_with_results)
    for _ in range(20):
        elsewhere.send()
    other.join("default", timeout=20_000)
    there.stop()

    here = localq.actor(lambda: ran.append("here"), actor_name="work")
    here.send()

    until(lambda: "here" in ran, "a run here")


def test_the_current_message_is_known_in_its_actor_and_nowhere_else(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    broker.add_middleware(CurrentMessage())
    seen: dict[int, Any] = {}
    between: list[Any] = []

    class Between(Middleware):
        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            between.append(CurrentMessage.get_current_message())

        after_nack = after_ack

    @localq.actor(max_retries=0)
    def work(n: int) -> None:
        seen[n] = CurrentMessage.get_current_message()
        if n % 2:
            raise RuntimeError

    broker.add_middleware(Between())
    sent = [work.send_with_options(args=(n,), of_my_own=n) for n in range(20)]
    start_worker(broker, worker_threads=4).join()

    assert [seen[n]._message.message_id for n in range(20)] == [message.message_id for message in sent]
    assert [seen[n].options["of_my_own"] for n in range(20)] == list(range(20))
    assert set(between) == {None}
    assert CurrentMessage.get_current_message() is None


# -- starting and stopping


def test_the_attributes_of_a_worker(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    localq.actor(lambda: None, actor_name="work")

    worker = start_worker(broker, worker_threads=3, worker_timeout=123)

    assert worker.broker is broker
    assert worker.worker_timeout == 123
    assert len(worker.workers) == 3
    assert all(thread.is_alive() for thread in worker.workers)
    assert all(hasattr(thread, name) for thread in worker.workers for name in ("pause", "resume", "paused_event"))
    assert Worker(broker).worker_threads == 8
    assert Worker(broker).worker_timeout == 1000


def test_a_stopped_worker_has_ended_its_threads_and_signed_off(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    def threads() -> set[threading.Thread]:
        return {
            each for each in threading.enumerate() if each.name.startswith(("localq worker", "localq timekeeper"))
        }

    before = threads()
    worker = start_worker(broker, worker_threads=8)
    assert len(threads() - before) == 9
    assert [each.threads for each in broker.store.workers()] == [8]

    worker.stop()

    until(lambda: not threads() - before, "the end of all its threads")
    assert broker.store.workers() == []


def test_the_thread_that_watches_time_limits_does_not_outlive_the_workers(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    before = set(threading.enumerate())
    localq.actor(lambda: None, actor_name="work").send()
    worker = start_worker(broker)
    broker.join("default", timeout=20_000)

    worker.stop()

    until(lambda: not set(threading.enumerate()) - before, "the end of all threads")


def test_stopping_twice_and_stopping_what_never_started_does_no_harm(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    Worker(broker).stop()
    worker = start_worker(broker)

    worker.stop()
    worker.stop()
    worker.stop(timeout=0)


def test_a_worker_can_be_started_and_stopped_at_once_many_times(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    localq.actor(lambda: None, actor_name="work").send_with_options(delay=MINUTE)

    began = time.monotonic()
    for _ in range(30):
        start_worker(broker, worker_threads=4, worker_timeout=100_000).stop()

    assert time.monotonic() - began < 15
    assert broker.get_queue_message_counts("default") == (0, 1, 0)


def test_stopping_an_idle_worker_does_not_wait_for_its_sleep(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    localq.actor(lambda: None, actor_name="work")
    worker = start_worker(broker, worker_timeout=100_000)
    until(lambda: all(thread.idle for thread in worker.workers))

    began = time.monotonic()
    worker.stop()

    assert time.monotonic() - began < 10


def test_stop_lets_the_running_message_end_and_gives_the_other_back_at_once(
    broker_with_results: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any], gate: Gate
) -> None:
    broker = broker_with_results
    work = localq.actor(gate, actor_name="work")
    first, second = work.send("first"), work.send("second")
    worker = start_worker(broker, worker_threads=1)
    gate.wait_for(1)

    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    until(lambda: broker.get_queue_message_counts("default") == (1, 0, 0))
    assert stopping.is_alive()
    gate.opened.set()
    stopping.join(20)

    assert gate.passed == ["first"]
    assert first.get_result() == "first"
    with pytest.raises(ResultMissing):
        second.get_result()
    start_worker(broker)
    assert second.get_result(block=True) == "second"


def test_what_still_runs_when_the_time_to_stop_is_over_goes_back_to_its_queue(
    broker: Broker, start_worker: Callable[..., Worker], gate: Gate, until: Callable[..., Any]
) -> None:
    work = localq.actor(gate, actor_name="work")
    work.send("first")
    work.send("second")
    worker = start_worker(broker, worker_threads=1)
    gate.wait_for(1)

    began = time.monotonic()
    worker.stop(timeout=250)

    assert 0.249 <= time.monotonic() - began < 10
    assert broker.get_queue_message_counts("default") == (2, 0, 0)
    gate.opened.set()
    until(lambda: not any(thread.is_alive() for thread in worker.workers))
    assert gate.passed == ["first"]
    assert broker.get_queue_message_counts("default") == (2, 0, 0)


def test_what_a_late_message_would_have_written_is_left_out(
    broker: Broker, start_worker: Callable[..., Worker], gate: Gate, until: Callable[..., Any]
) -> None:
    told = []
    tell = localq.actor(lambda message, result: told.append(result), actor_name="tell", queue_name="told")
    localq.actor(gate, actor_name="work", on_success=tell).send("late")
    worker = start_worker(broker, worker_threads=1)
    gate.wait_for(1)

    worker.stop(timeout=0)
    gate.opened.set()
    until(lambda: not any(thread.is_alive() for thread in worker.workers))

    assert gate.passed == ["late"]
    assert broker.store.counts() == {"default": {"waiting": 1}}


def test_a_burst_that_was_not_started_goes_back_when_the_worker_stops(
    broker: Broker, start_worker: Callable[..., Worker], gate: Gate
) -> None:
    quick = localq.actor(lambda n: n and gate(n), actor_name="quick")
    worker = start_worker(broker, worker_threads=1)
    for _ in range(300):
        quick.send(0)
    broker.join("default", timeout=20_000)
    broker.enqueue_many([quick.message(n) for n in (0, 0, 7, 0, 0, 0)])
    gate.wait_for(1)

    worker.stop(timeout=100)

    assert broker.get_queue_message_counts("default") == (4, 0, 0)


def test_a_delayed_message_survives_a_worker_that_starts_and_stops(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    localq.actor(lambda: None, actor_name="work").send_with_options(delay=MINUTE)

    start_worker(broker).stop()
    assert broker.get_queue_message_counts("default") == (0, 1, 0)
    start_worker(broker).stop()
    assert broker.get_queue_message_counts("default") == (0, 1, 0)


def test_join_returns_when_all_its_queues_are_empty(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    lock, ran = threading.Lock(), []

    def note(n: int) -> None:
        time.sleep(0.002)
        with lock:
            ran.append(n)

    actors = [localq.actor(note, actor_name=name, queue_name=name) for name in "abc"]
    for n in range(60):
        actors[n % 3].send(n)
    worker = start_worker(broker, worker_threads=4)

    worker.join()

    assert sorted(ran) == list(range(60))


def test_the_hooks_of_a_worker_are_called_in_the_order_of_its_life(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    calls: list[tuple[str, Any]] = []

    class Watching(Middleware):
        def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
            calls.append(("before_worker_boot", worker))

        def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
            calls.append(("after_worker_boot", worker))

        def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
            calls.append(("before_worker_shutdown", worker))

        def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
            calls.append(("after_worker_shutdown", worker))

    broker.add_middleware(Watching())
    worker = start_worker(broker)
    worker.stop()
    worker.stop()

    assert calls == [
        (name, worker)
        for name in ("before_worker_boot", "after_worker_boot", "before_worker_shutdown", "after_worker_shutdown")
    ]


def test_the_hooks_of_a_thread_are_called_on_it(
    broker: Broker, start_worker: Callable[..., Worker], thread_hooks: Callable[..., list[tuple[str, Any]]]
) -> None:
    calls = thread_hooks(broker)
    worker = start_worker(broker, worker_threads=2)
    worker.stop()

    assert sorted(kind for kind, _ in calls) == ["boot", "boot", "shutdown", "shutdown"]
    assert {thread for _, thread in calls} == set(worker.workers)


def test_a_tracer_can_wrap_what_a_thread_does_with_a_message(
    broker: Broker, start_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[tuple[str, Any]] = []
    original = localq.worker._WorkerThread.process_message

    def traced(self: WorkerThread, message: MessageProxy) -> None:
        spans.append((f"begin {message.actor_name}", message.options["parent"]))
        original(self, message)
        spans.append((f"end {message.actor_name}", message.failed))

    monkeypatch.setattr(localq.worker._WorkerThread, "process_message", traced)

    @localq.actor(max_retries=0)
    def fail() -> None:
        spans.append(("run", None))
        raise RuntimeError("on purpose")

    fail.send_with_options(parent="span 1")
    worker = start_worker(broker)
    worker.join()
    assert spans == [("begin fail", "span 1"), ("run", None), ("end fail", True)]


def test_a_worker_tells_which_queues_it_was_limited_to(broker: Broker) -> None:
    assert Worker(broker).consumer_whitelist is None
    assert Worker(broker, queues=["mail", "news.DQ"]).consumer_whitelist == {"mail", "news"}


def test_a_worker_says_that_it_will_run_nothing_of_a_broker_that_keeps_its_messages_elsewhere(
    start_worker: Callable[..., Worker], logged: Callable[[int], list[str]]
) -> None:
    class CloudBroker(Broker):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            return message

        def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Any:
            return localq.Consumer()

    start_worker(CloudBroker(middleware=[], url="memory://")).stop()
    assert [text for text in logged(logging.WARNING) if text.startswith("A CloudBroker keeps")] != []


def test_threads_of_others_are_stopped_and_paused_with_the_worker(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    class Foreign(threading.Thread):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []
            self.paused_event = threading.Event()
            self.stopped = threading.Event()

        def run(self) -> None:
            self.stopped.wait(20)

        def stop(self) -> None:
            self.calls.append("stop")
            self.stopped.set()

        def pause(self) -> None:
            self.calls.append("pause")
            self.paused_event.set()

        def resume(self) -> None:
            self.calls.append("resume")

    worker = start_worker(broker)
    foreign = Foreign()
    foreign.start()
    worker.workers.append(foreign)

    worker.pause()
    worker.resume()
    worker.stop()

    assert foreign.calls == ["pause", "resume", "stop"]
    assert not foreign.is_alive()


# -- pausing


def test_a_paused_worker_starts_nothing_until_it_is_resumed(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work")
    worker = start_worker(broker)

    worker.pause()
    assert all(thread.paused_event.is_set() for thread in worker.workers)
    work.send()
    time.sleep(0.1)
    assert ran == []
    assert broker.get_queue_message_counts("default") == (1, 0, 0)

    worker.resume()
    until(lambda: ran)
    assert not any(thread.paused_event.is_set() for thread in worker.workers)


def test_pause_returns_when_what_runs_has_ended(
    broker: Broker, start_worker: Callable[..., Worker], gate: Gate
) -> None:
    work = localq.actor(gate, actor_name="work")
    for n in range(4):
        work.send(n)
    worker = start_worker(broker, worker_threads=2)
    gate.wait_for(2)

    pausing = threading.Thread(target=worker.pause)
    pausing.start()
    pausing.join(0.1)
    assert pausing.is_alive()
    gate.opened.set()
    pausing.join(20)

    assert not pausing.is_alive()
    assert len(gate.passed) == 2
    assert broker.get_queue_message_counts("default") == (2, 0, 0)
    worker.resume()
    broker.join("default", timeout=20_000)
    assert len(gate.passed) == 4


def test_pause_returns_soon_however_its_threads_fall_asleep(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work")
    worker = start_worker(broker, worker_threads=4, worker_timeout=100_000)

    for _ in range(200):
        work.send()
        began = time.monotonic()
        worker.pause()
        assert time.monotonic() - began < 5
        worker.resume()
    broker.join("default", timeout=20_000)

    assert len(ran) == 200


def test_a_thread_that_is_paused_by_itself_rests_soon(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work")
    worker = start_worker(broker, worker_threads=4)

    for _ in range(20):
        until(lambda: all(thread.idle for thread in worker.workers))
        for thread in worker.workers:
            thread.pause()
        assert all(thread.paused_event.wait(10) for thread in worker.workers)
        work.send()
        for thread in worker.workers:
            thread.resume()
    broker.join("default", timeout=20_000)

    assert len(ran) == 20


def test_a_paused_worker_can_be_stopped(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work")
    worker = start_worker(broker)
    worker.pause()
    work.send()

    began = time.monotonic()
    worker.stop()

    assert time.monotonic() - began < 10
    assert ran == []
    assert broker.get_queue_message_counts("default") == (1, 0, 0)


def test_pausing_and_resuming_twice_does_no_harm(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work")
    worker = start_worker(broker)

    worker.pause()
    worker.pause()
    worker.resume()
    worker.resume()
    work.send()
    broker.join("default", timeout=20_000)

    assert ran == [1]


def test_pausing_a_worker_that_was_stopped_returns(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(broker)
    worker.stop()

    pausing = threading.Thread(target=worker.pause, daemon=True)
    pausing.start()
    pausing.join(5)

    assert not pausing.is_alive()


# -- bursts


def warm_up(broker: Broker, quick: Any) -> None:
    """Let the worker learn that the actor is quick, so that it claims many at once."""
    broker.enqueue_many([quick.message(0) for _ in range(500)])
    broker.join("default", timeout=20_000)


@pytest.mark.parametrize("place", [0, 1, 7, 30])
def test_a_slow_message_among_quick_ones_holds_up_none_of_them(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any], place: int
) -> None:
    done: list[int] = []

    for _ in range(3):
        gate = Gate()

        def work(n: int, gate: Gate = gate) -> None:
            if n < 0:
                gate(n)
            done.append(n)

        broker.actors.pop("quick", None)
        quick = localq.actor(work, actor_name="quick")
        worker = start_worker(broker, worker_threads=2)
        warm_up(broker, quick)
        done.clear()
        numbers = list(range(1, 64))
        numbers.insert(place, -1)
        broker.enqueue_many([quick.message(n) for n in numbers])
        gate.wait_for(1)

        try:
            until(lambda: len(done) == 63, "all others, while the slow one still runs")
            until(lambda: broker.store.counts() == {"default": {"running": 1}}, "their ends being written")
        finally:
            gate.opened.set()
        broker.join("default", timeout=20_000)
        assert done[-1] == -1
        worker.stop()


def test_with_one_thread_another_worker_takes_what_stands_behind_a_slow_message(
    broker: Broker,
    url: str,
    make_broker: Callable[..., Broker],
    start_worker: Callable[..., Worker],
    until: Callable[..., Any],
    gate: Gate,
) -> None:
    other = make_broker(url)
    done = []

    def work(n: int) -> None:
        if n < 0:
            gate(n)
        done.append(n)

    quick = localq.actor(work, actor_name="quick")
    localq.actor(work, actor_name="quick", broker=other)
    start_worker(broker, worker_threads=1)
    start_worker(other, worker_threads=1)
    warm_up(broker, quick)
    done.clear()

    broker.enqueue_many([quick.message(n) for n in (1, 2, -1, *range(3, 41))])

    until(lambda: len(done) == 40, "all others, while the slow one still runs")
    gate.opened.set()


def test_a_slow_actor_is_claimed_alone_so_that_a_free_thread_has_the_next(
    broker: Broker, start_worker: Callable[..., Worker], gate: Gate
) -> None:
    work = localq.actor(gate, actor_name="slow")
    start_worker(broker, worker_threads=2)

    broker.enqueue_many([work.message(n) for n in range(5)])
    gate.wait_for(2)

    assert broker.store.counts()["default"] == {"running": 2, "waiting": 3}


# -- what is written when (promise 3)


class After(Middleware):
    """Calls a function in each hook that runs after a message, with the name of the hook."""

    def __init__(self, fn: Callable[[str], None]) -> None:
        self.fn = fn

    def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
        if message.actor_name == "work":
            self.fn("after_process_message")

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        if message.actor_name == "work":
            self.fn("before_ack")

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        if message.actor_name == "work":
            self.fn("after_ack")


def test_what_hooks_send_is_written_together_with_the_end_of_the_message(
    broker: Broker, drain: Callable[..., None]
) -> None:
    aside = localq.actor(lambda where: None, actor_name="aside", queue_name="aside")
    localq.actor(lambda: None, actor_name="work").send()
    seen = []

    def send(where: str) -> None:
        counts = broker.store.counts()
        seen.append((where, counts.get("default", {}), sum(counts.get("aside", {}).values())))
        if where != "after_ack":
            aside.send(where)
            broker.enqueue_many([aside.message(where), aside.message(where)])

    broker.add_middleware(After(send))
    worker = Worker(broker, queues=["default"], worker_threads=1)
    worker.start()
    broker.join("default", timeout=20_000)
    worker.stop()

    assert seen == [
        ("after_process_message", {"running": 1}, 0),
        ("before_ack", {"running": 1}, 0),
        ("after_ack", {}, 6),
    ]
    assert broker.get_queue_message_counts("aside") == (6, 0, 0)


def test_what_an_actor_sends_in_its_body_is_there_at_once(broker: Broker, drain: Callable[..., None]) -> None:
    aside = localq.actor(lambda: None, actor_name="aside", queue_name="aside")
    seen = []

    @localq.actor(max_retries=0)
    def work() -> None:
        aside.send()
        seen.append(broker.get_queue_message_counts("aside"))
        broker.enqueue_many([aside.message(), aside.message()])
        seen.append(broker.get_queue_message_counts("aside"))
        raise RuntimeError("and is not taken back")

    work.send()
    worker = Worker(broker, queues=["default"], worker_threads=1)
    worker.start()
    broker.join("default", timeout=20_000)
    worker.stop()

    assert seen == [(1, 0, 0), (3, 0, 0)]
    assert broker.get_queue_message_counts("aside") == (3, 0, 0)


def test_what_a_hook_sends_to_another_store_is_there_at_once(
    broker: Broker, make_broker: Callable[..., Broker], tmp_path: Any, drain: Callable[..., None]
) -> None:
    other = make_broker(f"sqlite:///{tmp_path}/other.db")
    aside = localq.actor(lambda: None, actor_name="aside", broker=other)
    localq.actor(lambda: None, actor_name="work").send()
    seen = []

    def send(where: str) -> None:
        aside.send()
        seen.append(other.get_queue_message_counts("default")[0])

    broker.add_middleware(After(send))
    drain(broker)

    assert seen == [1, 2, 3]


def test_what_another_thread_sends_while_a_hook_runs_is_there_at_once(
    broker: Broker, drain: Callable[..., None]
) -> None:
    aside = localq.actor(lambda: None, actor_name="aside", queue_name="aside")
    localq.actor(lambda: None, actor_name="work").send()
    seen = []

    def send(where: str) -> None:
        thread = threading.Thread(target=aside.send)
        thread.start()
        thread.join(20)
        seen.append(sum(broker.store.counts().get("aside", {}).values()))

    broker.add_middleware(After(send))
    worker = Worker(broker, queues=["default"], worker_threads=1)
    worker.start()
    broker.join("default", timeout=20_000)
    worker.stop()

    assert seen == [1, 2, 3]


def test_a_hook_that_raises_keeps_what_it_sent_before(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    ran = []
    aside = localq.actor(lambda where: ran.append(where), actor_name="aside")
    localq.actor(lambda: None, actor_name="work").send()

    def send(where: str) -> None:
        aside.send(where)
        raise RuntimeError("broken")

    broker.add_middleware(After(send))
    drain(broker)

    assert sorted(ran) == ["after_ack", "after_process_message", "before_ack"]
    assert broker.store.counts() == {}
    assert len(logged(logging.CRITICAL)) == 3


def test_a_hook_whose_send_cannot_be_encoded_keeps_what_it_sent_before(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    ran = []
    aside = localq.actor(lambda x: ran.append(x), actor_name="aside")
    localq.actor(lambda: None, actor_name="work").send()

    def send(where: str) -> None:
        aside.send(where)
        broker.enqueue_many([aside.message("not alone"), aside.message(object())])

    broker.add_middleware(After(send))
    drain(broker)

    assert sorted(ran) == ["after_ack", "after_process_message", "before_ack"]
    assert len(logged(logging.CRITICAL)) == 3


def test_a_result_a_callback_and_the_next_step_come_with_the_end_of_the_message(
    broker_with_results: Broker, start_worker: Callable[..., Worker]
) -> None:
    broker = broker_with_results
    seen = []
    tell = localq.actor(lambda message, result: None, actor_name="tell", queue_name="aside")
    following = localq.actor(lambda *args: None, actor_name="following", queue_name="aside")
    work = localq.actor(lambda: 7, actor_name="work", on_success=tell)
    pipe = work.message() | following.message()

    def look(where: str) -> None:
        try:
            result = pipe.messages[0].get_result()
        except ResultMissing:
            result = None
        counts = broker.store.counts()
        seen.append((where, result, counts.get("default", {}), counts.get("aside", {})))

    broker.add_middleware(After(look))
    pipe.run()
    start_worker(broker, queues=["default"], worker_threads=1)
    broker.join("default", timeout=20_000)

    assert seen[:2] == [
        ("after_process_message", None, {"running": 1}, {}),
        ("before_ack", None, {"running": 1}, {}),
    ]
    assert broker.get_queue_message_counts("aside") == (2, 0, 0)


def test_a_retry_and_what_was_sent_beside_it_come_together(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []
    told = []
    tell = localq.actor(lambda message, error: told.append(error), actor_name="tell")

    @localq.actor(max_retries=1, min_backoff=0, max_backoff=0, on_failure=tell)
    def work() -> None:
        raise RuntimeError("broken")

    broker.add_middleware(After(lambda where: seen.append(broker.store.counts()["default"])))
    work.send()
    drain(broker, worker_threads=1)

    assert seen[0] == {"running": 1}
    assert len(told) == 2


def test_an_ack_hook_that_fails_the_message_buries_it(broker: Broker, drain: Callable[..., None]) -> None:
    class Failing(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            message.fail()

        def before_nack(self, broker: Broker, message: MessageProxy) -> None:
            aside.send()

    aside = localq.actor(lambda: None, actor_name="aside", queue_name="aside")
    broker.add_middleware(Failing())
    localq.actor(lambda: None, actor_name="work").send()
    worker = Worker(broker, queues=["default"], worker_threads=1)
    worker.start()
    broker.join("default", timeout=20_000)
    worker.stop()

    assert broker.get_queue_message_counts("default") == (0, 0, 1)
    assert broker.get_queue_message_counts("aside") == (1, 0, 0)


def test_a_message_that_cannot_be_written_is_a_dead_letter_and_its_neighbours_are_done(
    broker: Broker, drain: Callable[..., None]
) -> None:
    ran = []

    @localq.actor
    def work(n: int) -> None:
        ran.append(n)

    class Odd(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            if message.args == (3,):
                broker.enqueue(work.message(0).copy(actor_name="\ud800"))

    broker.add_middleware(Odd())
    broker.enqueue_many([work.message(n) for n in range(1, 6)])
    drain(broker, worker_threads=1)

    assert sorted(set(ran)) == [1, 2, 3, 4, 5]
    assert all(record.state == DEAD for record in broker.store.browse(Selection()))


# -- failures of the worker's own


class Precious(Exception): ...


def test_no_reference_cycle_keeps_the_exception_of_an_actor_alive(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    references: list[weakref.ref[Precious]] = []

    @localq.actor(max_retries=2, min_backoff=0, max_backoff=0)
    def fail() -> None:
        error = Precious()
        references.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    worker = start_worker(broker, worker_threads=1)
    # Log handlers, those of pytest among them, may keep what they were given.
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    try:
        fail.send()
        broker.join("default", timeout=20_000)
        until(lambda: all(thread.idle for thread in worker.workers))
        assert len(references) == 3
        until(lambda: not any(reference() for reference in references), "the end of the exceptions")
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def test_an_exception_that_is_not_an_error_of_python_is_a_failure_too(
    broker: Broker, drain: Callable[..., None]
) -> None:
    def leave() -> None:
        raise SystemExit(3)

    def stop() -> None:
        raise KeyboardInterrupt

    localq.actor(leave, actor_name="leave", max_retries=0).send()
    localq.actor(stop, actor_name="stop", max_retries=0).send()
    drain(broker)

    reasons = [record.reason or "" for record in broker.store.browse(Selection())]
    assert [reason.partition(":")[0] for reason in reasons] == ["SystemExit", "KeyboardInterrupt"]


@pytest.mark.parametrize("hook", ["before_process_message", "after_process_message", "before_ack", "after_ack"])
def test_a_hook_that_wants_to_end_the_program_is_logged_and_does_not_end_the_worker(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]], hook: str
) -> None:
    def leave(broker: Broker, message: MessageProxy, **outcome: Any) -> None:
        if message.args == (0,):
            raise SystemExit

    leaving = Middleware()
    setattr(leaving, hook, leave)
    broker.add_middleware(leaving)
    ran = []
    work = localq.actor(lambda n: ran.append(n), actor_name="work", max_retries=0)
    for n in range(3):
        work.send(n)

    drain(broker, worker_threads=1)

    assert ran == [0, 1, 2]
    assert broker.store.counts() == {}
    assert len(logged(logging.CRITICAL)) == 1


def test_an_exception_whose_text_cannot_be_made_is_a_failure_too(
    broker: Broker, drain: Callable[..., None]
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def fail() -> None:
        raise Unspeakable

    ran = []
    localq.actor(fail, actor_name="fail", max_retries=0).send()
    localq.actor(lambda: ran.append(1), actor_name="after").send()
    logging.disable(logging.CRITICAL)  # a traceback of it cannot be written either
    try:
        drain(broker, worker_threads=1)
    finally:
        logging.disable(logging.NOTSET)

    assert ran == [1]
    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_an_argument_whose_repr_fails_does_not_end_the_worker(broker: Broker, drain: Callable[..., None]) -> None:
    ran = []
    localq.actor(lambda text: ran.append(text), actor_name="work").send("\ud800")

    drain(broker)

    assert ran == ["\ud800"]


def test_results_and_messages_may_live_in_two_files(tmp_path: Any, start_worker: Callable[..., Worker]) -> None:
    backend = SQLiteBackend(tmp_path / "results.db")
    broker = SQLiteBroker(tmp_path / "jobs.db")
    broker.add_middleware(Results(backend=backend, store_results=True))
    localq.set_broker(broker)
    echo = localq.actor(lambda x: x, actor_name="echo")
    worker = start_worker(broker)

    assert [echo.send(n).get_result(block=True) for n in range(20)] == list(range(20))
    worker.stop()
    backend.store.close()


# -- what dramatiq's users can set


def test_the_environment_and_constants_say_how_often_a_worker_looks(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localq.worker.WORKER_TIMEOUT", 77)
    assert Worker(broker).worker_timeout == 77
    monkeypatch.setenv("dramatiq_worker_timeout", "88")
    assert Worker(broker).worker_timeout == 88
    assert Worker(broker, worker_timeout=99).worker_timeout == 99
    monkeypatch.setenv("dramatiq_worker_timeout", "soon")
    with pytest.raises(ValueError, match=r"dramatiq_worker_timeout.*'soon'"):
        Worker(broker)


def test_the_environment_and_constants_say_how_long_a_worker_waits_for_a_store(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert localq.worker.CONSUMER_RESTART_DELAY_SECS == localq.worker.CONSUMER_RESTART_DELAY / 1000 == 3
    monkeypatch.setattr("localq.worker.CONSUMER_RESTART_DELAY_SECS", 0.5)
    assert Worker(broker).longest_pause == 0.5
    monkeypatch.setenv("dramatiq_restart_delay", "250")
    assert Worker(broker).longest_pause == 0.25


def test_settings_of_prefetching_are_accepted(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localq.worker.QUEUE_PREFETCH", 1)
    monkeypatch.setattr("localq.worker.DELAY_QUEUE_PREFETCH", 2)
    monkeypatch.setenv("dramatiq_queue_prefetch", "3")
    monkeypatch.setenv("dramatiq_delay_queue_prefetch", "4")

    worker = Worker(broker)

    assert (worker.queue_prefetch, worker.delay_prefetch) == (1, 2)


def test_join_returns_when_the_hooks_after_the_last_message_have_run(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    told = []

    class Slow(Middleware):
        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            time.sleep(0.05)
            told.append(message.message_id)

    broker.add_middleware(Slow())
    sent = localq.actor(lambda: None, actor_name="work").send()
    start_worker(broker).join()

    assert told == [sent.message_id]


@pytest.mark.parametrize("error", [localq.RateLimitExceeded("full"), KeyError("expected")], ids=repr)
def test_what_an_actor_may_raise_is_logged_below_warning(
    broker: Broker, drain: Callable[..., None], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    @localq.actor(max_retries=0, throws=(KeyError,))
    def work() -> None:
        raise error

    caplog.set_level(logging.DEBUG)
    work.send()
    drain(broker)

    formats = {
        logging.DEBUG: "Rate limit exceeded in message %s: %s.",
        logging.INFO: "Failed to process message %s with expected exception %s.",
    }
    level = logging.INFO if isinstance(error, KeyError) else logging.DEBUG
    assert formats[level] in [record.msg for record in caplog.records if record.levelno == level]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_no_reference_cycle_keeps_the_exception_of_an_async_actor_alive(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    references: list[weakref.ref[Precious]] = []
    broker.add_middleware(localq.middleware.AsyncIO())

    @localq.actor(max_retries=1, min_backoff=0, max_backoff=0)
    async def fail() -> None:
        error = Precious()
        references.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    worker = start_worker(broker, worker_threads=1)
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    try:
        fail.send()
        broker.join("default", timeout=20_000)
        worker.join()
        assert len(references) == 2
        until(lambda: not any(reference() for reference in references), "the end of the exceptions")
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
