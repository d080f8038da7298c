"""Completion callbacks of groups: once a run, when all have ended as they should."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import localq
from localq import Broker, Message, MessageProxy, Middleware, group
from localq.brokers import SQLiteBroker
from localq.clock import clock
from localq.errors import EncodeError, SkipMessage
from localq.middleware import GroupCallbacks, default_middleware
from localq.rate_limits.backends import SQLiteBackend, StubBackend
from localq.store import Selection
from localq.store.base import DEAD, RUNNING, WAITING

HOUR = 3_600_000

told: list[Any]
broken: set[Any]


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    global told, broken
    told, broken = [], set()


@pytest.fixture(params=["own", "by hand on its store", "elsewhere"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The global broker; its groups are counted in its own store or in another place."""
    usual = [make() for make in default_middleware]
    broker: Any
    if request.param == "own":
        broker = localq.connect(f"memory://{uuid4().hex}", middleware=[*usual, GroupCallbacks()])
    elif request.param == "by hand on its store":
        backend = SQLiteBackend(tmp_path / "jobs.db")
        broker = SQLiteBroker(tmp_path / "jobs.db", [*usual, GroupCallbacks(backend)])
    else:
        broker = SQLiteBroker(tmp_path / "jobs.db", [*usual, GroupCallbacks(StubBackend())])
    localq.set_broker(broker)
    yield broker
    if request.param == "by hand on its store":
        backend.store.close()


@pytest.fixture
def own(url: str) -> Broker:
    """The global broker as everybody has it, on a store of each kind."""
    return localq.connect(url)


def declare() -> tuple[Any, Any, Any]:
    @localq.actor(max_retries=0)
    def work(n: Any, *results: Any) -> None:
        if n in broken:
            raise RuntimeError(f"{n} is broken")

    @localq.actor
    def tell(*words: Any) -> None:
        told.append(words)

    @localq.actor(fire_on_failure=True)
    def tell_of_the_end(*words: Any) -> None:
        told.append(words)

    return work, tell, tell_of_the_end


@pytest.fixture
def run_again(drain: Callable[..., None]) -> Callable[[Broker], None]:
    """Runs all dead letters again, as ``localq dead retry --all`` does."""

    def run_again(broker: Broker) -> None:
        assert broker.store.move(Selection(states=[DEAD]), WAITING, now=clock.wall())
        drain(broker)

    return run_again


# -- when all have succeeded


def test_the_callbacks_are_sent_once_when_all_members_have_succeeded(
    broker: Broker, drain: Callable[..., None]
) -> None:
    work, tell, _ = declare()
    g = group(work.message(n) for n in range(20))
    g.add_completion_callback(tell.message("first"))
    g.add_completion_callback(tell.message("second"))

    assert g.run() is g
    drain(broker, worker_threads=4)

    assert sorted(told) == [("first",), ("second",)]


def test_a_callback_waits_for_the_last_member(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    work, tell, _ = declare()
    broken.add(2)
    g = group(work.message(n) for n in range(3))
    g.add_completion_callback(tell.message("done"))
    g.run()
    start_worker(broker)
    until(lambda: broker.get_queue_message_counts("default") == (0, 0, 1))
    assert told == []

    broken.clear()
    broker.store.move(Selection(states=[DEAD]), WAITING, now=clock.wall())

    until(lambda: told == [("done",)])


def test_a_pipeline_in_a_group_has_succeeded_when_its_last_message_has(
    broker: Broker, drain: Callable[..., None], run_again: Callable[[Broker], None]
) -> None:
    work, tell, _ = declare()
    broken.add("last")
    g = group([work.message(1) | work.message(2) | work.message("last"), work.message(3)])
    g.add_completion_callback(tell.message("done"))
    g.run()
    drain(broker)
    assert told == []

    broken.clear()
    run_again(broker)
    assert told == [("done",)]


def test_the_members_of_groups_in_a_group_count_for_both(broker: Broker, drain: Callable[..., None]) -> None:
    work, tell, _ = declare()
    inner = group([work.message(1), group([work.message(2), work.message(3) | work.message(4)])])
    inner.add_completion_callback(tell.message("inner"))
    outer = group([inner, work.message(5), group([])])
    outer.add_completion_callback(tell.message("outer"))

    outer.run()
    drain(broker)
    assert sorted(told) == [("inner",), ("outer",)]

    broken.add(5)
    outer.run()
    drain(broker)
    assert sorted(told) == [("inner",), ("inner",), ("outer",)]


def test_a_member_that_is_retried_counts_once_when_it_succeeds(broker: Broker, drain: Callable[..., None]) -> None:
    runs = []

    @localq.actor(min_backoff=0, max_backoff=0)
    def unsteady() -> None:
        runs.append(1)
        if len(runs) < 4:
            raise RuntimeError

    tell = localq.actor(lambda *words: told.append(words), actor_name="tell")
    g = group([unsteady.message(), unsteady.message()])
    g.add_completion_callback(tell.message("done"))
    g.run()
    drain(broker, worker_threads=1)

    assert len(runs) == 5
    assert told == [("done",)]


def test_runs_of_one_group_are_counted_each_for_itself(broker: Broker, drain: Callable[..., None]) -> None:
    work, tell, _ = declare()
    g = group(work.message(n) for n in range(3))
    g.add_completion_callback(tell.message("done"))

    g.run(), g.run()
    drain(broker)
    assert told == [("done",)] * 2

    broken.add(1)
    g.run(), g.run()
    drain(broker)
    assert told == [("done",)] * 2

    g.run()
    broken.clear()
    drain(broker)
    assert told == [("done",)] * 3


def test_a_message_may_stand_twice_in_a_group(broker: Broker, drain: Callable[..., None]) -> None:
    work, tell, _ = declare()
    message = work.message(1)
    g = group([message, message, message | message])
    g.add_completion_callback(tell.message("done"))
    g.run()
    drain(broker)

    assert told == [("done",)]


def test_a_callback_keeps_its_options(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []
    work, tell, _ = declare()

    class Seeing(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.actor_name == "tell":
                seen.append((message.message_id, message.kwargs, message.options.get("of_my_own")))

    broker.add_middleware(Seeing())
    callback = tell.message_with_options(args=("done",), of_my_own="x", eta="nonsense", priority=3)
    g = group([work.message(1)])
    g.add_completion_callback(callback)
    g.run()
    drain(broker)

    assert seen == [(callback.message_id, {}, "x")]
    assert told == [("done",)]


def test_a_callback_with_an_eta_waits_for_it(broker: Broker, drain: Callable[..., None]) -> None:
    work, _, _ = declare()
    times = []
    note = localq.actor(lambda: times.append(clock.wall()), actor_name="note")
    eta = clock.wall() + 200
    g = group([work.message(1)])
    g.add_completion_callback(note.message_with_options(eta=eta))
    g.run()
    drain(broker)

    assert len(times) == 1
    assert times[0] >= eta


def test_the_hooks_around_sending_see_each_callback_once(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []
    work, tell, _ = declare()

    class Seeing(Middleware):
        def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            if message.actor_name == "tell":
                seen.append("before")
                message.options["added"] = "by a hook"

        def after_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            if message.actor_name == "tell":
                seen.append(message.options["added"])

    broker.add_middleware(Seeing())
    g = group(work.message(n) for n in range(4))
    g.add_completion_callback(tell.message("done"))
    g.run()
    drain(broker)

    assert seen == ["before", "by a hook"]
    assert told == [("done",)]


def test_a_callback_that_cannot_be_encoded_is_said_where_the_group_is_run(broker: Broker) -> None:
    work, tell, _ = declare()
    g = group([work.message(1)])
    g.add_completion_callback(tell.message(object()))

    with pytest.raises(EncodeError, match=r"args\[0\]"):
        g.run()
    assert broker.store.counts() == {}


def test_a_group_of_nothing_cannot_have_callbacks(broker: Broker) -> None:
    _, tell, _ = declare()
    g = group([group([])])
    g.add_completion_callback(tell.message("done"))

    with pytest.raises(ValueError, match="a group of no messages never completes"):
        g.run()


def test_what_is_plainly_skipped_has_not_succeeded(broker: Broker, drain: Callable[..., None]) -> None:
    work, tell, tell_of_the_end = declare()

    class Skipping(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if message.args == (1,):
                raise SkipMessage("not today")

    broker.add_middleware(Skipping())
    g = group([work.message(1), work.message(2)])
    g.add_completion_callback(tell.message("success"))
    g.add_completion_callback(tell_of_the_end.message())
    g.run()
    drain(broker)

    (((failure,),),) = told
    assert (failure["type"], failure["message"]) == ("SkipMessage", "not today")


# -- when all have ended


def test_a_callback_that_fires_on_failure_gets_what_failed(broker: Broker, drain: Callable[..., None]) -> None:
    work, tell, tell_of_the_end = declare()
    broken.update({1, "step"})
    members = [work.message(0), work.message(1), work.message("step") | work.message(2) | work.message(3)]
    g = group(members)
    g.add_completion_callback(tell.message("success"))
    g.add_completion_callback(tell_of_the_end.message("end"))
    g.run()
    drain(broker)

    ((word, failures),) = told
    assert word == "end"
    assert sorted(failures, key=lambda failure: str(failure["message"])) == [
        {
            "actor_name": "work",
            "message_id": message.message_id,
            "type": "RuntimeError",
            "message": f"{message.args[0]} is broken",
        }
        for message in (g.children[1], g.children[2].messages[0])  # type: ignore[union-attr]
    ]


def test_a_callback_that_fires_on_failure_gets_an_empty_list_when_nothing_failed(
    broker: Broker, drain: Callable[..., None]
) -> None:
    work, _, tell_of_the_end = declare()
    g = group(work.message(n) for n in range(3))
    g.add_completion_callback(tell_of_the_end.message("end"))
    g.run()
    drain(broker)

    assert told == [("end", [])]


@pytest.mark.parametrize("encoder", [localq.JSONEncoder, localq.PickleEncoder])
def test_groups_are_followed_through_every_encoder(
    own: Broker, drain: Callable[..., None], encoder: type[localq.Encoder]
) -> None:
    localq.set_encoder(encoder())
    work, tell, tell_of_the_end = declare()
    broken.add(1)
    for members in ([work.message(0) | work.message(0)], [work.message(0), work.message(1) | work.message(0)]):
        g = group(members)
        g.add_completion_callback(tell.message("success"))
        g.add_completion_callback(tell_of_the_end.message("end"))
        g.run()
    drain(own, worker_threads=1)

    assert [word for word, *_ in sorted(told, key=lambda words: str(words[0]))] == ["end", "end", "success"]
    assert sorted(len(words[1]) for words in told if words[0] == "end") == [0, 1]


@pytest.mark.parametrize("members", [1, 3])
def test_a_dead_letter_that_is_run_again_does_not_end_its_group_again(
    broker: Broker, drain: Callable[..., None], run_again: Callable[[Broker], None], members: int
) -> None:
    work, tell, tell_of_the_end = declare()
    broken.add(0)
    g = group(work.message(n) for n in range(members))
    g.add_completion_callback(tell_of_the_end.message("end"))
    g.add_completion_callback(tell.message("success"))
    g.run()
    drain(broker)
    assert len(told) == 1

    run_again(broker)  # and it fails again
    assert len(told) == 1
    broken.clear()
    run_again(broker)
    assert told[1:] == [("success",)]


def test_what_was_run_again_before_the_end_did_not_fail(
    broker: Broker, drain: Callable[..., None], run_again: Callable[[Broker], None]
) -> None:
    work, _, tell_of_the_end = declare()
    broken.update({0, 1})
    late = work.message(2).copy(queue_name="late")
    broker.declare_queue("late")
    g = group([work.message(0), work.message(1), late])
    g.add_completion_callback(tell_of_the_end.message())
    g.run()
    drain_only(broker, "default")
    broken.remove(0)
    broker.store.move(Selection(states=[DEAD]), WAITING, now=clock.wall())
    drain_only(broker, "default")
    assert told == []
    drain(broker)

    (((failure,),),) = told
    assert failure["message"] == "1 is broken"


def drain_only(broker: Broker, queue: str) -> None:
    worker = localq.Worker(broker, queues=[queue], worker_threads=1)
    worker.start()
    broker.join(queue, timeout=20_000)
    worker.stop()


def test_a_member_whose_actor_nobody_declares_has_ended_until_one_does(
    broker: Broker, drain: Callable[..., None]
) -> None:
    work, tell, tell_of_the_end = declare()
    g = group([work.message(1), Message("default", "late", (), {}, {})])
    g.add_completion_callback(tell_of_the_end.message())
    g.add_completion_callback(tell.message("success"))
    g.run()
    drain(broker)
    (((failure,),),) = told
    assert (failure["type"], failure["message"]) == ("ActorNotFound", "late")

    localq.actor(lambda: None, actor_name="late")
    drain(broker)
    assert told[1:] == [("success",)]


def test_the_message_decides_what_fires_on_failure_then_the_actor_then_the_middleware(
    make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    for on_middleware in (False, True):
        broker = make_broker("memory://", [GroupCallbacks(fire_on_failure=on_middleware)])
        work = localq.actor(lambda: None, actor_name="work", broker=broker)
        for on_actor, on_message in product((None, False, True), repeat=2):
            tell = localq.actor(
                lambda *words: told.append(words),
                actor_name=f"tell {on_actor} {on_message}",
                broker=broker,
                fire_on_failure=on_actor,
            )
            g = group([work.message()], broker=broker)
            g.add_completion_callback(tell.message_with_options(fire_on_failure=on_message))
            g.run()
            drain(broker)
            fires = next(each for each in (on_message, on_actor, on_middleware) if each is not None)
            assert told.pop() == (([],) if fires else ())


# -- one transaction


def test_callbacks_work_at_once_on_the_default_broker(own: Broker, drain: Callable[..., None]) -> None:
    work, tell, _ = declare()
    g = group([work.message(1), work.message(2) | work.message(3)])
    g.add_completion_callback(tell.message("done"))
    g.run()
    drain(own)

    assert told == [("done",)]
    assert list(g.get_results()) == [None, None]


def test_a_callback_is_stored_with_the_end_of_the_last_member(own: Broker, drain: Callable[..., None]) -> None:
    work, tell, _ = declare()
    seen = []

    class Watching(Middleware):
        def before_ack(self, broker: Broker, message: MessageProxy) -> None:
            seen.append(self.messages(broker))

        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            seen.append(self.messages(broker))

        def messages(self, broker: Broker) -> list[str]:
            return sorted(record.actor for record in broker.store.browse(Selection()))

    own.add_middleware(Watching())
    g = group([work.message(1)])
    g.add_completion_callback(tell.message("done"))
    g.run()
    drain(own, worker_threads=1)

    assert seen == [["work"], ["tell"], ["tell"], []]


@pytest.mark.parametrize("deaths", [{0: 2}, {1: 2}])
def test_a_message_that_runs_again_since_its_end_was_not_written_is_counted_once_by_a_backend_elsewhere(
    make_broker: Callable[..., Broker], drain: Callable[..., None], deaths: dict[int, int]
) -> None:
    limits = StubBackend()
    broker = make_broker("memory://", [GroupCallbacks(limits)])
    ran = []

    class TakenForDead(Middleware):
        """The store gives back what the worker has just run, as if its process had died."""

        def before_ack(self, broker: Broker, message: MessageProxy) -> None:
            if message.actor_name == "work" and deaths.get(message.args[0]):
                deaths[message.args[0]] -= 1
                (running,) = broker.store.browse(Selection(states=[RUNNING]))
                broker.store.leave(running.owner or 0, now=clock.wall())

    broker.add_middleware(TakenForDead())
    work = localq.actor(lambda n: (time.sleep(0.003), ran.append(n)), actor_name="work", broker=broker)
    tell = localq.actor(lambda: told.append(sorted(ran)), actor_name="tell", broker=broker)
    g = group([work.message(n) for n in range(2)], broker=broker)
    g.add_completion_callback(tell.message())
    g.run()
    drain(broker, worker_threads=1)

    assert told == [sorted(ran)]
    assert len(ran) == 4


def test_a_backend_that_cannot_be_reached_ends_no_worker(
    make_broker: Callable[..., Broker], drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    class Unreachable(StubBackend):
        def decr(self, *args: Any) -> bool:
            raise ConnectionError("it is gone")

    broker = make_broker("memory://", [GroupCallbacks(Unreachable())])
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work", broker=broker)
    g = group([work.message(), work.message()], broker=broker)
    g.add_completion_callback(work.message())
    g.run()
    drain(broker, worker_threads=1)

    assert ran == [1, 1]
    assert len(logged(logging.CRITICAL)) == 2


def test_the_count_of_a_group_is_kept_for_a_day() -> None:
    middleware = GroupCallbacks(StubBackend())

    assert (middleware.barrier_ttl, middleware.fire_on_failure) == (86_400_000, False)
    assert isinstance(middleware.rate_limiter_backend, StubBackend)


def test_what_a_group_left_behind_is_swept(own: Broker, drain: Callable[..., None]) -> None:
    own.middleware[:] = [one for one in own.middleware if not isinstance(one, GroupCallbacks)]
    own.add_middleware(GroupCallbacks(barrier_ttl=1))
    work, tell, tell_of_the_end = declare()
    broken.add(0)
    g = group([work.message(0), work.message(1)])
    g.add_completion_callback(tell.message("never"))
    g.add_completion_callback(tell_of_the_end.message())
    g.run()
    drain(own)
    time.sleep(0.01)

    assert own.store.sweep(now=clock.wall() + HOUR) > 0
    assert own.store.events([], after=0) == []
