"""Pipelines and groups: what runs after what, and their results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import localq
from localq import Broker, Message, MessageProxy, Middleware, group, pipeline
from localq.errors import EncodeError, ResultFailure, ResultMissing, ResultTimeout
from localq.middleware import GroupCallbacks
from localq.store import Selection
from localq.store.base import DEAD, DELAYED

MINUTE = 60_000


@pytest.fixture
def broker(broker_with_results: Broker) -> Broker:
    return broker_with_results


@pytest.fixture
def add(broker: Broker) -> Any:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.fixture
def fail(broker: Broker) -> Any:
    @localq.actor(max_retries=0)
    def fail(*args: Any) -> None:
        raise RuntimeError("broken")

    return fail


def messages(*names: str) -> list[Message[Any]]:
    return [Message("default", name, (), {}, {}) for name in names]


# -- building a pipeline


def test_a_pipeline_has_copies_of_its_messages_in_order(broker: Broker) -> None:
    a, b, c = messages("a", "b", "c")

    pipe = pipeline([a, b, c])

    assert len(pipe) == 3
    assert [m.message_id for m in pipe.messages] == [m.message_id for m in (a, b, c)]
    assert a.options == b.options == c.options == {}
    assert pipe.messages[0] is not a


def test_pipelines_in_a_pipeline_are_flattened(broker: Broker) -> None:
    a, b, c, d = messages("a", "b", "c", "d")

    pipes = [
        pipeline([pipeline([a, b]), c, pipeline([d])]),
        a | b | c | d,
        (a | b) | (c | d),
        a | (b | (c | d)),
        pipeline(m for m in (a, b, c, d)),
    ]

    for pipe in pipes:
        assert [m.actor_name for m in pipe.messages] == ["a", "b", "c", "d"]


def test_each_message_has_the_next_one_as_its_target_at_every_level(broker: Broker) -> None:
    a, b, c, d = messages("a", "b", "c", "d")

    pipe = (a | b) | (c | d)

    for one, following in zip(pipe.messages, pipe.messages[1:], strict=False):
        assert one.options["pipe_target"] == following.asdict()
    assert "pipe_target" not in pipe.messages[-1].options
    innermost = pipe.messages[0].options["pipe_target"]["options"]["pipe_target"]["options"]["pipe_target"]
    assert innermost == pipe.messages[3].asdict()


def test_building_on_a_pipeline_leaves_that_one_as_it_was(broker: Broker) -> None:
    a, b, c = messages("a", "b", "c")
    pipe = a | b

    longer = pipe | c

    assert (len(pipe), len(longer)) == (2, 3)
    assert "pipe_target" not in pipe.messages[1].options


def test_str_of_a_pipeline_and_of_a_group_lists_what_is_in_it(broker: Broker) -> None:
    a, b, c = messages("a", "b", "c")

    assert str(a | b) == "pipeline([a(), b()])"
    assert str(group([a | b, c])) == "group([pipeline([a(), b()]), c()])"


# -- running a pipeline


def test_each_result_is_the_last_argument_of_the_next_message(
    broker: Broker, add: Any, start_worker: Callable[..., Any]
) -> None:
    pipe = add.message(1, 2) | add.message(3) | add.message(4)

    assert pipe.run() is pipe
    start_worker(broker)

    assert pipe.get_result(block=True) == 10
    assert list(pipe.get_results()) == [3, 6, 10]


def test_keyword_arguments_and_options_of_the_next_message_stay(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []

    @localq.actor
    def first() -> str:
        return "result"

    @localq.actor
    def second(*args: Any, **kwargs: Any) -> None:
        message = localq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        seen.append((args, kwargs, message.options["of_my_own"]))

    pipe = first.message() | second.message_with_options(args=(1,), kwargs={"k": 2}, of_my_own="x")
    pipe.run()
    drain(broker)

    assert seen == [((1, "result"), {"k": 2}, "x")]


def test_a_result_of_none_is_passed_on_too(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []

    @localq.actor
    def first() -> None: ...

    @localq.actor
    def second(*args: Any) -> None:
        seen.append(args)

    (first.message() | second.message()).run()
    drain(broker)

    assert seen == [(None,)]


def test_the_next_message_can_ignore_the_result(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []

    @localq.actor
    def work(*args: Any) -> str:
        seen.append(args)
        return "result"

    (work.message(1) | work.message_with_options(args=(2,), pipe_ignore=True) | work.message(3)).run()
    drain(broker)

    assert seen == [(1,), (2,), (3, "result")]


def test_an_actor_can_be_declared_to_ignore_results(broker: Broker, drain: Callable[..., None]) -> None:
    seen = []

    @localq.actor(pipe_ignore=True)
    def deaf(*args: Any) -> str:
        seen.append(("deaf", *args))
        return "result"

    (deaf.message(1) | deaf.message(2)).run()
    drain(broker)

    assert seen == [("deaf", 1), ("deaf", 2)]


def test_a_pipeline_goes_through_all_its_queues(broker: Broker, drain: Callable[..., None]) -> None:
    ran = []

    def note(*args: Any) -> None:
        ran.append(args[0])

    actors = [localq.actor(note, actor_name=name, queue_name=name) for name in ("a", "b", "c")]

    pipeline(actor.message(actor.actor_name) for actor in actors).run()
    drain(broker)

    assert ran == ["a", "b", "c"]


def test_a_failure_ends_the_pipeline(broker: Broker, add: Any, fail: Any, drain: Callable[..., None]) -> None:
    pipe = add.message(1, 2) | fail.message() | add.message(4)

    pipe.run()
    drain(broker)

    assert broker.get_queue_message_counts("default") == (0, 0, 1)
    assert pipe.messages[0].get_result() == 3
    for ask in (pipe.get_result, lambda: list(pipe.get_results())):
        with pytest.raises(ResultFailure, match="actor raised RuntimeError: broken"):
            ask()


def test_a_pipeline_goes_on_after_a_retry_that_succeeds(
    broker: Broker, add: Any, drain: Callable[..., None]
) -> None:
    runs = []

    @localq.actor(min_backoff=0, max_backoff=0)
    def unsteady(x: int) -> int:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError
        return x

    pipe = unsteady.message(5) | add.message(1)
    pipe.run()
    drain(broker)

    assert pipe.get_result() == 6


def test_a_message_that_a_middleware_failed_ends_the_pipeline(
    broker: Broker, add: Any, drain: Callable[..., None]
) -> None:
    class Failing(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            if message.args[0] == 13:
                message.fail()

    broker.add_middleware(Failing())
    unlucky, lucky = add.message(13, 1) | add.message(2), add.message(1, 1) | add.message(2)

    unlucky.run()
    lucky.run()
    drain(broker)

    assert lucky.completed
    with pytest.raises(ResultFailure, match="failed by a middleware"):
        unlucky.get_result()
    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_the_next_message_and_the_end_of_the_one_before_are_written_together(
    broker: Broker, add: Any, drain: Callable[..., None]
) -> None:
    counts = []

    class Watching(Middleware):
        def before_ack(self, broker: Broker, message: MessageProxy) -> None:
            counts.append(sum(broker.store.counts()["default"].values()))

        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            counts.append(sum(broker.store.counts().get("default", {}).values()))

    broker.add_middleware(Watching())

    (add.message(1, 2) | add.message(3)).run()
    drain(broker, worker_threads=1)

    assert counts == [1, 1, 1, 0]


# -- delays


def test_a_pipeline_starts_after_its_delay(broker: Broker, add: Any) -> None:
    before = time.time_ns() // 1_000_000

    (add.message(1, 2) | add.message(3)).run(delay=MINUTE)

    (record,) = broker.store.browse(Selection())
    assert record.state == DELAYED
    assert (record.eta or 0) >= before + MINUTE


@pytest.mark.parametrize(("own", "given", "delay"), [(1, 2, 2), (2, 1, 2), (2, None, 2), (None, 2, 2)])
def test_the_larger_of_its_own_delay_and_the_one_given_counts(
    broker: Broker, add: Any, own: int | None, given: int | None, delay: int
) -> None:
    options = {} if own is None else {"delay": own * MINUTE}
    first = add.message_with_options(args=(1, 2)).copy(options=options)

    before = time.time_ns() // 1_000_000
    pipeline([first, add.message(3)]).run(delay=None if given is None else given * MINUTE)
    after = time.time_ns() // 1_000_000

    (record,) = broker.store.browse(Selection())
    assert before + delay * MINUTE <= (record.eta or 0) <= after + delay * MINUTE + 1


def test_the_next_message_waits_for_its_own_delay(broker: Broker, drain: Callable[..., None]) -> None:
    ran = []

    @localq.actor
    def work(*args: Any) -> None:
        ran.append(time.monotonic())

    pipeline([work.message(), work.message().copy(options={"delay": 100})]).run()
    drain(broker)

    first, second = ran
    assert second - first >= 0.1


# -- how far a pipeline is


def test_a_pipeline_counts_what_is_completed(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    turns = [threading.Event() for _ in range(3)]

    @localq.actor
    def work(n: int, *result: Any) -> int:
        assert turns[n].wait(20)
        return n

    pipe = pipeline(work.message(n) for n in range(3))
    assert (pipe.completed_count, pipe.completed) == (0, False)
    pipe.run()
    start_worker(broker)

    for n, turn in enumerate(turns, 1):
        assert not pipe.completed
        turn.set()
        until(lambda n=n: pipe.completed_count == n)
    assert pipe.completed


def test_waiting_for_a_pipeline_times_out(broker: Broker, add: Any) -> None:
    pipe = add.message(1, 2) | add.message(3)

    for ask in (
        lambda: pipe.get_result(block=True, timeout=100),
        lambda: list(pipe.get_results(block=True, timeout=100)),
    ):
        began = time.monotonic()
        with pytest.raises(ResultTimeout):
            ask()
        assert 0.099 <= time.monotonic() - began < 10


def test_the_timeout_for_all_results_is_over_all_of_them(broker: Broker, start_worker: Callable[..., Any]) -> None:
    stop = threading.Event()

    @localq.actor
    def slow(n: int, *result: Any) -> int:
        stop.wait(0.1 if n < 3 else 20)
        return n

    pipe = pipeline(slow.message(n) for n in range(5))
    pipe.run()
    start_worker(broker)

    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        list(pipe.get_results(block=True, timeout=700))
    waited = time.monotonic() - began
    stop.set()

    assert 0.699 <= waited < 10


# -- groups


def test_the_results_of_a_group_come_in_its_order(broker: Broker, start_worker: Callable[..., Any]) -> None:
    second_done = threading.Event()

    @localq.actor
    def work(n: int) -> int:
        if n == 0:
            assert second_done.wait(20)
        if n == 1:
            second_done.set()
        return n

    g = group(work.message(n) for n in range(5))

    assert len(g) == 5
    assert g.run() is g
    start_worker(broker)
    assert list(g.get_results(block=True)) == [0, 1, 2, 3, 4]
    assert (g.completed, g.completed_count) == (True, 5)


def test_groups_may_hold_pipelines_and_groups(broker: Broker, add: Any, start_worker: Callable[..., Any]) -> None:
    g = group(
        [
            add.message(1, 1),
            add.message(1, 2) | add.message(3) | add.message(4),
            group([add.message(5, 5), group([add.message(6, 6), add.message(7, 7) | add.message(1)])]),
        ]
    )

    g.run()
    start_worker(broker)

    assert list(g.get_results(block=True)) == [2, 10, [10, [12, 15]]]
    assert (len(g), g.completed_count, g.completed) == (3, 3, True)


def test_a_group_counts_what_is_completed_out_of_order(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    turns = [threading.Event() for _ in range(3)]

    @localq.actor
    def work(n: int) -> int:
        assert turns[n].wait(20)
        return n

    g = group(work.message(n) for n in range(3))
    assert g.completed_count == 0
    g.run()
    start_worker(broker, worker_threads=3)

    for count, n in enumerate((2, 0, 1), 1):
        assert not g.completed
        turns[n].set()
        until(lambda count=count: g.completed_count == count)
    assert g.completed


def test_the_results_of_a_group_that_is_not_completed_are_missing(broker: Broker, add: Any) -> None:
    g = group([add.message(1, 2)])

    with pytest.raises(ResultMissing):
        list(g.get_results())
    assert not g.completed


def test_waiting_for_a_group_returns_when_all_are_there(
    broker: Broker, add: Any, start_worker: Callable[..., Any]
) -> None:
    g = group([add.message(n, n) | add.message(1) for n in range(10)]).run()
    start_worker(broker)

    g.wait(timeout=20_000)

    assert list(g.get_results()) == [2 * n + 1 for n in range(10)]


def test_waiting_for_a_group_times_out(broker: Broker, add: Any) -> None:
    g = group([add.message(1, 2), group([add.message(3, 4)])])

    for ask in (lambda: g.wait(timeout=100), lambda: list(g.get_results(block=True, timeout=100))):
        began = time.monotonic()
        with pytest.raises(ResultTimeout):
            ask()
        assert 0.099 <= time.monotonic() - began < 10


def test_waiting_for_a_group_with_a_failure_says_so(
    broker: Broker, add: Any, fail: Any, drain: Callable[..., None]
) -> None:
    g = group([add.message(1, 2), fail.message(), add.message(3, 4)]).run()
    drain(broker)

    with pytest.raises(ResultFailure, match="actor raised RuntimeError: broken"):
        g.wait(timeout=20_000)


@pytest.mark.parametrize("kind", ["message", "pipeline", "group", "pipeline in a group"])
def test_waiting_for_a_group_ends_with_the_first_failure_wherever_it_stands(
    broker: Broker, fail: Any, start_worker: Callable[..., Any], kind: str
) -> None:
    released = threading.Event()

    @localq.actor
    def hold(*args: Any) -> None:
        assert released.wait(20)

    pipe = hold.message_with_options(pipe_ignore=True) | fail.message() | hold.message() | hold.message()
    failing = {"message": fail.message(), "pipeline": pipe, "group": group([hold.message(), fail.message()])}
    failing["pipeline in a group"] = group([hold.message(), fail.message() | hold.message() | hold.message()])
    g = group([hold.message(), failing[kind], hold.message()]).run()
    start_worker(broker, worker_threads=5)
    if kind == "pipeline":
        released.set()

    with pytest.raises(ResultFailure, match="actor raised RuntimeError: broken"):
        g.wait(timeout=20_000)
    assert released.is_set() == (kind == "pipeline")
    released.set()


def test_waiting_for_a_group_can_go_on_after_a_failure(
    broker: Broker, fail: Any, start_worker: Callable[..., Any]
) -> None:
    released = threading.Event()
    ended = []

    @localq.actor
    def hold(n: int) -> None:
        assert released.wait(20)
        ended.append(n)

    g = group([fail.message(), hold.message(1), group([fail.message() | hold.message(), hold.message(2)])]).run()
    start_worker(broker, worker_threads=3)

    with pytest.raises(ResultTimeout, match="have no result after 100 ms"):
        g.wait(timeout=100, fail_fast=False)
    released.set()
    with pytest.raises(ResultFailure, match="actor raised RuntimeError: broken"):
        g.wait(timeout=20_000, fail_fast=False)
    assert sorted(ended) == [1, 2]


def test_waiting_for_a_group_whose_parts_keep_their_results_in_several_places(
    broker: Broker, add: Any, make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    other = make_broker("memory://", localq.brokers.with_results())
    localq.actor(lambda x: x, actor_name="give", broker=other)
    localq.actor(lambda *args: 1, actor_name="give")
    elsewhere = pipeline([Message("default", "give", (1,), {}, {})], broker=other)
    g = group([add.message(1, 2), group([elsewhere])])
    elsewhere.run()
    broker.enqueue(g.children[0])  # type: ignore[arg-type]
    drain(broker)

    with pytest.raises(ResultTimeout):
        g.wait(timeout=50)
    drain(other)
    g.wait(timeout=20_000)


def test_waiting_for_a_group_of_nothing_returns_at_once(broker: Broker) -> None:
    group([]).run().wait(timeout=0)


@pytest.mark.parametrize("foreign", [42, None, {"queue_name": "default"}, "add"])
def test_what_is_no_message_is_refused_in_a_pipeline_and_a_group(broker: Broker, add: Any, foreign: Any) -> None:
    for build in (
        lambda: group([add.message(1, 2), foreign]),
        lambda: pipeline([add.message(1, 2), foreign]),
        lambda: add.message(1, 2) | foreign,
        lambda: (add.message(1, 2) | add.message(3)) | foreign,
    ):
        with pytest.raises(TypeError, match=r"messages.*, not of .*\.message\("):
            build()
    with pytest.raises(TypeError, match="a completion callback is a message"):
        group([add.message(1, 2)]).add_completion_callback(foreign)


def test_an_actor_and_a_group_are_no_parts_of_a_pipeline(broker: Broker, add: Any) -> None:
    with pytest.raises(TypeError, match="not of Actor"):
        group([add])
    with pytest.raises(TypeError, match="not of <localq"):
        pipeline([add.message(1, 2), group([add.message(3, 4)])])  # type: ignore[list-item]


def test_asking_for_results_that_the_broker_does_not_keep_says_so(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker("memory://")
    localq.set_broker(broker)
    give = localq.actor(lambda *args: 1, actor_name="give", broker=broker)
    pipe, g = give.message() | give.message(), group([give.message()])

    for ask in (
        give.message().get_result,
        lambda: give.message().get_result(block=True),
        pipe.get_result,
        lambda: list(pipe.get_results()),
        lambda: pipe.completed,
        lambda: pipe.completed_count,
        lambda: list(g.get_results()),
        lambda: g.completed,
        lambda: g.wait(timeout=20_000),
    ):
        with pytest.raises(RuntimeError, match=r"have a results backend: add localq\.results\.Results"):
            ask()


def test_asking_how_far_something_is_that_has_failed_says_what_ended_it(
    broker: Broker, add: Any, fail: Any, drain: Callable[..., None]
) -> None:
    g = group([add.message(1, 2), fail.message(), add.message(3, 4)]).run()
    pipe = add.message(1, 2) | fail.message()
    pipe.run()
    drain(broker)

    with pytest.raises(ResultFailure):
        g.completed_count  # noqa: B018
    with pytest.raises(ResultFailure):
        pipe.completed  # noqa: B018


def test_groups_run_side_by_side(broker: Broker, start_worker: Callable[..., Any]) -> None:
    meeting = threading.Barrier(5)

    @localq.actor
    def meet() -> None:
        meeting.wait(20)

    g = group([meet.message() for _ in range(5)]).run()
    start_worker(broker, worker_threads=5)

    g.wait(timeout=20_000)


def test_a_group_starts_after_its_delay(broker: Broker, add: Any) -> None:
    g = group([add.message(1, 2), add.message(1, 2) | add.message(3), group([add.message(4, 5)])])

    g.run(delay=MINUTE)

    assert broker.get_queue_message_counts("default") == (0, 3, 0)


@pytest.mark.parametrize("kind", ["message", "pipeline", "group"])
def test_nothing_of_a_group_is_sent_when_a_part_of_it_cannot_be(broker: Broker, add: Any, kind: str) -> None:
    bad: Any = add.message(object(), 1)
    if kind == "pipeline":
        bad = add.message(1, 1) | bad
    if kind == "group":
        bad = group([add.message(1, 1), bad])

    with pytest.raises(EncodeError):
        group([add.message(1, 2), bad, add.message(3, 4)]).run()

    assert broker.store.counts() == {}


def test_a_group_can_be_run_again(broker: Broker, drain: Callable[..., None]) -> None:
    ran = []

    @localq.actor
    def work(n: int) -> None:
        ran.append(n)

    g = group(work.message(n) for n in range(3))
    g.run()
    g.run()
    drain(broker)

    assert sorted(ran) == [0, 0, 1, 1, 2, 2]


def test_a_group_with_callbacks_needs_the_middleware_for_them(broker: Broker, add: Any) -> None:
    broker.middleware = [one for one in broker.middleware if not isinstance(one, GroupCallbacks)]
    plain, nested = group([add.message(1, 2)]), group([add.message(1, 2)])
    plain.add_completion_callback(add.message(3, 4))
    nested.add_completion_callback(add.message(3, 4))

    with pytest.raises(RuntimeError, match="GroupCallbacks"):
        plain.run()
    with pytest.raises(RuntimeError, match="GroupCallbacks"):
        group([add.message(1, 1), nested]).run()
    assert broker.store.counts() == {}


def test_pipelines_and_groups_use_the_broker_that_they_are_given(
    broker: Broker, make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    other = make_broker("memory://", localq.brokers.with_results())

    @localq.actor(broker=other)
    def one() -> int:
        return 1

    @localq.actor(broker=other)
    def next_of(x: int) -> int:
        return x + 1

    def pipes() -> Iterator[pipeline]:
        yield pipeline([one.message(), next_of.message()], broker=other)
        yield pipeline([one.message()], broker=other) | next_of.message()

    started = [pipe.run() for pipe in pipes()]
    g = group(pipes(), broker=other).run()
    assert broker.store.counts() == {}
    drain(other)

    assert [pipe.get_result() for pipe in started] == [2, 2]
    assert list(g.get_results()) == [2, 2]
    assert not other.store.browse(Selection(states=[DEAD]))
