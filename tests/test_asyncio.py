"""Coroutines in a thread of their own, and the actors that are coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import sys
import threading
import time
import traceback
import weakref
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest

import localq
import localq.asyncio
from localq import Broker
from localq.asyncio import EventLoopThread, async_to_sync, get_event_loop_thread, set_event_loop_thread
from localq.middleware import (
    AsyncIO,
    CurrentMessage,
    Interrupt,
    Retries,
    Shutdown,
    ShutdownNotifications,
    TimeLimit,
    TimeLimitExceeded,
    raise_thread_exception,
)
from localq.store.base import DEAD, Selection

logger = logging.getLogger("of the tests")


@pytest.fixture
def loop_thread() -> Iterator[EventLoopThread]:
    thread = EventLoopThread(logger, interrupt_check_ival=0.01)
    thread.start(timeout=10)
    yield thread
    thread.stop()


@pytest.fixture
def broker(url: str, make_broker: Callable[..., Broker]) -> Iterator[Broker]:
    """The global broker, whose actors may be coroutines."""
    middleware = [AsyncIO(), CurrentMessage(), TimeLimit(), ShutdownNotifications(), Retries(min_backoff=1)]
    localq.set_broker(broker := make_broker(url, middleware))
    yield broker
    assert get_event_loop_thread() is None


# -- the thread


def test_it_has_a_loop_of_its_own_that_runs_when_it_has_started(loop_thread: EventLoopThread) -> None:
    assert isinstance(loop_thread, threading.Thread)
    assert isinstance(loop_thread.loop, BaseEventLoop)
    assert loop_thread.loop.is_running()


def test_a_loop_that_does_not_come_up_in_time_is_an_error() -> None:
    thread = EventLoopThread(logger)
    thread.loop.close()
    thread.loop = Mock()
    with pytest.raises(RuntimeError, match="Event loop failed to start"):
        thread.start(timeout=0.1)
    thread.join()


def test_a_coroutine_runs_in_that_thread_and_gives_its_result_to_the_caller(loop_thread: EventLoopThread) -> None:
    async def where(word: str) -> tuple[str, int | None]:
        await asyncio.sleep(0.03)  # longer than a look for interrupts
        return word, threading.get_ident()

    assert loop_thread.run_coroutine(where("here")) == ("here", loop_thread.ident)


def test_what_a_coroutine_raises_reaches_the_caller_with_its_own_frames_last(loop_thread: EventLoopThread) -> None:
    async def fail_inside() -> None:
        raise ZeroDivisionError("out of numbers")

    async def fail() -> None:
        await fail_inside()

    with pytest.raises(ZeroDivisionError, match="out of numbers") as caught:
        loop_thread.run_coroutine(fail())
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["fail", "fail_inside"]


@pytest.mark.parametrize("error", [TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError])
@pytest.mark.parametrize("pause", [0, 0.03])
def test_a_coroutine_may_raise_a_timeout_itself(
    loop_thread: EventLoopThread, error: type[Exception], pause: float
) -> None:
    async def time_out() -> None:
        await asyncio.sleep(pause)
        raise error("of its own")

    with pytest.raises(error, match="of its own"):
        loop_thread.run_coroutine(time_out())


def test_a_coroutine_runs_in_the_context_of_its_caller(loop_thread: EventLoopThread) -> None:
    async def current() -> Any:
        return CurrentMessage.get_current_message()

    assert loop_thread.run_coroutine(current()) is None


def test_many_threads_may_wait_for_their_coroutines_at_once(loop_thread: EventLoopThread) -> None:
    together = asyncio.Event()
    inside: list[int] = []

    async def meet(number: int) -> int:
        inside.append(number)
        if len(inside) == 8:
            together.set()
        await asyncio.wait_for(together.wait(), 20)
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: loop_thread.run_coroutine(meet(number)), range(8))) == list(range(8))


def test_a_loop_that_does_not_run_takes_no_coroutine() -> None:
    thread = EventLoopThread(logger)

    async def never() -> None:
        raise AssertionError

    with pytest.raises(RuntimeError, match="not running"):
        thread.run_coroutine(never())
    thread.start(timeout=10)
    thread.stop()
    with pytest.raises(RuntimeError, match="not running"):
        thread.run_coroutine(never())


def test_stopping_cancels_what_runs_and_may_be_done_twice(loop_thread: EventLoopThread) -> None:
    ended, begun = threading.Event(), threading.Event()

    async def sleep() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def wait() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop_thread.run_coroutine(sleep())

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(20)
    loop_thread.stop()
    assert ended.is_set()
    assert loop_thread.loop.is_closed()
    loop_thread.stop()
    waiting.join()


# -- interrupts


def test_an_interrupt_cancels_the_coroutine_and_gets_out_after_its_cleanup(loop_thread: EventLoopThread) -> None:
    begun, seen = threading.Event(), list[str]()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            seen.append("cleaned up")
            raise

    def wait() -> None:
        try:
            loop_thread.run_coroutine(work())
        except Interrupt:
            seen.append("interrupted")

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(20)
    assert raise_thread_exception(waiting.ident or 0, Interrupt)
    waiting.join(20)
    assert seen == ["cleaned up", "interrupted"]


def test_a_coroutine_that_refuses_to_be_cancelled_is_waited_for(loop_thread: EventLoopThread) -> None:
    begun, seen = threading.Event(), list[str]()

    async def refuse() -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
        seen.append("came to its end")
        return "a result that nobody wants"

    def wait() -> None:
        try:
            loop_thread.run_coroutine(refuse())
        except Interrupt:
            seen.append("interrupted")

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(20)
    assert raise_thread_exception(waiting.ident or 0, Interrupt)
    waiting.join(20)
    assert seen == ["came to its end", "interrupted"]


def test_an_interrupt_at_any_moment_loses_no_coroutine(loop_thread: EventLoopThread) -> None:
    """Each coroutine that has begun has ended when its caller goes on; none is left in the loop."""
    running: set[int] = set()
    wrong: list[Any] = []

    async def work(number: int) -> None:
        running.add(number)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            running.discard(number)

    def wait(number: int, ready: threading.Event) -> None:
        try:
            ready.set()
            loop_thread.run_coroutine(work(number))
        except Interrupt:
            if number in running:
                wrong.append(number)

    for number in range(200):
        ready = threading.Event()
        waiting = threading.Thread(target=wait, args=(number, ready))
        waiting.start()
        ready.wait()
        time.sleep(number % 20 / 50_000)  # from none to 0.4 ms: around the line that schedules it
        raise_thread_exception(waiting.ident or 0, Interrupt)
        waiting.join(20)
        assert not waiting.is_alive()
    assert wrong == []

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    assert loop_thread.run_coroutine(tasks()) == 1  # this very one


def test_a_second_interrupt_does_not_leave_the_cleanup_behind(loop_thread: EventLoopThread) -> None:
    begun, cleaning, seen = threading.Event(), threading.Event(), list[str]()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            try:
                cleaning.set()
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                seen.append("cleaned up")

    def wait() -> None:
        try:
            loop_thread.run_coroutine(work())
        except Interrupt as error:
            seen.append(type(error).__name__)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(20)
    assert raise_thread_exception(waiting.ident or 0, TimeLimitExceeded)
    assert cleaning.wait(20)
    assert raise_thread_exception(waiting.ident or 0, Shutdown)
    waiting.join(20)
    assert seen == ["cleaned up", "TimeLimitExceeded"]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_interrupt_on_any_bytecode_leaves_a_loop_that_runs(loop_thread: EventLoopThread) -> None:
    """Whatever the caller was doing: the loop never waits for something that it left locked."""
    running: set[int] = set()
    files = [module.__file__ for module in (localq.asyncio, localq.threading, threading, contextlib)]

    async def work(number: int) -> None:
        running.add(number)
        try:
            await asyncio.sleep(0.002)
        finally:
            running.discard(number)

    def interrupted_at(number: int) -> bool:
        left = number

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in files:
                return None
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left < 0:
                raise Interrupt
            return trace

        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 asks the frame that is there already
        sys.settrace(trace)
        try:
            loop_thread.run_coroutine(work(number))
        except Interrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    number = 0
    while interrupted_at(number):
        answered = threading.Event()
        loop_thread.loop.call_soon_threadsafe(answered.set)
        assert answered.wait(10), f"the loop hangs after an interrupt at bytecode {number}"
        assert number not in running
        number += 1
    assert number > 100


def test_a_loop_that_stops_before_it_takes_a_coroutine_says_so(
    loop_thread: EventLoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[str] = []

    async def never() -> None:
        raise AssertionError

    def wait() -> None:
        try:
            loop_thread.run_coroutine(never())
        except RuntimeError as error:
            caught.append(str(error))

    waiting = threading.Thread(target=wait)
    with monkeypatch.context() as patched:
        patched.setattr(loop_thread.loop, "call_soon_threadsafe", lambda call: None)
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    loop_thread.stop()
    waiting.join(20)
    assert caught == ["The event loop was stopped."]


# -- the loop of the process


def test_a_coroutine_function_becomes_a_plain_one(
    loop_thread: EventLoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def double(x: int, *, plus: int = 0) -> int:
        """Twice as much."""
        return 2 * x + plus

    plain = async_to_sync(double)
    assert (plain.__name__, plain.__doc__) == ("double", "Twice as much.")
    monkeypatch.setattr(localq.asyncio, "get_event_loop_thread", lambda: loop_thread)
    assert plain(3, plus=1) == 7


def test_without_a_loop_a_plain_one_says_what_is_missing() -> None:
    async def double(x: int) -> int:
        return 2 * x

    assert get_event_loop_thread() is None
    with pytest.raises(RuntimeError, match="AsyncIO"):
        async_to_sync(double)(3)


def test_the_loop_of_the_process_can_be_set_and_unset(loop_thread: EventLoopThread) -> None:
    set_event_loop_thread(loop_thread)
    assert get_event_loop_thread() is loop_thread
    set_event_loop_thread(None)
    assert get_event_loop_thread() is None


def test_the_middleware_starts_a_loop_at_boot_and_stops_it_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mock()
    monkeypatch.setattr("localq.middleware.asyncio.EventLoopThread", made)
    middleware, worker = AsyncIO(), Mock()

    middleware.before_worker_boot(Mock(), worker)

    made.assert_called_once_with(middleware.logger)
    made.return_value.start.assert_called_once_with(timeout=1.0)
    assert get_event_loop_thread() is made.return_value

    middleware.after_worker_shutdown(Mock(), worker)

    made.return_value.stop.assert_called_once_with()
    made.return_value.join.assert_called_once_with()
    assert get_event_loop_thread() is None


def test_a_loop_that_comes_up_late_serves_its_actors_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Mock()
    late.start.side_effect = RuntimeError("Event loop failed to start.")
    monkeypatch.setattr("localq.middleware.asyncio.EventLoopThread", lambda logger: late)
    with pytest.raises(RuntimeError):
        AsyncIO().before_worker_boot(Mock(), Mock())
    assert get_event_loop_thread() is late
    set_event_loop_thread(None)


def test_the_workers_of_a_process_share_a_loop_that_ends_with_the_last_one(
    broker: Broker, url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Any]
) -> None:
    other = make_broker(url, [AsyncIO()])
    ran: list[int | None] = []

    @localq.actor
    async def act() -> None:
        ran.append(threading.get_ident())

    first, second, third = start_worker(broker), start_worker(broker), start_worker(other)
    loop = get_event_loop_thread()
    assert loop is not None
    first.stop()
    third.stop()
    act.send()
    broker.join("default", timeout=20_000)

    assert ran == [loop.ident]
    second.stop()
    assert get_event_loop_thread() is None
    assert loop.loop.is_closed()


def test_a_worker_that_needed_no_loop_does_not_end_that_of_another(
    url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Any]
) -> None:
    plain, other = make_broker(url, [AsyncIO(only_if_needed=True)]), make_broker(url, [AsyncIO()])
    idle = start_worker(plain)
    assert get_event_loop_thread() is None
    worker = start_worker(other)
    loop = get_event_loop_thread()

    idle.stop()

    assert get_event_loop_thread() is loop
    worker.stop()
    assert get_event_loop_thread() is None


def test_a_loop_that_is_only_needed_later_starts_with_the_first_actor_that_needs_it(
    url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Any]
) -> None:
    broker = make_broker(url, [AsyncIO(only_if_needed=True)])
    localq.actor(lambda: None, actor_name="plain", broker=broker)
    worker = start_worker(broker)
    localq.actor(lambda: None, actor_name="plain too", broker=broker)
    assert get_event_loop_thread() is None
    ran = []

    @localq.actor(broker=broker)
    async def act() -> None:
        ran.append(threading.current_thread())

    act.send()
    broker.join("default", timeout=20_000)

    assert ran == [get_event_loop_thread()]
    worker.stop()
    assert get_event_loop_thread() is None


# -- actors


def test_an_actor_may_be_a_coroutine(broker: Broker, drain: Callable[..., None]) -> None:
    ran: list[Any] = []

    @localq.actor
    async def act(word: str) -> None:
        await asyncio.sleep(0)
        ran.append((word, threading.current_thread().name))

    act.send("a")
    drain(broker)
    assert ran == [("a", "localq event loop")]


def test_one_that_fails_is_retried_and_then_a_dead_letter_with_its_reason(
    broker: Broker, drain: Callable[..., None]
) -> None:
    tries: list[Any] = []

    @localq.actor(max_retries=2, max_backoff=1)
    async def fail() -> None:
        tries.append(CurrentMessage.get_current_message().options.get("traceback", ""))  # type: ignore[union-attr]
        raise ZeroDivisionError("out of numbers")

    fail.send()
    drain(broker)
    assert len(tries) == 3
    assert "in fail\n" in tries[-1]
    assert tries[-1].rstrip().endswith("ZeroDivisionError: out of numbers")
    (dead,) = broker.store.browse(Selection(states=[DEAD]))
    assert dead.reason == "ZeroDivisionError: out of numbers"


def test_it_knows_the_message_that_it_runs_for(broker: Broker, drain: Callable[..., None]) -> None:
    seen: list[Any] = []

    async def ask() -> Any:
        return CurrentMessage.get_current_message()

    @localq.actor
    async def act(number: int) -> None:
        await asyncio.sleep(0.01)
        message = await asyncio.ensure_future(ask())
        seen.append((number, message.args, message.message_id))

    sent = [act.send(number) for number in range(6)]
    drain(broker, worker_threads=3)
    assert sorted(seen) == [(number, (number,), message.message_id) for number, message in enumerate(sent)]
    assert CurrentMessage.get_current_message() is None


def test_a_time_limit_cancels_it_and_its_cleanup_runs(broker: Broker, drain: Callable[..., None]) -> None:
    seen: list[str] = []

    @localq.actor(time_limit=100, max_retries=0)
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    slow.send()
    drain(broker)
    assert seen == ["cleaned up"]
    (dead,) = broker.store.browse(Selection(states=[DEAD]))
    assert (dead.reason or "").startswith(f"{TimeLimitExceeded.__name__}: ")


def test_a_notice_of_shutdown_cancels_it(broker: Broker, start_worker: Callable[..., Any]) -> None:
    begun, seen = threading.Event(), list[str]()

    @localq.actor(notify_shutdown=True, max_retries=0)
    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("told")
            raise

    work.send()
    worker = start_worker(broker)
    assert begun.wait(20)
    worker.stop()
    assert seen == ["told"]
    (dead,) = broker.store.browse(Selection(states=[DEAD]))
    assert (dead.reason or "").startswith(f"{Shutdown.__name__}: ")


def test_it_sends_and_waits_for_results_as_any_other(
    broker_with_results: Broker, start_worker: Callable[..., Any]
) -> None:
    @localq.actor
    async def double(x: int) -> int:
        return 2 * x

    @localq.actor
    async def twice(x: int) -> int:
        message = double.send(x)
        got: int = await asyncio.to_thread(message.get_result, block=True, timeout=20_000)
        return 2 * got

    start_worker(broker_with_results)
    assert twice.send(3).get_result(block=True, timeout=20_000) == 12


def test_called_where_no_loop_runs_it_says_what_is_missing(broker: Broker) -> None:
    @localq.actor
    async def act() -> None:
        pass

    with pytest.raises(RuntimeError, match="AsyncIO"):
        act()


class Precious(Exception): ...


def test_no_reference_cycle_keeps_its_exception_alive(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    references: list[weakref.ref[Precious]] = []

    @localq.actor(max_retries=2, min_backoff=0, max_backoff=0)
    async def fail() -> None:
        error = Precious()
        references.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    start_worker(broker, worker_threads=1)
    # Log handlers, those of pytest among them, may keep what they were given.
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    try:
        fail.send()
        broker.join("default", timeout=20_000)
        assert len(references) == 3
        until(lambda: not any(reference() for reference in references), "the end of the exceptions")
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
