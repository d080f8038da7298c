"""Coroutines that send messages and wait for results: their event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest

import localq
from localq import Broker, Message, Middleware
from localq.brokers.stub import StubBroker
from localq.errors import EncodeError
from localq.results import Missing, ResultBackend, ResultFailure, ResultMissing, Results, ResultTimeout
from localq.results.backends import StubBackend

T = TypeVar("T")
Start = Callable[..., localq.Worker]
Threads = Callable[[], "set[threading.Thread]"]


def run(coroutine: Awaitable[T]) -> T:
    """Run it in an event loop, and fail rather than wait for ever."""

    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())


def named_results() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "localq results"}


@pytest.fixture
def waiting_threads() -> Callable[[], set[threading.Thread]]:
    """The threads that wait for results; not those that stay for a moment after an earlier test."""
    before = named_results()
    return lambda: named_results() - before


@pytest.fixture
def add(broker_with_results: Broker) -> localq.Actor[..., int]:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    return add


# -- sending


def test_asend_gives_the_message_that_it_stored(add: Any, drain: Callable[..., None]) -> None:
    message = run(add.asend(1, y=2))
    assert isinstance(message, Message)
    assert (message.args, message.kwargs) == ((1,), {"y": 2})
    drain(add.broker)
    assert message.get_result() == 3


def test_asend_with_options_takes_what_send_with_options_takes(add: Any) -> None:
    message = run(add.asend_with_options(args=[1], kwargs={"y": 2}, delay=60_000, max_retries=7))
    assert message.options["max_retries"] == 7
    assert add.broker.get_queue_message_counts("default") == (0, 1, 0)


def test_what_cannot_be_encoded_is_refused_where_it_is_sent(add: Any) -> None:
    with pytest.raises(EncodeError, match=r"args\[0\]"):
        run(add.asend(object(), 1))
    assert add.broker.get_queue_message_counts("default") == (0, 0, 0)


def test_a_broker_sends_messages_too(add: Any) -> None:
    sent = run(add.broker.aenqueue(add.message(1, 2), delay=60_000))
    assert sent.options["eta"] > time.time() * 1000
    assert add.broker.get_queue_message_counts("default") == (0, 1, 0)


def test_many_send_at_the_same_time(add: Any, drain: Callable[..., None]) -> None:
    async def send_all() -> list[Message[int]]:
        return await asyncio.gather(*(add.asend(n, n) for n in range(300)))

    messages = run(send_all())
    drain(add.broker)
    assert [message.get_result() for message in messages] == [2 * n for n in range(300)]


def test_hooks_see_the_context_of_the_coroutine_that_sends(add: Any) -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []

    class Reads(Middleware):
        def before_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
            seen.append(variable.get())

    async def send(value: str) -> None:
        variable.set(value)
        await add.asend(1, 2)

    async def send_two() -> None:
        await asyncio.gather(send("one"), send("two"))

    add.broker.add_middleware(Reads())
    run(send_two())
    assert sorted(seen) == ["one", "two"]


def hold_the_gate(path: str, connection: Connection) -> None:
    broker = localq.connect(f"sqlite:///{path}")
    with broker.store.database.write:  # type: ignore[attr-defined]
        connection.send("held")
        connection.recv()


def test_the_event_loop_goes_on_while_another_process_holds_the_file(
    tmp_path: Path, start: Callable[..., tuple[Any, Connection]]
) -> None:
    localq.connect(f"sqlite:///{tmp_path}/jobs.db")

    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    add.send(0, 0)
    _, holder = start(hold_the_gate, f"{tmp_path}/jobs.db")
    assert holder.recv() == "held"

    async def send_while_it_is_held() -> Message[int]:
        sending = asyncio.ensure_future(add.asend(1, 2))
        for _ in range(20):  # all of these in the loop that sends
            await asyncio.sleep(0.005)
        assert not sending.done()
        holder.send("let go")
        return await sending

    assert run(send_while_it_is_held()).args == (1, 2)
    assert localq.get_broker().get_queue_message_counts("default") == (2, 0, 0)


# -- results


def test_aget_result_waits_for_the_result(add: Any, start_worker: Start) -> None:
    async def send_and_wait() -> int:
        waiting = asyncio.ensure_future((await add.asend(1, 2)).aget_result(timeout=30_000))
        await asyncio.sleep(0)
        start_worker(add.broker)
        return await waiting

    assert run(send_and_wait()) == 3


def test_a_result_that_is_there_is_given_at_once(
    add: Any, drain: Callable[..., None], waiting_threads: Threads
) -> None:
    message = add.send(1, 2)
    drain(add.broker)
    assert run(message.aget_result(timeout=0)) == 3
    assert run(message.aget_result(block=False)) == 3
    assert not waiting_threads()


def test_a_result_that_does_not_come_is_a_timeout(add: Any) -> None:
    message = add.send(1, 2)
    with pytest.raises(ResultTimeout, match=r"add\(1, 2\) has no result after 50 ms; does a worker of its actor"):
        run(message.aget_result(timeout=50))


def test_without_waiting_it_is_missing(add: Any) -> None:
    message = add.send(1, 2)
    with pytest.raises(ResultMissing):
        run(message.aget_result(block=False))


def test_a_failure_is_raised(broker_with_results: Broker, start_worker: Start) -> None:
    @localq.actor(max_retries=0)
    def fail() -> None:
        raise RuntimeError("on purpose")

    async def send_and_wait() -> None:
        await (await fail.asend()).aget_result(timeout=30_000)

    start_worker(broker_with_results)
    with pytest.raises(ResultFailure, match="actor raised RuntimeError: on purpose"):
        run(send_and_wait())


def test_five_hundred_wait_on_one_thread(add: Any, start_worker: Start, waiting_threads: Threads) -> None:
    async def send_and_wait() -> list[int]:
        messages = [await add.asend(n, 1) for n in range(500)]
        waiting = [asyncio.ensure_future(message.aget_result(timeout=50_000)) for message in messages]
        while not waiting_threads():
            await asyncio.sleep(0.001)
        assert len(waiting_threads()) == 1
        start_worker(add.broker)
        return await asyncio.gather(*waiting)

    assert run(send_and_wait()) == [n + 1 for n in range(500)]
    assert len(waiting_threads()) <= 1


def test_two_wait_for_the_same_result(add: Any, start_worker: Start) -> None:
    async def send_and_wait() -> list[int]:
        message = await add.asend(1, 2)
        waiting = [asyncio.ensure_future(message.aget_result(timeout=30_000)) for _ in range(2)]
        await asyncio.sleep(0.01)
        start_worker(add.broker)
        return await asyncio.gather(*waiting)

    assert run(send_and_wait()) == [3, 3]


def test_a_wait_that_is_cancelled_is_forgotten_and_the_others_go_on(add: Any, start_worker: Start) -> None:
    async def send_and_wait() -> int:
        first, second = await add.asend(1, 2), await add.asend(3, 4)
        waiting = asyncio.ensure_future(second.aget_result(timeout=30_000))
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(first.aget_result(timeout=30_000), 0.02)
        start_worker(add.broker)
        return await waiting

    assert run(send_and_wait()) == 7


def test_a_wait_that_is_cancelled_while_its_result_comes_is_cancelled_all_the_same(
    broker_with_results: Broker, until: Callable[..., Any]
) -> None:
    # `asyncio.wait_for` swallows the cancelling before Python 3.12.
    backend = broker_with_results.get_results_backend()

    async def one_round() -> None:
        message = Message("default", "somebody", (), {}, {})
        waiting = asyncio.ensure_future(message.aget_result(backend=backend, timeout=30_000))
        while not backend._waiter or not backend._waiter._futures:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
        storing = threading.Thread(target=backend.store_result, args=(message, 1, 60_000))
        storing.start()
        # The loop stands still until the result is about to be delivered, and cancels right behind it.
        until(lambda: not backend._waiter._futures, "the result is found")  # type: ignore[attr-defined]
        storing.join()
        asyncio.get_running_loop().call_soon(waiting.cancel)
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    for _ in range(20):
        run(one_round())


def test_loops_of_several_threads_wait_at_the_same_time(add: Any, start_worker: Start) -> None:
    results: list[int] = []

    async def send_and_wait(n: int) -> None:
        results.append(await (await add.asend(n, n)).aget_result(timeout=30_000))

    threads = [threading.Thread(target=run, args=(send_and_wait(n),)) for n in range(5)]
    for thread in threads:
        thread.start()
    start_worker(add.broker)
    for thread in threads:
        thread.join(30)
    assert sorted(results) == [0, 2, 4, 6, 8]


def test_a_loop_that_was_closed_in_the_middle_of_a_wait_harms_nobody(
    add: Any, start_worker: Start, waiting_threads: Threads
) -> None:
    loop = asyncio.new_event_loop()
    message, other = add.send(1, 2), add.send(3, 4)
    waiting = loop.create_task(message.aget_result(timeout=30_000))
    while not waiting_threads():
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    start_worker(add.broker)
    assert run(other.aget_result(timeout=30_000)) == 7
    assert run(message.aget_result(timeout=30_000)) == 3
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it is never to end


def wait_in_child(message: Message[int], connection: Connection) -> None:
    connection.send("begun")
    connection.send(run(message.aget_result(timeout=30_000)))


def test_a_forked_child_waits_by_itself(
    tmp_path: Path, start: Callable[..., tuple[Any, Connection]], start_worker: Start
) -> None:
    broker = localq.connect(f"sqlite:///{tmp_path}/jobs.db")

    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    message = add.send(1, 2)
    with pytest.raises(ResultTimeout):
        run(message.aget_result(timeout=10))  # so that there is a thread here, which the child has not
    _, child = start(wait_in_child, message)
    assert child.recv() == "begun"
    start_worker(broker)
    assert child.poll(30)
    assert child.recv() == 3


def test_the_loop_goes_on_while_a_coroutine_waits(add: Any, start_worker: Start) -> None:
    async def count_while_waiting() -> int:
        message = await add.asend(1, 2)
        waiting = asyncio.ensure_future(message.aget_result(timeout=30_000))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        start_worker(add.broker)
        return await waiting

    assert run(count_while_waiting()) == 3


def test_who_waits_at_a_broker_that_is_closed_is_not_left_alone(add: Any, waiting_threads: Threads) -> None:
    async def wait_and_close() -> None:
        waiting = asyncio.ensure_future((await add.asend(1, 2)).aget_result(timeout=500))
        while not waiting_threads():
            await asyncio.sleep(0.001)
        add.broker.close()
        await waiting

    with pytest.raises((localq.LocalqError, OSError, ValueError)):
        run(wait_and_close())


# -- other places for results


class Dictionary(ResultBackend):
    """What a user writes: nobody can be woken by it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}

    def _get(self, key: str) -> Any:
        return self.kept.get(key, Missing)

    def _store(self, key: str, result: Any, ttl: int) -> None:
        self.kept[key] = result


class OnlyWhole(Dictionary):
    """As some packages do it: the public method alone."""

    def get_result(self, message: Any, *, block: bool = False, timeout: int | None = None) -> Any:
        return super().get_result(message, block=block, timeout=timeout)

    def _get(self, key: str) -> Any:
        return super()._get(key)


@pytest.mark.parametrize("make_backend", [Dictionary, OnlyWhole, StubBackend])
def test_results_in_another_place_are_waited_for(make_backend: Callable[[], Any], start_worker: Start) -> None:
    broker = StubBroker()
    broker.add_middleware(Results(backend=make_backend(), store_results=True))
    localq.set_broker(broker)

    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    async def send_and_wait() -> int:
        waiting = asyncio.ensure_future((await add.asend(1, 2)).aget_result(timeout=30_000))
        await asyncio.sleep(0.02)
        start_worker(broker)
        return await waiting

    assert run(send_and_wait()) == 3


def test_the_backend_can_be_named(add: Any, start_worker: Start) -> None:
    async def send_and_wait() -> int:
        backend = add.broker.get_results_backend()
        return await (await add.asend(1, 2)).aget_result(backend=backend, timeout=30_000)

    start_worker(add.broker)
    assert run(send_and_wait()) == 3


def test_without_results_it_says_so(broker: Broker) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(RuntimeError, match="doesn't have a results backend"):
        run(add.send(1, 2).aget_result())


# -- pipelines, groups, and actors that are coroutines themselves


def test_a_pipeline_is_run_and_waited_for(add: Any, start_worker: Start) -> None:
    async def run_and_wait() -> tuple[int, list[int]]:
        pipe = await (add.message(1, 2) | add.message(3) | add.message(4)).arun()
        return await pipe.aget_result(timeout=30_000), [each async for each in pipe.aget_results()]

    start_worker(add.broker)
    assert run(run_and_wait()) == (10, [3, 6, 10])


def test_a_group_is_run_and_its_results_come_in_its_order(add: Any, start_worker: Start) -> None:
    async def run_and_wait() -> list[Any]:
        inner = localq.group([add.message(5, 5), add.message(6, 6)])
        outer = localq.group([add.message(1, 2), add.message(3, 4) | add.message(10), inner])
        return [each async for each in (await outer.arun()).aget_results(timeout=30_000)]

    start_worker(add.broker)
    assert run(run_and_wait()) == [3, 17, [10, 12]]


def test_the_time_is_over_all_results_of_a_group(add: Any) -> None:
    async def run_and_wait() -> None:
        group = await localq.group(add.message(n, n) for n in range(100)).arun()
        async for _ in group.aget_results(timeout=50):
            pytest.fail("nobody runs them")

    with pytest.raises(ResultTimeout):
        run(run_and_wait())


def test_an_async_actor_sends_and_waits_in_its_own_event_loop(url: str, start_worker: Start) -> None:
    broker = localq.connect(url)

    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    @localq.actor
    async def add_all(numbers: list[int]) -> int:
        messages = [await add.asend(number, 0) for number in numbers]
        return sum(await asyncio.gather(*(message.aget_result(timeout=30_000) for message in messages)))

    start_worker(broker, worker_threads=1)
    assert run(add_all.send([1, 2, 3]).aget_result(timeout=30_000)) == 6
