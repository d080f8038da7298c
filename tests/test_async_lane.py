"""Async actors beside a worker's threads: many at a time, each with a thread that sleeps meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import localq
from localq import Broker, Message, MessageProxy, Middleware, RateLimitExceeded, Retry, Worker, group
from localq.async_lane import AsyncRunner
from localq.asyncio import get_event_loop_thread
from localq.brokers import StubBroker
from localq.errors import ResultFailure, StoreError
from localq.middleware import AsyncIO, CurrentMessage, Retries, Shutdown, TimeLimitExceeded
from localq.rate_limits import ConcurrentRateLimiter
from localq.rate_limits.backends import StubBackend
from localq.store import Outcome, Selection
from localq.store.base import CANCELLED, DEAD, RELEASE, RUNNING, WAITING


class Hall:
    """Coroutines come in, tell so, and stay until they are let out."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.entered: list[Any] = []
        self.passed: list[Any] = []
        self.cancelled: list[Any] = []
        self.inside = self.most = 0
        self._is_open = False
        self._doors: dict[Any, asyncio.Event] = {}

    async def stay(self, name: Any = None) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.append(name)
        door = self._doors[name] = asyncio.Event()
        self.came.release()
        try:
            if not self._is_open:
                await door.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            self.cancelled.append(name)
            raise
        finally:
            self.inside -= 1
        self.passed.append(name)
        return name

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.came.acquire(timeout=20)

    def let_out(self, name: Any) -> None:
        self._in_loop(lambda: self._doors[name].set())

    def open(self) -> None:
        """Let out all, and those that come later."""
        self._is_open = True
        self._in_loop(lambda: [door.set() for door in self._doors.values()])

    def _in_loop(self, call: Callable[[], Any]) -> None:
        thread = get_event_loop_thread()
        if thread is not None:
            thread.loop.call_soon_threadsafe(call)


@pytest.fixture
def hall() -> Hall:
    return Hall()


@pytest.fixture
def broker(url: str) -> Broker:
    """The global broker, as programs have it that set nothing up."""
    return localq.connect(url)


@pytest.fixture
def start_worker(hall: Hall) -> Iterator[Callable[..., Worker]]:
    """Starts workers, which are stopped at the end; nobody stays in the hall then."""
    started: list[Worker] = []

    def start_worker(broker: Broker, **options: Any) -> Worker:
        started.append(Worker(broker, **{"worker_threads": 1, **options}))
        started[-1].start()
        return started[-1]

    yield start_worker
    hall.open()
    for worker in started:
        worker.stop(timeout=10_000)


@pytest.fixture
def in_background() -> Iterator[Callable[..., threading.Thread]]:
    """Calls a function in a thread, which must have ended at the end of the test."""
    started: list[threading.Thread] = []

    def in_background(work: Callable[..., Any], *args: Any) -> threading.Thread:
        started.append(threading.Thread(target=work, args=args, daemon=True))
        started[-1].start()
        return started[-1]

    yield in_background
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()


class Ledger:
    """Counts what a broker's store is asked to write."""

    def __init__(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transactions = self.claimed = self.released = 0
        self._finish = broker.store.finish
        monkeypatch.setattr(broker.store, "finish", self.finish)

    def finish(self, outcomes: Any, *, now: int, claim: Any = None) -> Any:
        claimed = self._finish(outcomes, now=now, claim=claim)
        self.transactions += 1
        self.claimed += len(claimed)
        self.released += sum(outcome.kind == RELEASE for outcome in outcomes)
        return claimed


def lane_of(worker: Worker) -> Any:
    assert worker.lane is not None
    return worker.lane


def dead_letters(broker: Broker) -> dict[str, str]:
    """The reasons of the dead, by the id of the message."""
    dead = broker.store.browse(Selection(states=[DEAD]))
    return {record.message_id: record.reason or "" for record in dead}


# -- side by side


def test_a_hundred_messages_run_at_once_beside_one_thread(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    """Each waits until all have begun."""
    together = asyncio.Event()
    begun: list[int] = []

    @localq.actor
    async def meet(number: int) -> int:
        begun.append(number)
        if len(begun) == 100:
            together.set()
        await together.wait()
        return number

    messages = broker.enqueue_many([meet.message(number) for number in range(100)])
    start_worker(broker)

    assert [message.get_result(block=True, timeout=20_000) for message in messages] == list(range(100))


def test_a_sync_message_runs_beside_them(broker: Broker, start_worker: Callable[..., Worker], hall: Hall) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    double = localq.actor(lambda number: 2 * number, actor_name="double")
    start_worker(broker)
    for number in range(20):
        stay.send(number)
    hall.wait_for(20)

    assert [double.send(number).get_result(block=True, timeout=20_000) for number in range(5)] == [0, 2, 4, 6, 8]
    assert (hall.inside, hall.passed) == (20, [])


def test_an_actor_that_is_declared_after_the_worker_started_overlaps_too(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    plain = localq.actor(lambda: "plain", actor_name="plain")
    start_worker(broker)
    assert plain.send().get_result(block=True, timeout=20_000) == "plain"

    stay = localq.actor(hall.stay, actor_name="stay")
    for number in range(10):
        stay.send(number)

    hall.wait_for(10)
    assert plain.send().get_result(block=True, timeout=20_000) == "plain"


def test_two_workers_of_a_process_have_a_lane_each(
    broker: Broker, url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Worker], hall: Hall
) -> None:
    other = make_broker(url, [AsyncIO()])
    stay = localq.actor(hall.stay, actor_name="stay")
    localq.actor(hall.stay, actor_name="stay", broker=other)
    start_worker(broker, async_concurrency=3)
    start_worker(other, async_concurrency=3)
    for number in range(8):
        stay.send(number)

    hall.wait_for(6)
    assert not hall.came.acquire(timeout=0.1)
    hall.open()
    broker.join("default", timeout=20_000)
    assert (sorted(hall.passed), hall.most) == (list(range(8)), 6)


def test_the_stub_broker_runs_them_at_once_too(start_worker: Callable[..., Worker], hall: Hall) -> None:
    broker = StubBroker(middleware=[AsyncIO(), Retries(max_retries=0)])
    localq.set_broker(broker)
    stay = localq.actor(hall.stay, actor_name="stay")

    @localq.actor
    async def fail() -> None:
        raise ZeroDivisionError("out of numbers")

    start_worker(broker)
    for number in range(20):
        stay.send(number)
    hall.wait_for(20)
    fail.send()
    hall.open()

    with pytest.raises(ZeroDivisionError, match="out of numbers"):
        broker.join("default", timeout=20_000)
    assert sorted(hall.passed) == list(range(20))


def test_a_coroutine_that_blocks_the_loop_holds_up_the_others_for_that_long_only(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, until: Callable[..., Any]
) -> None:
    blocking, go_on = threading.Event(), threading.Event()

    @localq.actor
    async def block() -> None:
        blocking.set()
        assert go_on.wait(20)

    stay = localq.actor(hall.stay, actor_name="stay")
    plain = localq.actor(lambda: "plain", actor_name="plain")
    start_worker(broker)
    stay.send("before")
    hall.wait_for(1)
    block.send()
    assert blocking.wait(20)
    stay.send("after")
    hall.open()

    assert plain.send().get_result(block=True, timeout=20_000) == "plain"
    until(lambda: broker.store.counts()["default"] == {"running": 3})
    assert (hall.entered, hall.passed) == (["before"], [])
    go_on.set()
    broker.join("default", timeout=20_000)
    assert sorted(hall.passed) == ["after", "before"]


# -- how many


@pytest.mark.parametrize("worker_threads", [1, 4])
def test_never_more_run_than_may_and_sync_messages_run_while_the_lane_is_full(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, worker_threads: int
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    double = localq.actor(lambda number: 2 * number, actor_name="double")
    for number in range(20):
        stay.send(number)
    start_worker(broker, worker_threads=worker_threads, async_concurrency=2)
    hall.wait_for(2)

    for number in range(30):
        assert double.send(number).get_result(block=True, timeout=20_000) == 2 * number
    assert not hall.came.acquire(timeout=0.1)
    assert broker.store.counts()["default"] == {"running": 2, "waiting": 18}
    hall.open()
    broker.join("default", timeout=20_000)

    assert sorted(hall.passed) == list(range(20))
    assert hall.most == 2


@pytest.mark.parametrize(("worker_threads", "async_concurrency"), [(1, 1), (8, 2), (4, 7)])
def test_what_finds_no_room_is_not_claimed_and_released_again(
    broker: Broker,
    start_worker: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    worker_threads: int,
    async_concurrency: int,
) -> None:
    inside = most = 0

    @localq.actor
    async def nap() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.002)
        inside -= 1

    broker.enqueue_many([nap.message() for _ in range(300)])
    ledger = Ledger(broker, monkeypatch)
    start_worker(broker, worker_threads=worker_threads, async_concurrency=async_concurrency)
    broker.join("default", timeout=60_000)

    assert (ledger.claimed, ledger.released, most) == (300, 0, async_concurrency)
    assert ledger.transactions < 600


def test_messages_one_after_the_other_need_one_thread(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    @localq.actor
    async def echo(number: int) -> int:
        return number

    worker = start_worker(broker)
    for number in range(50):
        assert echo.send(number).get_result(block=True, timeout=20_000) == number
        worker.join()

    assert len(lane_of(worker).threads) <= 2  # a result is there a moment before its thread is free


def test_without_a_lane_they_run_on_the_threads_of_the_worker(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    threads: set[Any] = set()

    class Watching(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            threads.add(threading.current_thread())

    broker.add_middleware(Watching())
    stay = localq.actor(hall.stay, actor_name="stay")
    for number in range(6):
        stay.send(number)
    worker = start_worker(broker, worker_threads=2, async_concurrency=0)

    hall.wait_for(2)
    assert not hall.came.acquire(timeout=0.1)
    hall.open()
    broker.join("default", timeout=20_000)
    assert (sorted(hall.passed), hall.most) == (list(range(6)), 2)
    assert threads == set(worker.workers)
    assert worker.lane is None


@pytest.mark.parametrize("threads", [0, 2])
def test_where_the_system_gives_no_more_threads_messages_run_all_the_same(
    broker: Broker,
    start_worker: Callable[..., Worker],
    hall: Hall,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[int], list[str]],
    threads: int,
) -> None:
    started: list[AsyncRunner] = []
    start = AsyncRunner.start

    def start_few(runner: AsyncRunner) -> None:
        if len(started) == threads:
            raise RuntimeError("can't start new thread")
        started.append(runner)
        start(runner)

    monkeypatch.setattr(AsyncRunner, "start", start_few)
    stay = localq.actor(hall.stay, actor_name="stay")
    double = localq.actor(lambda number: 2 * number, actor_name="double")
    for number in range(10):
        stay.send(number)
    doubled = [double.send(number) for number in range(10)]
    start_worker(broker)
    hall.wait_for(threads + 1)  # the worker's own thread runs one itself
    hall.open()
    broker.join("default", timeout=20_000)

    assert sorted(hall.passed) == list(range(10))
    assert [message.get_result() for message in doubled] == [2 * number for number in range(10)]
    assert [text for text in logged(logging.WARNING) if "can't start new thread" in text] == [
        "Async actors run on the worker's threads, too: can't start new thread."
    ]


def test_a_message_of_better_priority_starts_first(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    priorities = list(range(12))
    random.Random(3).shuffle(priorities)
    stay = localq.actor(hall.stay, actor_name="stay")
    for priority in priorities:
        stay.send_with_options(args=(priority,), priority=priority)
    start_worker(broker, async_concurrency=3)
    hall.wait_for(3)
    assert sorted(hall.entered) == [0, 1, 2]

    for number in range(9):
        hall.let_out(hall.entered[number])
        hall.wait_for(1)

    assert hall.entered[3:] == list(range(3, 12))


def test_messages_of_one_priority_start_in_the_order_of_sending(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    hall.open()
    stay = localq.actor(hall.stay, actor_name="stay")
    for number in range(50):
        stay.send(number)
    start_worker(broker, async_concurrency=1)
    broker.join("default", timeout=20_000)

    assert hall.entered == list(range(50))


# -- each for itself


def test_each_knows_the_message_that_it_runs_for_also_after_it_has_waited(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    together = asyncio.Event()
    seen: dict[int, list[str]] = {}

    def current() -> str:
        message = CurrentMessage.get_current_message()
        assert message is not None
        return str(message.message_id)

    async def current_in_a_task() -> str:
        await asyncio.sleep(0)
        return current()

    @localq.actor
    async def look(number: int) -> None:
        seen[number] = [current()]
        if len(seen) == 40:
            together.set()
        await together.wait()
        for _ in range(3):
            await asyncio.sleep(number % 7 / 1000)
            seen[number].append(current())
        seen[number].append(await asyncio.create_task(current_in_a_task()))
        seen[number] += await asyncio.gather(current_in_a_task(), asyncio.to_thread(current))

    sent = broker.enqueue_many([look.message(number) for number in range(40)])
    start_worker(broker)
    broker.join("default", timeout=20_000)

    assert seen == {number: [message.message_id] * 7 for number, message in enumerate(sent)}
    assert dead_letters(broker) == {}


def test_a_time_limit_hits_the_one_whose_it_is_and_its_cleanup_runs_before_its_end(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    cleaned: list[int] = []

    @localq.actor(max_retries=0)
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(broker.store.counts()["default"]["running"])

    stay = localq.actor(hall.stay, actor_name="stay")
    start_worker(broker)
    for number in range(10):
        stay.send(number)
    hall.wait_for(10)
    message = slow.send_with_options(time_limit=100)

    with pytest.raises(ResultFailure, match=TimeLimitExceeded.__name__):
        message.get_result(block=True, timeout=20_000)
    assert cleaned == [11]
    hall.open()
    broker.join("default", timeout=20_000)
    assert (sorted(hall.passed), hall.cancelled) == (list(range(10)), [])
    assert dead_letters(broker).keys() == {message.message_id}


def test_an_abort_hits_the_one_whose_it_is_and_its_cleanup_runs_before_its_end(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    start_worker(broker)
    messages = [stay.send(number) for number in range(10)]
    hall.wait_for(10)

    localq.abort(messages[4].message_id)

    with pytest.raises(ResultFailure, match="Abort"):
        messages[4].get_result(block=True, timeout=20_000)
    assert (hall.cancelled, hall.inside) == ([4], 9)
    hall.open()
    broker.join("default", timeout=20_000)
    assert sorted(hall.passed) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert dead_letters(broker).keys() == {messages[4].message_id}


def test_one_that_waits_for_room_can_be_cancelled_and_never_runs(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    start_worker(broker, async_concurrency=2)
    messages = [stay.send(number) for number in range(5)]
    hall.wait_for(2)

    for message in messages:
        localq.abort(message.message_id, mode=localq.AbortMode.CANCEL)
    hall.open()
    broker.join("default", timeout=20_000)

    assert sorted(hall.passed) == sorted(hall.entered) == [0, 1]
    cancelled = broker.store.browse(Selection(states=[CANCELLED]))
    assert [record.message_id for record in cancelled] == [message.message_id for message in messages[2:]]


def test_a_notice_of_shutdown_hits_those_that_asked_for_it(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, in_background: Callable[..., Any], until: Any
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay", max_retries=0)
    worker = start_worker(broker)
    messages = [stay.send_with_options(args=(number,), notify_shutdown=number % 3 == 0) for number in range(9)]
    hall.wait_for(9)

    stopping = in_background(worker.stop)
    until(lambda: len(hall.cancelled) == 3)
    until(lambda: len(dead_letters(broker)) == 3)
    assert stopping.is_alive()
    hall.open()
    stopping.join(20)

    assert sorted(hall.cancelled) == [0, 3, 6]
    assert sorted(hall.passed) == [1, 2, 4, 5, 7, 8]
    reasons = dead_letters(broker)
    assert reasons.keys() == {messages[number].message_id for number in (0, 3, 6)}
    assert all(reason.startswith(f"{Shutdown.__name__}: ") for reason in reasons.values())


def test_retries_and_results(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    @localq.actor(max_retries=3)
    async def third_time_lucky(name: str) -> Any:
        message = CurrentMessage.get_current_message()
        assert message is not None
        await asyncio.sleep(0.001)
        if message.options.get("retries", 0) < 2:
            raise Retry("again", delay=5)
        return name, message.options["retries"]

    @localq.actor(max_retries=2, min_backoff=1, max_backoff=1)
    async def hopeless() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("out of numbers")

    start_worker(broker)
    failing = [hopeless.send() for _ in range(10)]
    messages = [third_time_lucky.send(name) for name in "abcdefgh"]

    assert [tuple(message.get_result(block=True, timeout=20_000)) for message in messages] == [
        (name, 2) for name in "abcdefgh"
    ]
    for message in failing:
        with pytest.raises(ResultFailure, match="out of numbers"):
            message.get_result(block=True, timeout=20_000)
    assert set(dead_letters(broker).values()) == {"ZeroDivisionError: out of numbers"}


def test_pipelines_and_groups_with_callbacks(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    told: list[str] = []

    @localq.actor
    async def add(x: int, y: int) -> int:
        await asyncio.sleep(0.001)
        return x + y

    @localq.actor
    def double(x: int) -> int:
        return 2 * x

    @localq.actor
    async def tell(word: str) -> None:
        told.append(word)

    start_worker(broker)
    steps = [(add.message(number, 1) | double.message() | add.message(100)).run() for number in range(20)]
    members = group([add.message(number, number) for number in range(30)])
    members.add_completion_callback(tell.message("all together"))
    members.run()

    assert [pipe.get_result(block=True, timeout=20_000) for pipe in steps] == [
        102 + 2 * number for number in range(20)
    ]
    assert list(members.get_results(block=True, timeout=20_000)) == [2 * number for number in range(30)]
    until(lambda: told == ["all together"])
    broker.join("default", timeout=20_000)
    assert told == ["all together"]


def test_a_rate_limiter_holds_among_them(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    limiter = ConcurrentRateLimiter(StubBackend(), "doors", limit=3)
    inside = most = refused = 0
    passed: list[int] = []

    @localq.actor(max_retries=1_000, min_backoff=5, max_backoff=10)
    async def enter(number: int) -> None:
        nonlocal inside, most, refused
        try:
            with limiter.acquire():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.01)
                inside -= 1
                passed.append(number)
        except RateLimitExceeded:
            refused += 1
            raise

    broker.enqueue_many([enter.message(number) for number in range(20)])
    start_worker(broker)
    broker.join("default", timeout=60_000)

    assert (sorted(passed), most) == (list(range(20)), 3)
    assert refused > 0


# -- the threads, and the hooks on them


def test_all_hooks_of_a_message_run_on_one_thread_and_find_what_they_left_there(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    local = threading.local()
    calls: dict[str, list[Any]] = {}
    found: list[bool] = []

    def note(message: MessageProxy) -> None:
        calls.setdefault(str(message.message_id), []).append(threading.current_thread())

    class Keeping(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            note(message)
            local.message_id = message.message_id

        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            note(message)
            found.append(local.message_id == message.message_id)

        def before_ack(self, broker: Broker, message: MessageProxy) -> None:
            note(message)

        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            note(message)
            time.sleep(0.002)  # others end meanwhile

    broker.add_middleware(Keeping())
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker)
    for number in range(30):
        stay.send(number)
    hall.wait_for(30)
    hall.open()
    worker.join()

    assert found == [True] * 30
    assert [len(threads) for threads in calls.values()] == [4] * 30
    assert all(len(set(threads)) == 1 for threads in calls.values())
    assert len({threads[0] for threads in calls.values()}) == 30


def test_the_hooks_of_a_thread_come_in_pairs_on_it(
    broker: Broker,
    start_worker: Callable[..., Worker],
    thread_hooks: Callable[..., list[tuple[str, Any]]],
    hall: Hall,
) -> None:
    calls = thread_hooks(broker)
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker, worker_threads=2)
    for number in range(10):
        stay.send(number)
    hall.wait_for(10)
    hall.open()
    broker.join("default", timeout=20_000)
    worker.stop()

    threads = [thread for what, thread in calls if what == "boot"]
    assert len(threads) == len(set(threads)) == 12
    assert sorted(map(id, threads)) == sorted(id(thread) for what, thread in calls if what == "shutdown")


@pytest.mark.parametrize("hook", ["before_process_message", "after_process_message", "before_ack", "after_ack"])
def test_a_hook_that_wants_to_end_the_program_takes_no_thread_from_the_lane(
    broker: Broker, start_worker: Callable[..., Worker], logged: Callable[[int], list[str]], hook: str
) -> None:
    def leave(broker: Broker, message: MessageProxy, **outcome: Any) -> None:
        if message.args == (0,):
            raise SystemExit

    leaving = Middleware()
    setattr(leaving, hook, leave)
    broker.add_middleware(leaving)
    ran: list[int] = []

    @localq.actor
    async def work(number: int) -> None:
        ran.append(number)

    broker.enqueue_many([work.message(number) for number in range(5)])
    start_worker(broker, async_concurrency=1)
    broker.join("default", timeout=20_000)

    assert ran == [0, 1, 2, 3, 4]
    assert len(logged(logging.CRITICAL)) == 1


def test_a_slow_hook_after_a_message_holds_up_no_other(
    broker: Broker, start_worker: Callable[..., Worker], until: Callable[..., Any]
) -> None:
    inside, leave = threading.Event(), threading.Event()

    class Slow(Middleware):
        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            if message.args == ("slow",):
                inside.set()
                assert leave.wait(20)

    broker.add_middleware(Slow())

    @localq.actor
    async def echo(name: str) -> str:
        return name

    start_worker(broker)
    echo.send("slow")
    assert inside.wait(20)
    assert [echo.send(name).get_result(block=True, timeout=10_000) for name in "abc"] == ["a", "b", "c"]
    leave.set()


def test_the_threads_of_the_lane_end_with_the_worker(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, until: Callable[..., Any]
) -> None:
    before = set(threading.enumerate())
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker)
    for number in range(30):
        stay.send(number)
    hall.wait_for(30)
    hall.open()
    broker.join("default", timeout=20_000)

    worker.stop()

    until(lambda: not set(threading.enumerate()) - before, "the end of all threads")


# -- pausing and stopping


def test_pause_returns_when_no_coroutine_runs_and_nothing_starts_until_it_is_resumed(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, in_background: Callable[..., Any]
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker, async_concurrency=3, worker_threads=2)
    for number in range(9):
        stay.send(number)
    hall.wait_for(3)

    pausing = in_background(worker.pause)
    pausing.join(0.1)
    assert pausing.is_alive()
    hall.let_out(0)
    hall.let_out(1)
    pausing.join(0.1)
    assert pausing.is_alive()
    hall.let_out(2)
    pausing.join(20)

    assert not pausing.is_alive()
    assert (hall.inside, sorted(hall.entered)) == (0, [0, 1, 2])
    assert broker.store.counts()["default"] == {"waiting": 6}
    hall.open()
    assert not hall.came.acquire(timeout=0.1)
    worker.resume()
    broker.join("default", timeout=20_000)
    assert sorted(hall.passed) == list(range(9))


def test_pausing_again_and_again_loses_nothing_and_never_returns_while_a_coroutine_runs(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    dice = random.Random(7)
    inside = 0
    ran: list[int] = []

    @localq.actor
    async def work(number: int) -> None:
        nonlocal inside
        inside += 1
        await asyncio.sleep(number % 3 / 1000)
        ran.append(number)
        inside -= 1

    worker = start_worker(broker, worker_threads=3, async_concurrency=4, worker_timeout=100_000)
    for batch in range(40):
        broker.enqueue_many([work.message(10 * batch + number) for number in range(10)])
        time.sleep(dice.random() / 200)
        worker.pause()
        assert inside == 0
        worker.resume()
    broker.join("default", timeout=20_000)

    assert sorted(ran) == list(range(400))


def test_a_worker_that_was_stopped_can_be_paused(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, in_background: Callable[..., Any]
) -> None:
    localq.actor(hall.stay, actor_name="stay").send()
    worker = start_worker(broker)
    hall.wait_for(1)
    hall.open()
    worker.stop()

    in_background(worker.pause)


def test_stop_lets_what_runs_come_to_its_end_and_gives_back_what_waits_for_room(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, in_background: Callable[..., Any], until: Any
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker, async_concurrency=3, worker_threads=2)
    messages = [stay.send(number) for number in range(9)]
    hall.wait_for(3)

    stopping = in_background(worker.stop)
    until(lambda: broker.get_queue_message_counts("default") == (6, 0, 0))
    stopping.join(0.1)
    assert stopping.is_alive()
    hall.open()
    stopping.join(20)

    assert [messages[number].get_result() for number in range(3)] == [0, 1, 2]
    assert sorted(hall.entered) == [0, 1, 2]
    assert broker.store.counts()["default"] == {"waiting": 6}
    assert all(record.attempts == 0 for record in broker.store.browse(Selection(states=[WAITING])))
    start_worker(broker)
    assert [message.get_result(block=True, timeout=20_000) for message in messages] == list(range(9))


def test_what_still_runs_when_the_time_to_stop_is_over_is_given_back_and_cancelled(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, until: Callable[..., Any]
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker, async_concurrency=3)
    for number in range(5):
        stay.send(number)
    hall.wait_for(3)

    began = time.monotonic()
    worker.stop(timeout=200)

    assert 0.199 <= time.monotonic() - began < 10
    assert sorted(hall.cancelled) == [0, 1, 2]
    until(lambda: worker.has_ended)
    assert broker.store.counts()["default"] == {"waiting": 5}
    assert all(record.attempts == 0 for record in broker.store.browse(Selection()))


def test_a_worker_can_be_stopped_at_any_moment(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    """Whatever it is just claiming, handing over or writing: nothing is lost, and it does not hang."""
    dice = random.Random(11)
    ran: list[int] = []

    @localq.actor
    async def work(number: int) -> None:
        await asyncio.sleep(number % 4 / 1000)
        ran.append(number)

    broker.enqueue_many([work.message(number) for number in range(1000)])
    began = time.monotonic()
    for _ in range(25):
        worker = start_worker(broker, worker_threads=3, async_concurrency=6, worker_timeout=100_000)
        time.sleep(dice.random() / 50)
        worker.stop(timeout=60_000)
        assert worker.has_ended
    assert time.monotonic() - began < 60
    assert RUNNING not in broker.store.counts().get("default", {})
    assert len(ran) < 1000  # or else it was never stopped in the middle of anything
    start_worker(broker, worker_threads=3)
    broker.join("default", timeout=20_000)

    assert sorted(ran) == list(range(1000))


def test_a_worker_can_be_started_again(broker: Broker, start_worker: Callable[..., Worker], hall: Hall) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker)
    stay.send(0)
    hall.wait_for(1)
    hall.open()
    worker.stop()

    worker.start()
    for number in range(1, 6):
        stay.send(number)
    broker.join("default", timeout=20_000)

    assert sorted(hall.passed) == list(range(6))


# -- trouble


@pytest.mark.parametrize("async_concurrency", [5, 100])
def test_while_the_store_cannot_be_used_nothing_is_lost_and_nothing_runs_twice(
    broker: Broker,
    start_worker: Callable[..., Worker],
    hall: Hall,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., Any],
    async_concurrency: int,
) -> None:
    monkeypatch.setenv("dramatiq_restart_delay", "50")
    stay = localq.actor(hall.stay, actor_name="stay")
    messages = [stay.send(number) for number in range(20)]
    start_worker(broker, async_concurrency=async_concurrency)
    hall.wait_for(min(20, async_concurrency))
    finish, tries = broker.store.finish, list[int]()

    def broken(outcomes: Any, *, now: int, claim: Any = None) -> Any:
        tries.append(len(outcomes))
        raise StoreError("the disk is full")

    monkeypatch.setattr(broker.store, "finish", broken)
    hall.open()
    until(lambda: hall.inside == 0 and sum(map(bool, tries)) > 30)
    monkeypatch.setattr(broker.store, "finish", finish)

    assert [message.get_result(block=True, timeout=20_000) for message in messages] == list(range(20))
    assert sorted(hall.passed) == list(range(20))
    broker.join("default", timeout=20_000)


def test_a_worker_can_be_stopped_while_the_store_cannot_be_used(
    broker: Broker,
    start_worker: Callable[..., Worker],
    hall: Hall,
    monkeypatch: pytest.MonkeyPatch,
    in_background: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    worker = start_worker(broker)
    for number in range(10):
        stay.send(number)
    hall.wait_for(10)
    finish, tries = broker.store.finish, list[Outcome]()

    def broken(outcomes: Any, *, now: int, claim: Any = None) -> Any:
        tries.extend(outcomes)
        raise StoreError("the disk is full")

    monkeypatch.setattr(broker.store, "finish", broken)
    hall.open()
    until(lambda: len({outcome.record.sequence for outcome in tries}) == 10)
    in_background(worker.stop).join(20)
    monkeypatch.setattr(broker.store, "finish", finish)

    # It has left; what it could not write is run again.
    assert broker.store.counts()["default"] == {"waiting": 10}
    start_worker(broker).join()
    assert sorted(hall.passed) == sorted([*range(10), *range(10)])


def test_a_message_whose_actor_nobody_knows_is_a_dead_letter_also_while_the_lane_is_full(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall, until: Callable[..., Any]
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    start_worker(broker, async_concurrency=2)
    for number in range(4):
        stay.send(number)
    hall.wait_for(2)

    lost = broker.enqueue(Message("default", "nobody", (), {}, {}))

    until(lambda: dead_letters(broker).get(lost.message_id) == "ActorNotFound: nobody")
    assert hall.inside == 2


def test_messages_of_actors_that_only_another_worker_knows_are_left_to_it(
    broker: Broker, url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Worker], hall: Hall
) -> None:
    other = make_broker(url, [AsyncIO()])
    elsewhere = Hall()
    localq.actor(elsewhere.stay, actor_name="elsewhere", broker=other)
    stay = localq.actor(hall.stay, actor_name="stay")
    start_worker(other, async_concurrency=2)
    start_worker(broker, async_concurrency=2)
    for number in range(6):
        stay.send(number)
        broker.enqueue(Message("default", "elsewhere", (number,), {}, {}))

    hall.wait_for(2)
    elsewhere.wait_for(2)
    hall.open()
    elsewhere.open()
    broker.join("default", timeout=20_000)
    assert sorted(hall.passed) == sorted(elsewhere.passed) == list(range(6))
    assert dead_letters(broker) == {}


def test_actors_may_be_declared_while_the_lane_is_full(
    broker: Broker, start_worker: Callable[..., Worker], hall: Hall
) -> None:
    stay = localq.actor(hall.stay, actor_name="stay")
    double = localq.actor(lambda number: 2 * number, actor_name="double")
    worker = start_worker(broker, async_concurrency=1, worker_threads=4)
    stay.send(0)
    hall.wait_for(1)

    for number in range(300):
        localq.actor(hall.stay, actor_name=f"stay {number}")
        double.send(number)
    broker.enqueue_many([double.message(number) for number in range(10)])
    hall.open()
    broker.join("default", timeout=20_000)

    assert all(thread.is_alive() for thread in worker.workers)
