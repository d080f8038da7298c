"""A program of a user who checks types. It is not run: mypy and pyright read it, and must refuse the lines that
end with "# refused", and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from typing_extensions import ParamSpec, assert_type

import localq
from localq.brokers.stub import StubBroker
from localq.middleware import CurrentMessage
from localq.rate_limits import Barrier, ConcurrentRateLimiter
from localq.rate_limits.backends import SQLiteBackend
from localq.results import ResultBackend, Results

P = ParamSpec("P")
R = TypeVar("R")


# -- actors, sync and async, in every way to declare one


@localq.actor
def repeat(times: int, *, what: str = "") -> str:
    return what * times


@localq.actor()
def half(x: int) -> float:
    return x / 2


@localq.actor(queue_name="mail", max_retries=3)
def split(text: str) -> list[str]:
    return text.split()


@localq.actor
async def read(size: int) -> bytes:
    return bytes(size)


@localq.actor(time_limit=1_000)
async def count(text: str) -> dict[str, int]:
    return {text: 1}


@localq.actor
def nothing() -> None: ...


class Counting(localq.Actor[P, R]):
    def count(self) -> int:
        return 1


@localq.actor(actor_class=Counting)
def counted(x: int) -> int:
    return x


@localq.actor(actor_class=Counting)
async def counted_async(x: int) -> int:
    return x


def plain(x: int) -> str:
    return str(x)


by_hand = localq.actor(plain, actor_name="by_hand")

assert_type(repeat(2, what="a"), str)
assert_type(half(1), float)
assert_type(split("a b"), list[str])
assert_type(read(1), bytes)
assert_type(count("a"), dict[str, int])
assert_type(counted(1), int)
assert_type(counted_async(1), int)
assert_type(by_hand(1), str)

repeat("2")  # refused
repeat(2, how="a")  # refused
read()  # refused


# -- messages and results


assert_type(repeat.send(2, what="a"), localq.Message[str])
assert_type(repeat.message(2), localq.Message[str])
assert_type(read.send(1), localq.Message[bytes])
assert_type(half.send_with_options(args=(1,), delay=timedelta(seconds=1)), localq.Message[float])
assert_type(repeat.send(2).get_result(block=True, timeout=1_000), str)
assert_type(split.send("a").get_result(), list[str])
assert_type(read.send(1).get_result(), bytes)
assert_type(count.message("a").get_result(), dict[str, int])
assert_type(by_hand.send(1).get_result(), str)
assert_type(counted_async.send(1).get_result(), int)

repeat.send("2")  # refused
repeat.message(what=2)  # refused
wrong: int = repeat.send(2).get_result()  # refused

pipe = repeat.message(2) | split.message_with_options() | count.message_with_options(pipe_ignore=True)
assert_type(pipe, localq.pipeline)
assert_type(pipe.run(delay=100), localq.pipeline)
results = localq.group([half.message(1), pipe, localq.group([read.message(1)])]).run().get_results(block=True)
assert_type(results, Iterator[Any])


# -- coroutines that send


async def main() -> None:
    message = await read.asend(1)
    assert_type(message, localq.Message[bytes])
    assert_type(await message.aget_result(timeout=1_000), bytes)
    assert_type(await (await repeat.asend(2)).aget_result(), str)
    assert_type(await half.asend_with_options(args=[1], delay=10), localq.Message[float])
    async with localq.pool(processes=2) as pool:
        assert_type(pool, localq.Pool)
    assert_type(await pipe.arun(), localq.pipeline)
    assert_type((await localq.group([message]).arun()).aget_results(), AsyncIterator[Any])
    await repeat.asend("2")  # refused


# -- classes as actors


class Report(localq.GenericActor):
    class Meta:
        queue_name = "reports"

    def perform(self, year: int) -> str:
        return str(year)


Report.send(2026)
Report(2026)
print(Report.queue_name)


# -- what is around actors


class Timing(localq.Middleware):
    def before_process_message(self, broker: localq.Broker, message: localq.MessageProxy) -> None:
        message.options["begun"] = message.message_timestamp

    def after_process_message(
        self,
        broker: localq.Broker,
        message: localq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        print(message.message_id, message.options["begun"], exception)


class Kept(ResultBackend):
    def _get(self, key: str) -> Any:
        return None

    def _store(self, key: str, result: Any, ttl: int) -> None: ...


broker = localq.connect("sqlite:///jobs.db", middleware=[Timing(), Results(backend=Kept(), store_results=True)])
assert_type(broker, localq.Broker)
broker.add_middleware(CurrentMessage(), after=Timing)
localq.set_broker(StubBroker())
current = CurrentMessage.get_current_message()
if current is not None:
    print(current.message_id)

backend = SQLiteBackend("limits.db")
with ConcurrentRateLimiter(backend, "one-at-a-time", limit=1).acquire(raise_on_failure=False) as acquired:
    assert_type(acquired, bool)
assert_type(Barrier(backend, "all", ttl=1_000).wait(timeout=10), bool)

worker = localq.Worker(broker, worker_threads=2)
worker.start()
worker.stop()
localq.abort(repeat.send(1).message_id, mode=localq.AbortMode.KILL)
raise localq.Retry("later", delay=100)
