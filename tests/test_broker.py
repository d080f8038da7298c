"""The broker: its middleware and hooks, what it declares, sends, counts and waits for."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import ActorNotFound, Broker, Message, MessageProxy, Middleware, QueueJoinTimeout
from localq.brokers import SQLiteBroker
from localq.errors import EncodeError, MiddlewareError, SkipMessage
from localq.middleware import AgeLimit, Retries, TimeLimit, default_middleware
from localq.results import Results
from localq.store import Record, Selection
from localq.store.base import DEAD, DELAYED, WAITING

MINUTE = 60_000


class Told(Middleware):
    """Writes down which hooks were called, and with what."""

    def __init__(self, name: str = "", calls: list[tuple[Any, ...]] | None = None) -> None:
        self.name = name
        self.calls: list[tuple[Any, ...]] = [] if calls is None else calls

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith(("before_", "after_")):
            return super().__getattribute__(name)
        return lambda broker, *args, **kwargs: self.calls.append((*([self.name] if self.name else []), name, *args))


class Other(Told): ...


def hooks_about(calls: list[tuple[Any, ...]], word: str) -> list[tuple[Any, ...]]:
    return [call for call in calls if word in call[0]]


# -- running hooks


def test_hooks_before_run_in_order_and_hooks_after_in_reverse(make_broker: Callable[..., Broker]) -> None:
    calls: list[tuple[Any, ...]] = []
    broker = make_broker("memory://", [Told("first", calls), Other("second", calls)])

    broker.emit_before("ack", "message")
    broker.emit_after("ack", "message")

    assert calls == [
        ("first", "before_ack", "message"),
        ("second", "before_ack", "message"),
        ("second", "after_ack", "message"),
        ("first", "after_ack", "message"),
    ]


@pytest.mark.parametrize("error", [SkipMessage("enough"), MiddlewareError("enough")])
def test_a_middleware_error_gets_out_of_a_hook_before(
    make_broker: Callable[..., Broker], error: MiddlewareError, logged: Callable[[int], list[str]]
) -> None:
    class Raising(Middleware):
        def before_ack(self, broker: Broker, message: Any) -> None:
            raise error

    later = Told()
    broker = make_broker("memory://", [Raising(), later])

    with pytest.raises(MiddlewareError) as raised:
        broker.emit_before("ack", None)

    assert raised.value is error
    assert hooks_about(later.calls, "ack") == []
    assert logged(logging.CRITICAL) == []


def test_any_other_error_in_a_hook_before_is_logged_as_critical_and_goes_no_further(
    make_broker: Callable[..., Broker], logged: Callable[[int], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(Middleware):
        def before_ack(self, broker: Broker, message: Any) -> None:
            raise RuntimeError("broken")

    later = Told()
    broker = make_broker("memory://", [Raising(), later])

    broker.emit_before("ack", "message")

    assert hooks_about(later.calls, "ack") == [("before_ack", "message")]
    (text,) = logged(logging.CRITICAL)
    assert "before_ack" in text
    assert "broken" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("broken"), SkipMessage("too late")])
def test_every_error_in_a_hook_after_is_logged_as_critical_and_goes_no_further(
    make_broker: Callable[..., Broker], logged: Callable[[int], list[str]], error: Exception
) -> None:
    class Raising(Middleware):
        def after_ack(self, broker: Broker, message: Any) -> None:
            raise error

    earlier = Told()
    broker = make_broker("memory://", [earlier, Raising()])

    broker.emit_after("ack", "message")

    assert hooks_about(earlier.calls, "ack") == [("after_ack", "message")]
    (text,) = logged(logging.CRITICAL)
    assert "after_ack" in text


def test_signals_of_a_process_can_be_emitted_by_hand(broker: Broker, logged: Callable[[int], list[str]]) -> None:
    broker.emit_after("process_boot")
    broker.emit_before("worker_shutdown", None)

    assert logged(logging.CRITICAL) == []


def test_a_package_can_have_signals_of_its_own(make_broker: Callable[..., Broker]) -> None:
    told = Told()
    broker = make_broker("memory://", [told])

    broker.emit_before("moonrise", 1)
    broker.emit_after("moonrise", 2)

    assert told.calls == [("before_moonrise", 1), ("after_moonrise", 2)]


def test_hooks_may_be_plain_functions_set_on_an_instance(make_broker: Callable[..., Broker]) -> None:
    calls = []
    plain = Middleware()
    plain.before_ack = lambda *args, **kwargs: calls.append(args)  # type: ignore[method-assign]
    broker = make_broker("memory://", [plain])

    broker.emit_before("ack", "message")

    assert calls == [(broker, "message")]


def test_a_failing_hook_before_a_message_does_not_keep_its_actor_from_running(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    class Raising(Middleware):
        def before_process_message(self, broker: Broker, message: Any) -> None:
            raise RuntimeError("broken")

    broker.add_middleware(Raising())
    ran = []

    @localq.actor
    def work() -> None:
        ran.append(1)

    work.send()
    drain(broker)

    assert ran == [1]
    assert broker.get_queue_message_counts("default") == (0, 0, 0)
    assert len(logged(logging.CRITICAL)) == 1


def test_the_hooks_around_a_message_run_in_the_order_of_its_life(
    broker: Broker, drain: Callable[..., None]
) -> None:
    told = Told()

    @localq.actor
    def work() -> int:
        return 1

    @localq.actor(max_retries=0)
    def fail() -> None:
        raise RuntimeError

    work.send()
    fail.send()
    broker.add_middleware(told)
    drain(broker, worker_threads=1)

    kinds = [name for name, *_ in told.calls if name.endswith(("_message", "_ack", "_nack"))]
    around = ["before_process_message", "after_process_message"]
    assert kinds == [*around, "before_ack", "after_ack", *around, "before_nack", "after_nack"]


def test_every_hook_around_a_message_gets_the_same_object(broker: Broker, drain: Callable[..., None]) -> None:
    told = Told()

    @localq.actor
    def work() -> None: ...

    sent = work.send()
    broker.add_middleware(told)
    drain(broker)

    given = [args[0] for name, *args in told.calls if name.endswith(("_message", "_ack"))]
    assert len(given) == 4
    assert all(each is given[0] for each in given)
    assert given[0] == sent
    given[0].of_my_own = 1


def test_skipping_a_message_runs_the_hooks_after_a_skip_instead_of_those_after_a_message(
    broker: Broker, drain: Callable[..., None]
) -> None:
    class Skipping(Middleware):
        def before_process_message(self, broker: Broker, message: Any) -> None:
            raise SkipMessage("not today")

    told = Told()
    ran = []

    @localq.actor
    def work() -> None:
        ran.append(1)

    work.send()
    broker.add_middleware(Skipping())
    broker.add_middleware(told)
    drain(broker)

    assert ran == []
    assert [name for name, *_ in told.calls if name.endswith(("_message", "_ack", "_nack"))] == [
        "after_skip_message",
        "before_ack",
        "after_ack",
    ]
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


BEFORE_AND_AFTER = [
    "ack",
    "nack",
    "declare_actor",
    "declare_queue",
    "enqueue",
    "process_message",
    "worker_boot",
    "worker_shutdown",
]
HOOKS = [
    *(f"{when}_{signal}" for when in ("before", "after") for signal in BEFORE_AND_AFTER),
    "after_declare_delay_queue",
    "before_delay_message",
    "after_skip_message",
    "after_process_boot",
    "after_consumer_thread_boot",
    "before_consumer_thread_shutdown",
    "after_worker_thread_boot",
    "before_worker_thread_shutdown",
]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_there_to_be_called_by_those_who_override_it(name: str) -> None:
    parameters = list(inspect.signature(getattr(Middleware, name)).parameters)

    assert parameters[:2] == ["self", "broker"]


def test_middleware_has_no_options_and_no_forks_by_default() -> None:
    assert (Middleware().actor_options, Middleware().forks) == (set(), [])


# -- middleware


def test_no_middleware_given_means_fresh_ones_of_the_default(make_broker: Callable[..., Broker]) -> None:
    one, two = make_broker("memory://"), make_broker("memory://")

    assert [type(each) for each in one.middleware] == [type(each) for each in two.middleware] == default_middleware
    assert [each.__name__ for each in default_middleware] == [
        "AgeLimit",
        "TimeLimit",
        "ShutdownNotifications",
        "Callbacks",
        "Pipelines",
        "Retries",
    ]
    assert not any(mine is yours for mine, yours in zip(one.middleware, two.middleware, strict=True))


def test_an_empty_list_means_no_middleware(make_broker: Callable[..., Broker]) -> None:
    assert make_broker("memory://", []).middleware == []


def test_without_middleware_messages_run_and_failures_are_dead_letters(
    make_broker: Callable[..., Broker], url: str, drain: Callable[..., None]
) -> None:
    broker = make_broker(url, [])
    ran = []

    @localq.actor(broker=broker)
    def work() -> None:
        ran.append(1)

    @localq.actor(broker=broker)
    def fail() -> None:
        raise RuntimeError("broken")

    work.send()
    fail.send()
    drain(broker)

    assert ran == [1]
    (dead,) = broker.store.browse(Selection())
    assert (dead.state, dead.reason) == (DEAD, "RuntimeError: broken")


def test_added_middleware_comes_last(broker: Broker) -> None:
    told = Told()

    broker.add_middleware(told)

    assert broker.middleware[-1] is told


@pytest.mark.parametrize(("where", "place"), [({"before": AgeLimit}, 0), ({"after": AgeLimit}, 1)])
def test_middleware_can_be_added_before_or_after_another(broker: Broker, where: dict[str, Any], place: int) -> None:
    told = Told()

    broker.add_middleware(told, **where)

    assert broker.middleware[place] is told
    assert len(broker.middleware) == 7


def test_middleware_cannot_be_added_before_and_after_others(broker: Broker) -> None:
    with pytest.raises(AssertionError):
        broker.add_middleware(Told(), before=AgeLimit, after=Retries)
    assert len(broker.middleware) == 6


@pytest.mark.parametrize("where", ["before", "after"])
def test_middleware_cannot_be_added_beside_one_that_is_not_there(broker: Broker, where: str) -> None:
    with pytest.raises(ValueError, match="no Results among the middleware"):
        broker.add_middleware(Told(), **{where: Results})
    assert len(broker.middleware) == 6


def test_a_second_middleware_of_one_type_is_added_with_a_warning(
    broker: Broker, logged: Callable[[int], list[str]]
) -> None:
    again = TimeLimit()

    broker.add_middleware(again)

    assert broker.middleware[-1] is again
    (text,) = logged(logging.WARNING)
    assert "You're adding a middleware of the same type twice" in text


def test_added_middleware_hears_of_what_is_declared_already(broker: Broker) -> None:
    @localq.actor(queue_name="mail")
    def send_mail() -> None: ...

    told = Told()
    broker.add_middleware(told)

    assert told.calls == [
        ("after_declare_actor", send_mail),
        ("after_declare_queue", "mail"),
        ("after_declare_delay_queue", "mail.DQ"),
    ]


def test_middleware_hears_of_each_actor_and_of_each_queue_once(broker: Broker) -> None:
    told = Told()
    broker.add_middleware(told)

    @localq.actor(queue_name="mail")
    def send_mail() -> None: ...

    @localq.actor(queue_name="mail")
    def send_more() -> None: ...

    broker.declare_queue("mail")

    assert told.calls == [
        ("before_declare_actor", send_mail),
        ("before_declare_queue", "mail"),
        ("after_declare_queue", "mail"),
        ("after_declare_delay_queue", "mail.DQ"),
        ("after_declare_actor", send_mail),
        ("before_declare_actor", send_more),
        ("after_declare_actor", send_more),
    ]


def test_middleware_may_be_assigned_as_a_list(broker: Broker, drain: Callable[..., None]) -> None:
    told = Told()

    @localq.actor
    def work() -> None: ...

    broker.middleware = [told]
    work.send()
    drain(broker)

    assert [name for name, *_ in told.calls][:2] == ["before_enqueue", "after_enqueue"]


# -- what is declared


def test_a_fresh_broker_has_nothing_declared_and_the_names_that_are_public(
    make_broker: Callable[..., Broker],
) -> None:
    broker = make_broker("memory://")

    assert (broker.actors, dict(broker.queues), set(broker.delay_queues)) == ({}, {}, set())
    assert broker.logger.name == "localq.broker.Broker"
    assert {
        "max_age",
        "time_limit",
        "notify_shutdown",
        "on_success",
        "on_failure",
        "pipe_ignore",
        "max_retries",
    } <= (broker.actor_options)
    assert (
        broker.get_declared_actors() == broker.get_declared_queues() == broker.get_declared_delay_queues() == set()
    )


def test_its_queues_have_canonical_names_only(broker: Broker) -> None:
    @localq.actor(queue_name="mail")
    def send_mail() -> None: ...

    send_mail.send_with_options(delay=MINUTE)

    assert list(broker.queues) == ["mail"]
    assert broker.get_declared_delay_queues() == {"mail.DQ"}


def test_a_queue_of_a_forbidden_name_is_not_declared(broker: Broker) -> None:
    with pytest.raises(ValueError, match="'no way'"):
        broker.declare_queue("no way")
    assert list(broker.queues) == []


def test_an_actor_that_is_not_declared_is_not_found(broker: Broker) -> None:
    with pytest.raises(ActorNotFound) as refusal:
        broker.get_actor("nobody")
    assert str(refusal.value) == "nobody"


def test_attributes_can_be_set_on_a_broker_and_unknown_ones_are_missed(broker: Broker) -> None:
    broker.of_my_own = 1  # type: ignore[attr-defined]

    assert broker.of_my_own == 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        broker.unknown_attribute  # type: ignore[attr-defined]  # noqa: B018


def test_a_broker_without_results_says_what_is_missing(broker: Broker) -> None:
    with pytest.raises(RuntimeError, match=r"localq\.results\.Results"):
        broker.get_results_backend()


def test_a_broker_with_results_has_their_backend(broker: Broker) -> None:
    results = Results()
    broker.add_middleware(results)

    assert broker.get_results_backend() is broker.get_results_backend() is results.backend


# -- sending


def test_what_enqueue_returns_is_what_was_stored(broker: Broker) -> None:
    message: Message[Any] = Message("default", "work", (1,), {"k": "v"}, {"unknown_option": [1, 2]})

    sent = broker.enqueue(message)

    (record,) = broker.store.browse(Selection())
    assert Message.decode(record.body) == sent == message
    assert (record.queue, record.actor, record.message_id) == ("default", "work", message.message_id)


def test_a_delayed_message_has_its_eta_among_its_options(broker: Broker) -> None:
    message: Message[Any] = Message("default", "work", (), {}, {"unknown_option": 1})

    before = time.time_ns() // 1_000_000
    sent = broker.enqueue(message, delay=MINUTE)

    assert before + MINUTE <= sent.options.pop("eta") <= time.time_ns() // 1_000_000 + MINUTE
    assert sent == message
    assert message.options == {"unknown_option": 1}
    (record,) = broker.store.browse(Selection())
    assert (record.state, record.queue) == (DELAYED, "default")


def test_hooks_around_sending_get_the_message_and_its_delay(broker: Broker) -> None:
    told = Told()
    broker.add_middleware(told)
    message: Message[Any] = Message("default", "work", (), {}, {})

    plain = broker.enqueue(message)
    delayed = broker.enqueue(message, delay=MINUTE)

    assert told.calls == [
        ("before_enqueue", plain, None),
        ("after_enqueue", plain, None),
        ("before_enqueue", delayed, MINUTE),
        ("after_enqueue", delayed, MINUTE),
    ]


def test_a_hook_before_sending_can_add_options(broker: Broker) -> None:
    class Stamping(Middleware):
        def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            message.options["stamp"] = 7

    broker.add_middleware(Stamping())

    @localq.actor
    def work() -> None: ...

    work.send()

    (record,) = broker.store.browse(Selection())
    assert Message.decode(record.body).options == {"stamp": 7}


def test_a_hook_before_sending_can_refuse_a_message(broker: Broker) -> None:
    class Refusing(Middleware):
        def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            raise MiddlewareError("closed on Sundays")

    broker.add_middleware(Refusing())

    with pytest.raises(MiddlewareError, match="closed on Sundays"):
        broker.enqueue(Message("default", "work", (), {}, {}))
    assert broker.store.counts() == {}


@pytest.mark.parametrize("eta", ["soon", b"x", True, float("nan"), float("inf"), 2**60, [1], "1700000000000"])
def test_an_eta_that_is_no_time_is_dropped_with_a_warning(
    broker: Broker, logged: Callable[[int], list[str]], eta: Any, drain: Callable[..., None]
) -> None:
    ran = []

    @localq.actor
    def work() -> None:
        ran.append(1)

    work.send_with_options(eta=eta)
    drain(broker)

    assert ran == [1]
    assert any("Invalid eta value for message" in text for text in logged(logging.WARNING))


def test_an_eta_of_none_is_dropped_in_silence(broker: Broker, logged: Callable[[int], list[str]]) -> None:
    @localq.actor
    def work() -> None: ...

    sent = work.send_with_options(eta=None)

    assert sent.options == {}
    assert broker.get_queue_message_counts("default") == (1, 0, 0)
    assert logged(logging.WARNING) == []


def test_an_eta_may_be_given_in_the_place_of_a_delay(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    now = time.time()
    work.send_with_options(eta=int((now + 60) * 1000))
    work.send_with_options(eta=(now + 60) * 1000)
    work.send_with_options(eta=int((now - 60) * 1000))

    assert broker.get_queue_message_counts("default") == (1, 2, 0)


def test_a_message_named_for_the_delay_queue_goes_to_its_queue(broker: Broker) -> None:
    broker.enqueue(Message("mail.DQ", "work", (), {}, {}))

    assert broker.get_queue_message_counts("mail") == (1, 0, 0)
    assert broker.get_queue_message_counts("mail.XQ") == (1, 0, 0)


# -- sending many


def work_messages(count: int) -> list[Message[Any]]:
    return [Message("default", "work", (n,), {}, {}) for n in range(count)]


def test_many_messages_are_stored_at_once_with_all_hooks_for_each(broker: Broker) -> None:
    told = Told()
    broker.add_middleware(told)
    messages = work_messages(3)

    sent = broker.enqueue_many(messages)

    assert sent == messages
    assert hooks_about(told.calls, "before_enqueue") == [("before_enqueue", m, None) for m in messages]
    assert hooks_about(told.calls, "after_enqueue") == [("after_enqueue", m, None) for m in messages]
    assert [record.message_id for record in broker.store.browse(Selection())] == [m.message_id for m in messages]


def test_each_of_many_messages_may_have_a_delay_of_its_own(broker: Broker) -> None:
    told = Told()
    broker.add_middleware(told)
    one, two, three, four = work_messages(4)

    broker.enqueue_many([(one, MINUTE), (two, None), three, (four, 0)], delay=2 * MINUTE)

    delays = {call[1].args[0]: call[2] for call in hooks_about(told.calls, "before_enqueue")}
    assert delays == {0: MINUTE, 1: None, 2: 2 * MINUTE, 3: 0}
    assert broker.get_queue_message_counts("default") == (2, 2, 0)


def test_none_of_many_messages_is_stored_when_one_cannot_be_encoded(broker: Broker) -> None:
    told = Told()
    broker.add_middleware(told)
    good, bad, better = work_messages(3)
    bad = bad.copy(args=(object(),))

    with pytest.raises(EncodeError, match=r"args\[0\]"):
        broker.enqueue_many([good, bad, better])

    assert broker.store.counts() == {}
    assert hooks_about(told.calls, "after_enqueue") == []


def test_none_of_many_messages_is_stored_when_a_hook_refuses_one(broker: Broker) -> None:
    class Refusing(Middleware):
        def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
            if message.args == (1,):
                raise MiddlewareError("not this one")

    broker.add_middleware(Refusing())

    with pytest.raises(MiddlewareError, match="not this one"):
        broker.enqueue_many(work_messages(3))
    assert broker.store.counts() == {}


def test_sending_no_messages_is_nothing(broker: Broker) -> None:
    assert broker.enqueue_many([]) == []
    assert broker.store.counts() == {}


def test_many_messages_may_come_from_a_generator_and_run_in_their_order(
    broker: Broker, drain: Callable[..., None]
) -> None:
    ran = []

    @localq.actor
    def work(n: int) -> None:
        ran.append(n)

    broker.enqueue_many(work.message(n) for n in range(500))
    drain(broker, worker_threads=1)

    assert ran == list(range(500))


# -- order and time


def test_lower_priority_numbers_run_first_whatever_the_order_of_sending(
    broker: Broker, drain: Callable[..., None]
) -> None:
    ran = []

    def note(name: str) -> None:
        ran.append(name)

    late = localq.actor(note, actor_name="late", priority=10)
    usual = localq.actor(note, actor_name="usual")
    early = localq.actor(note, actor_name="early", priority=-1)

    late.send("late")
    usual.send("usual")
    early.send("early")
    late.send_with_options(args=("promoted",), priority=-5)
    early.send_with_options(args=("demoted",), priority=99)
    drain(broker, worker_threads=1)

    assert ran == ["promoted", "early", "usual", "late", "demoted"]


def test_priorities_hold_across_queues_and_equals_are_first_in_first_out(
    broker: Broker, drain: Callable[..., None]
) -> None:
    ran = []

    def note(n: int) -> None:
        ran.append(n)

    actors = [localq.actor(note, actor_name=name, queue_name=name) for name in "abc"]
    for n in range(30):
        actors[n % 3].send_with_options(args=(n,), priority=n % 2)
    drain(broker, worker_threads=1)

    assert ran == [*range(0, 30, 2), *range(1, 30, 2)]


def test_delayed_messages_never_run_early_and_the_earlier_eta_runs_first(
    broker: Broker, drain: Callable[..., None]
) -> None:
    ran: list[tuple[int, int]] = []

    @localq.actor
    def work(eta: int) -> None:
        ran.append((eta, time.time_ns() // 1_000_000))

    now = time.time_ns() // 1_000_000
    etas = [now + delay for delay in (400, 100, 300, 200)]
    for eta in etas:
        work.send_with_options(args=(eta,), eta=eta)
    assert broker.get_queue_message_counts("default") == (0, 4, 0)
    drain(broker)

    assert sorted(eta for eta, _ in ran) == [eta for eta, _ in ran] == sorted(etas)
    assert all(at >= eta for eta, at in ran)


def test_a_delayed_message_is_run_by_a_worker_that_sleeps(
    broker: Broker, start_worker: Callable[..., Any], until: Callable[..., Any]
) -> None:
    ran: list[float] = []

    @localq.actor
    def work() -> None:
        ran.append(time.monotonic())

    worker = start_worker(broker, worker_timeout=100_000)
    until(lambda: all(thread.idle for thread in worker.workers))
    sent_at = time.monotonic()
    work.send_with_options(delay=MINUTE)
    work.send_with_options(delay=200)

    until(lambda: ran)
    assert ran[0] - sent_at >= 0.199
    assert broker.get_queue_message_counts("default") == (0, 1, 0)


# -- counting, joining, flushing


def test_messages_are_counted_as_ready_delayed_and_dead(broker: Broker, drain: Callable[..., None]) -> None:
    @localq.actor(max_retries=0)
    def fail() -> None:
        raise RuntimeError

    fail.send()
    drain(broker)
    for _ in range(3):
        fail.send()
    fail.send_with_options(delay=MINUTE)
    fail.send_with_options(delay=MINUTE)

    assert broker.get_queue_message_counts("default") == (3, 2, 1)
    assert broker.get_queue_message_counts("default.DQ") == (3, 2, 1)
    assert broker.get_queue_message_counts("unknown") == (0, 0, 0)


def test_join_waits_for_what_is_ready_delayed_or_running(broker: Broker, start_worker: Callable[..., Any]) -> None:
    started, go_on = threading.Event(), threading.Event()
    ran = []

    @localq.actor
    def work(name: str) -> None:
        if name == "held":
            started.set()
            go_on.wait(30)
        ran.append(name)

    work.send("held")
    work.send_with_options(args=("delayed",), delay=100)
    start_worker(broker, worker_threads=1)
    assert started.wait(30)
    threading.Timer(0.1, go_on.set).start()

    broker.join("default", timeout=30_000)

    assert ran == ["held", "delayed"]


def test_join_waits_between_a_failure_and_its_retry(broker: Broker, start_worker: Callable[..., Any]) -> None:
    ran = []

    @localq.actor(min_backoff=50, max_backoff=100, max_retries=2)
    def fail() -> None:
        ran.append(1)
        raise RuntimeError

    fail.send()
    start_worker(broker)

    broker.join("default", timeout=30_000)

    assert len(ran) == 3
    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_join_of_a_queue_that_stays_at_work_times_out_and_says_with_what(
    broker: Broker, start_worker: Callable[..., Any]
) -> None:
    started, go_on = threading.Event(), threading.Event()

    @localq.actor
    def work() -> None:
        started.set()
        go_on.wait(30)

    work.send()
    start_worker(broker, worker_threads=1)
    assert started.wait(30)
    work.send()
    work.send_with_options(delay=MINUTE)

    began = time.monotonic()
    with pytest.raises(
        QueueJoinTimeout, match="500 ms the queue 'default' still has 1 waiting, 1 delayed, 1 running"
    ):
        broker.join("default", timeout=500)
    waited = time.monotonic() - began
    go_on.set()

    assert 0.499 <= waited < 10


def test_join_of_an_empty_or_unknown_queue_returns_at_once(broker: Broker) -> None:
    broker.declare_queue("default")

    broker.join("default")
    broker.join("default.DQ")
    broker.join("unknown", timeout=0)


def test_join_of_one_queue_does_not_wait_for_another(broker: Broker) -> None:
    broker.enqueue(Message("busy", "work", (), {}, {}))

    broker.join("idle", timeout=1000)
    with pytest.raises(QueueJoinTimeout):
        broker.join("busy", timeout=10)


def test_after_a_flush_of_all_queues_join_returns_within_a_moment(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    broker.enqueue_many([work.message() for _ in range(1000)])
    broker.enqueue_many([work.message() for _ in range(1000)], delay=MINUTE)

    broker.flush_all()
    broker.join("default", timeout=200)

    assert broker.get_queue_message_counts("default") == (0, 0, 0)


def test_a_flush_empties_one_queue_its_dead_letters_included(broker: Broker, drain: Callable[..., None]) -> None:
    @localq.actor(queue_name="mail", max_retries=0)
    def fail() -> None:
        raise RuntimeError

    fail.send()
    drain(broker)
    fail.send()
    broker.enqueue(Message("other", "work", (), {}, {}))

    broker.flush("mail")

    assert broker.get_queue_message_counts("mail") == (0, 0, 0)
    assert broker.get_queue_message_counts("other") == (1, 0, 0)


def test_a_closed_broker_opens_again_when_it_is_used(tmp_path: Any) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    broker.enqueue(Message("default", "work", (), {}, {}))

    broker.close()
    broker.close()

    assert not broker.is_open
    assert broker.get_queue_message_counts("default") == (1, 0, 0)
    broker.close()


def test_several_brokers_on_one_store_see_the_same_messages(
    broker: Broker, url: str, make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    other = make_broker(url)
    ran = []

    @localq.actor
    def work() -> None:
        ran.append("broker")

    @localq.actor(actor_name="work", broker=other)
    def work_of_the_other() -> None:
        ran.append("other")

    work.send()
    work_of_the_other.send()
    assert broker.get_queue_message_counts("default") == other.get_queue_message_counts("default") == (2, 0, 0)
    broker.close()
    drain(other)

    assert ran == ["other", "other"]


# -- what nobody can run


def put(broker: Broker, **fields: Any) -> None:
    body = Message("default", "work", (), {}, {}).encode()
    broker.store.put(
        [Record(**{"message_id": "x", "queue": "default", "actor": "work", "body": body, **fields})], now=1
    )


def body_with(**fields: Any) -> bytes:
    return localq.get_encoder().encode({**Message("default", "work", (), {}, {}).asdict(), **fields})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"body": b"garbage"}, "DecodeError: the msgpack encoder cannot decode this"),
        ({"body": b""}, "DecodeError"),
        ({"wire": 99}, "DecodeError: the message was sent by a newer localq"),
        ({"encoder": "app:Special"}, "DecodeError: the message was encoded by 'app:Special'"),
        ({"encoder": "pickle"}, "DecodeError: the message was pickled"),
        ({"body": body_with(options=None)}, "DecodeError"),
        ({"body": body_with(options=[])}, "DecodeError"),
        ({"body": body_with(args=None)}, "DecodeError"),
        ({"body": body_with(kwargs=[1])}, ""),
        ({"body": body_with(actor_name=None)}, ""),
        ({"body": body_with(actor_name=["x"])}, ""),
        ({"body": body_with(options={"retries": "many"})}, ""),
        ({"body": body_with(options={"max_age": "old"})}, ""),
        ({"body": body_with(options={"time_limit": "long"})}, ""),
        ({"body": body_with(options={"max_retries": "many"})}, ""),
        ({"body": body_with(message_timestamp="now", options={"max_age": 5})}, ""),
        ({"body": body_with(options={"pipe_target": {"unknown": 1}})}, None),
        ({"body": body_with(options={"on_success": "nobody"})}, None),
    ],
)
def test_a_bad_message_is_a_dead_letter_with_its_reason_and_the_worker_goes_on(
    broker: Broker,
    start_worker: Callable[..., Any],
    until: Callable[..., Any],
    fields: dict[str, Any],
    reason: str | None,
) -> None:
    ran = []

    @localq.actor
    def work() -> None: ...

    @localq.actor
    def good() -> None:
        ran.append(1)

    put(broker, **fields)
    good.send()
    start_worker(broker, worker_threads=1)

    until(lambda: ran, "the good message behind the bad one")
    broker.join("default", timeout=30_000)
    left = broker.store.browse(Selection())
    if reason:
        assert [record.state for record in left] == [DEAD]
        assert (left[0].reason or "").startswith(reason)
    if reason is None:
        assert left == []


def test_a_message_for_an_actor_that_nobody_declares_is_a_dead_letter_until_somebody_does(
    broker: Broker, url: str, make_broker: Callable[..., Broker], drain: Callable[..., None]
) -> None:
    newer = make_broker(url)
    ran = []

    @localq.actor(broker=newer)
    def later() -> None:
        ran.append(1)

    broker.declare_queue("default")
    later.send()
    drain(broker)

    (dead,) = broker.store.browse(Selection())
    assert (dead.state, dead.reason) == (DEAD, "ActorNotFound: later")
    drain(newer)
    assert ran == [1]
    assert newer.get_queue_message_counts("default") == (0, 0, 0)


def test_a_message_for_an_actor_of_another_living_worker_is_left_to_that_one(
    broker: Broker, url: str, make_broker: Callable[..., Broker], start_worker: Callable[..., Any]
) -> None:
    other = make_broker(url)
    ran = []

    @localq.actor
    def mine(n: int) -> None:
        ran.append(("mine", n))

    @localq.actor(broker=other)
    def yours(n: int) -> None:
        ran.append(("yours", n))

    start_worker(broker)
    start_worker(other)
    for n in range(50):
        mine.send(n)
        yours.send(n)

    broker.join("default", timeout=30_000)
    assert sorted(ran) == [(name, n) for name in ("mine", "yours") for n in range(50)]
    assert broker.get_queue_message_counts("default") == (0, 0, 0)


# -- the message on its way


def test_a_proxy_passes_for_its_message() -> None:
    message: Message[Any] = Message("default", "work", (1,), {}, {"o": 1})
    proxy = MessageProxy(message)

    assert proxy._message is message
    assert (proxy.actor_name, proxy.args, proxy.message_id) == ("work", (1,), message.message_id)
    assert proxy.options is message.options
    assert str(proxy) == str(message)
    assert repr(message) in repr(proxy)
    assert proxy == message
    assert message == proxy
    assert proxy == MessageProxy(message)
    assert proxy != MessageProxy(message.copy(args=(2,)))
    with pytest.raises(AttributeError):
        proxy.unknown  # noqa: B018


def test_a_proxy_can_be_failed_and_keeps_an_exception_until_it_is_cleared() -> None:
    proxy = MessageProxy(Message("default", "work", (), {}, {}))
    error = RuntimeError("broken")

    assert (proxy.failed, proxy._exception) == (False, None)
    proxy.fail()
    proxy.stuff_exception(error)
    assert (proxy.failed, proxy._exception) == (True, error)
    proxy.clear_exception()
    assert (proxy.failed, proxy._exception) == (True, None)


def test_a_message_that_a_hook_failed_before_it_ran_does_not_run(
    broker: Broker, drain: Callable[..., None]
) -> None:
    told: list[Any] = []

    class Failing(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            message.fail()

        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            told.append(outcome)

    broker.add_middleware(Failing())

    @localq.actor
    def work() -> None:
        told.append("it ran")

    work.send()
    drain(broker)

    (dead,) = broker.store.browse(Selection())
    assert (dead.state, dead.reason) == (DEAD, "failed by a middleware")
    assert told == [{"result": None, "exception": None}]


def test_a_message_that_a_hook_failed_is_a_dead_letter(broker: Broker, drain: Callable[..., None]) -> None:
    class Failing(Middleware):
        def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
            message.fail()

    broker.add_middleware(Failing())

    @localq.actor
    def work() -> None: ...

    work.send()
    drain(broker)

    (dead,) = broker.store.browse(Selection())
    assert (dead.state, dead.reason) == (DEAD, "failed by a middleware")
    assert WAITING not in broker.store.counts()["default"]
