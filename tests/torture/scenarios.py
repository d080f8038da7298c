"""What a process does that is killed at a boundary: one scenario for each way through put, claim and finish."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import localq
from localq.brokers import SQLiteBroker, with_results
from localq.middleware import CurrentMessage
from localq.store.base import ALONE

OURS, AFTER = "doomed", "after"
"""The queue of the process that is to die, and that of another, which serves it all the time."""
LARGE = "x" * 5_000


def broker_at(file: Path, *, knows_all: bool = True) -> SQLiteBroker:
    """A broker with the actors of all scenarios; they note that they ran in a file beside the queue's."""
    broker = SQLiteBroker(file, with_results())

    def declare(queue: str, **options: Any) -> Callable[..., Any]:
        return localq.actor(broker=broker, queue_name=queue, **options)

    def noted(name: str) -> None:
        with open(f"{file}.ran", "a", encoding="utf-8") as notes:
            notes.write(f"{name}\n")

    @declare(OURS)
    def give(value, *results):
        noted("give")
        return value

    @declare(OURS, store_results=False)
    def keep_nothing():
        noted("keep_nothing")

    @declare(OURS, max_retries=3)
    def succeed_later(*large):
        noted("succeed_later")
        if not CurrentMessage.get_current_message().options.get("retries"):
            raise localq.Retry("later", delay=60_000)
        return "at last"

    @declare(OURS, max_retries=0)
    def fail(*large):
        noted("fail")
        raise RuntimeError("for good")

    if knows_all:

        @declare(OURS)
        def give_elsewhere():
            noted("give_elsewhere")
            return "elsewhere"

    @declare(AFTER)
    def follow(*results):
        noted("follow")
        return [*results]

    return broker


@dataclass(frozen=True)
class Scenario:
    """What is there before, and what the process does that is to die.

    Parameters:
      prepare: puts what is there; returns the message whose result is waited for, if one is.
      act: what it does; by default it works on its queue until nothing is left.
      knows_all: whether it knows all actors.
    """

    prepare: Callable[[SQLiteBroker], localq.Message[Any] | None] = lambda broker: None
    act: Callable[[SQLiteBroker, Callable[[], None]], None] | None = None
    knows_all: bool = True
    dies_in: tuple[str, ...] = ("claim", "run", "finish")
    """The verbs that are other ones here than in other scenarios."""


def message(broker: SQLiteBroker, actor: str, *args: Any, **options: Any) -> localq.Message[Any]:
    made = broker.get_actor(actor).message_with_options(args=args, **options)
    # Sleepers are told apart by a hash of what they wait for, and so two may be woken for one: not by chance.
    return made.copy(message_id=f"{actor} {args!r:.20}")


def puts(send: Callable[[SQLiteBroker], object]) -> Scenario:
    def act(broker: SQLiteBroker, watch: Callable[[], None]) -> None:
        broker.store.counts()  # opens the file
        watch()
        send(broker)

    return Scenario(act=act, dies_in=("put",))


def works(actor: str, *args: Any, waited_for: bool = True, **more: Any) -> Scenario:
    def prepare(broker: SQLiteBroker) -> localq.Message[Any] | None:
        sent = broker.enqueue(message(broker, actor, *args))
        return sent if waited_for else None

    return Scenario(prepare, **more)


def work(broker: SQLiteBroker, watch: Callable[[], None]) -> None:
    """What a worker process with one thread does, until its queue is empty."""
    worker = localq.Worker(broker, queues=[OURS], worker_threads=1, async_concurrency=0, housekeeper=False)
    worker.boot()
    (thread,) = worker.workers
    # What it passes must not depend on how long things take on a busy machine.
    worker.learn = lambda actor_name, millis: 1_000.0  # type: ignore[method-assign]
    worker.watch_bursts = lambda: None  # type: ignore[method-assign]
    broker.store.wait = lambda *args, **kwargs: thread.stop()  # type: ignore[method-assign]
    watch()
    thread.run()


def prepare_delayed(broker: SQLiteBroker) -> localq.Message[Any]:
    """One that is due, and that nobody has looked for since."""
    sent, now = message(broker, "give", 1), time.time_ns() // 1_000_000
    record = broker.record_of(sent, now - 2_000)
    record.eta = now - 1_000
    broker.store.put([record], now=now - 2_000)
    return sent


def prepare_suspect(broker: SQLiteBroker) -> localq.Message[Any]:
    sent = message(broker, "give", 1)
    record = broker.record_of(sent, time.time_ns() // 1_000_000)
    record.lane = ALONE
    broker.store.put([record], now=record.created_at)
    return sent


def prepare_pipeline(broker: SQLiteBroker) -> localq.Message[Any]:
    first, second = message(broker, "give", 1), message(broker, "follow")
    localq.pipeline([first, second], broker=broker).run()
    return second


def prepare_group(broker: SQLiteBroker) -> localq.Message[Any]:
    return _run_group(broker, [message(broker, "give", 1), message(broker, "give", 2)], fire_on_failure=False)


def prepare_failing_group(broker: SQLiteBroker) -> localq.Message[Any]:
    return _run_group(broker, [message(broker, "give", 1), message(broker, "fail")], fire_on_failure=True)


def _run_group(broker: SQLiteBroker, members: list[Any], *, fire_on_failure: bool) -> localq.Message[Any]:
    callback = message(broker, "follow", "all", fire_on_failure=fire_on_failure)
    group = localq.group(members, broker=broker)
    group.add_completion_callback(callback)
    group.run()
    return callback


SCENARIOS: dict[str, Scenario] = {
    "put one": puts(lambda broker: broker.enqueue(message(broker, "follow"))),
    "put many": puts(lambda broker: broker.enqueue_many([message(broker, "follow", n) for n in range(3)])),
    "put a large one": puts(lambda broker: broker.enqueue(message(broker, "follow", LARGE))),
    "put a delayed one": puts(lambda broker: broker.enqueue(message(broker, "follow"), delay=300)),
    "run one": works("keep_nothing", waited_for=False),
    "run one that was delayed": Scenario(prepare_delayed, dies_in=("claim",)),
    "run a suspect": Scenario(prepare_suspect, dies_in=("claim",)),
    "run a large one with a large result": works("give", LARGE, dies_in=("claim", "finish")),
    "run one that is retried": works("succeed_later", dies_in=("finish",)),
    "run a large one that is retried": works("succeed_later", LARGE, dies_in=("finish",)),
    "run one that becomes a dead letter": works("fail", dies_in=("finish",)),
    "give one back that others know": works("give_elsewhere", knows_all=False, dies_in=("finish",)),
    "run a step of a pipeline": Scenario(prepare_pipeline, dies_in=("finish",)),
    "run the members of a group": Scenario(prepare_group, dies_in=("finish",)),
    "run the members of a group, of which one fails": Scenario(prepare_failing_group, dies_in=("finish",)),
}

Summary = dict[str, Any]


def summary(file: Path) -> Summary:
    """All that matters in a queue's file, as any other process sees it, without what differs each time."""
    with contextlib.closing(sqlite3.connect(file)) as connection:

        def rows(statement: str) -> list[Any]:
            return connection.execute(statement).fetchall()

        return {
            "messages": rows(
                "SELECT queue, actor, state, attempts, crashes, lane, verdict, reason, owner IS NULL, body IS NULL "
                "FROM message ORDER BY sequence"
            ),
            "bodies": rows("SELECT count(*) FROM payload"),
            "orphans": rows("SELECT count(*) FROM payload WHERE sequence NOT IN (SELECT sequence FROM message)"),
            "values": rows("SELECT length(data) > 2000 FROM value ORDER BY 1"),
            "counters": rows("SELECT value FROM counter"),
            "events": rows("SELECT count(*) FROM event"),
        }


def settled(found: Summary) -> Summary:
    """A summary of when all has ended, without how often a message was claimed."""
    found["messages"] = [(*row[:3], *row[4:]) for row in found["messages"]]
    return found

