"""Retries: which failures are run again, how often, and how much later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import Broker, Message, Middleware, Retry
from localq.middleware import CurrentMessage, Retries, default_middleware
from localq.store import Selection
from localq.store.base import DEAD

NOW = {"min_backoff": 0, "max_backoff": 0}
"""Options with which a retry follows at once."""


class Delays(Middleware):
    """Writes down the delay of each retry."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        if "requeue_timestamp" in message.options:
            assert delay is not None
            self.seen.append(delay)


class Failing:
    """A function that fails so many times, and then returns."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times = times
        self.error = error or RuntimeError("broken")
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error


ALWAYS = 10**9


def broker_with(make_broker: Callable[..., Broker], url: str, **retries: Any) -> Broker:
    usual = [make() for make in default_middleware if make is not Retries]
    broker = make_broker(url, [*usual, Retries(**retries)])
    localq.set_broker(broker)
    return broker


def only_dead_letter(broker: Broker) -> Any:
    (dead,) = broker.store.browse(Selection())
    assert dead.state == DEAD
    return dead


# -- how often


def test_a_failed_message_is_run_again_until_it_succeeds(broker: Broker, drain: Callable[..., None]) -> None:
    fn = Failing(3)
    work = localq.actor(fn, actor_name="work", **NOW)

    work.send()
    drain(broker)

    assert fn.calls == 4
    assert broker.store.counts() == {}


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_a_message_is_retried_as_often_as_its_actor_says_and_then_a_dead_letter(
    broker: Broker, drain: Callable[..., None], max_retries: int
) -> None:
    fn = Failing(ALWAYS)
    work = localq.actor(fn, actor_name="work", max_retries=max_retries, **NOW)

    work.send()
    drain(broker)

    assert fn.calls == max_retries + 1
    assert broker.get_queue_message_counts("default") == (0, 0, 1)
    assert only_dead_letter(broker).reason == "RuntimeError: broken"


@pytest.mark.parametrize("max_retries", [0, 2])
def test_the_message_wins_over_its_actor(broker: Broker, drain: Callable[..., None], max_retries: int) -> None:
    fn = Failing(ALWAYS)
    work = localq.actor(fn, actor_name="work", max_retries=5, **NOW)

    work.send_with_options(max_retries=max_retries)
    drain(broker)

    assert fn.calls == max_retries + 1


@pytest.mark.parametrize("max_retries", [0, 2])
def test_the_actor_wins_over_the_middleware(
    make_broker: Callable[..., Broker], url: str, drain: Callable[..., None], max_retries: int
) -> None:
    broker = broker_with(make_broker, url, max_retries=5, **NOW)
    fn = Failing(ALWAYS)
    work = localq.actor(fn, actor_name="work", max_retries=max_retries)

    work.send()
    drain(broker)

    assert fn.calls == max_retries + 1


@pytest.mark.parametrize("max_retries", [0, 2])
def test_the_middleware_decides_where_nobody_else_does(
    make_broker: Callable[..., Broker], url: str, drain: Callable[..., None], max_retries: int
) -> None:
    broker = broker_with(make_broker, url, max_retries=max_retries, **NOW)
    fn = Failing(ALWAYS)
    work = localq.actor(fn, actor_name="work")

    work.send()
    drain(broker)

    assert fn.calls == max_retries + 1


def test_the_default_is_twenty_retries_from_fifteen_seconds_to_seven_days() -> None:
    retries = Retries()

    assert (retries.max_retries, retries.min_backoff, retries.max_backoff) == (20, 15_000, 7 * 24 * 3600 * 1000)


def test_max_retries_of_none_means_without_end(broker: Broker, drain: Callable[..., None]) -> None:
    fn = Failing(30)
    work = localq.actor(fn, actor_name="work", max_retries=None, **NOW)

    work.send()
    drain(broker)

    assert fn.calls == 31


# -- how much later


def test_zero_backoffs_are_honoured_on_actors_messages_and_middleware(
    make_broker: Callable[..., Broker], url: str, drain: Callable[..., None]
) -> None:
    broker = broker_with(make_broker, url, **NOW)
    on_actor, on_message, on_middleware = Failing(10), Failing(10), Failing(10)
    one = localq.actor(on_actor, actor_name="one", **NOW)
    two = localq.actor(on_message, actor_name="two", min_backoff=60_000, max_backoff=60_000)
    three = localq.actor(on_middleware, actor_name="three")

    one.send()
    two.send_with_options(**NOW)
    three.send()
    began = time.monotonic()
    drain(broker)

    assert [on_actor.calls, on_message.calls, on_middleware.calls] == [11, 11, 11]
    assert time.monotonic() - began < 10


def test_the_wait_doubles_from_the_least_to_the_longest_and_is_drawn_from_its_upper_half(
    broker: Broker, drain: Callable[..., None]
) -> None:
    delays = Delays()
    broker.add_middleware(delays)
    work = localq.actor(Failing(ALWAYS), actor_name="work", min_backoff=4, max_backoff=40, max_retries=6)

    for _ in range(10):
        work.send()
    drain(broker)

    assert len(delays.seen) == 60
    for longest in (4, 8, 16, 32, 40):
        assert any(longest / 2 <= delay <= longest for delay in delays.seen)
    assert min(delays.seen) >= 2
    assert max(delays.seen) <= 40


@pytest.mark.parametrize(("retries", "longest"), [(0, 1000), (1, 2000), (2, 4000), (3, 5000), (15, 5000)])
def test_the_wait_before_each_retry_has_its_bounds(broker: Broker, retries: int, longest: int) -> None:
    delays = Delays()
    broker.add_middleware(delays)
    (middleware,) = (one for one in broker.middleware if isinstance(one, Retries))
    work = localq.actor(Failing(ALWAYS), actor_name="work", min_backoff=1000, max_backoff=5000)

    for _ in range(20):
        message = localq.MessageProxy(work.message_with_options(retries=retries))
        middleware.after_process_message(broker, message, exception=RuntimeError())

    assert len(delays.seen) == 20
    assert all(longest / 2 <= delay <= longest for delay in delays.seen)


def test_a_retry_runs_within_its_backoff(broker: Broker, drain: Callable[..., None]) -> None:
    ran = []

    @localq.actor(min_backoff=1000, max_backoff=5000, max_retries=1)
    def work() -> None:
        ran.append(time.monotonic())
        raise RuntimeError

    work.send()
    drain(broker)

    first, second = ran
    assert 0.5 <= second - first < 3.5


def test_the_backoff_of_a_message_wins_over_that_of_its_actor(broker: Broker, drain: Callable[..., None]) -> None:
    delays = Delays()
    broker.add_middleware(delays)
    work = localq.actor(Failing(1), actor_name="work", min_backoff=60_000, max_backoff=90_000)

    work.send_with_options(min_backoff=20, max_backoff=30)
    drain(broker)

    (delay,) = delays.seen
    assert 10 <= delay <= 20


# -- Retry


def test_raising_retry_chooses_the_delay(broker: Broker, drain: Callable[..., None]) -> None:
    ran = []

    @localq.actor
    def work() -> None:
        ran.append(time.monotonic())
        if len(ran) == 1:
            raise Retry(delay=100)

    work.send()
    drain(broker)

    first, second = ran
    assert 0.1 <= second - first < 10
    assert broker.store.counts() == {}


def test_a_retry_without_a_delay_waits_for_the_usual_backoff(broker: Broker, drain: Callable[..., None]) -> None:
    delays = Delays()
    broker.add_middleware(delays)
    work = localq.actor(Failing(1, Retry("later")), actor_name="work", min_backoff=20, max_backoff=40)

    work.send()
    drain(broker)

    (delay,) = delays.seen
    assert 10 <= delay <= 20


def test_a_delay_of_zero_in_retry_is_honoured(broker: Broker, drain: Callable[..., None]) -> None:
    delays = Delays()
    broker.add_middleware(delays)
    work = localq.actor(Failing(3, Retry(delay=0)), actor_name="work")

    work.send()
    drain(broker)

    assert delays.seen == [0, 0, 0]


def test_raising_retry_counts_as_a_retry(broker: Broker, drain: Callable[..., None]) -> None:
    fn = Failing(ALWAYS, Retry("again", delay=0))
    work = localq.actor(fn, actor_name="work", max_retries=2)

    work.send()
    drain(broker)

    assert fn.calls == 3
    assert only_dead_letter(broker).reason == "Retry: again"


def test_raising_retry_logs_no_error(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    work = localq.actor(Failing(1, Retry("later", delay=0)), actor_name="work")

    work.send()
    drain(broker)

    assert logged(logging.ERROR) == logged(logging.CRITICAL) == logged(logging.WARNING) == []


# -- retry_when and throws


def test_retry_when_decides_in_the_place_of_max_retries(broker: Broker, drain: Callable[..., None]) -> None:
    asked: list[tuple[int, BaseException]] = []

    def retry_when(retries_so_far: int, exception: BaseException) -> bool:
        asked.append((retries_so_far, exception))
        return retries_so_far < 3

    error = RuntimeError("broken")
    fn = Failing(ALWAYS, error)
    work = localq.actor(fn, actor_name="work", retry_when=retry_when, max_retries=0, **NOW)

    work.send()
    drain(broker)

    assert fn.calls == 4
    assert asked == [(0, error), (1, error), (2, error), (3, error)]
    assert only_dead_letter(broker).reason == "RuntimeError: broken"


def test_retry_when_of_the_middleware_is_for_actors_without_one(
    make_broker: Callable[..., Broker], url: str, drain: Callable[..., None]
) -> None:
    broker = broker_with(make_broker, url, retry_when=lambda retries, exception: retries < 1, **NOW)
    plain, special = Failing(ALWAYS), Failing(ALWAYS)
    localq.actor(plain, actor_name="plain").send()
    localq.actor(special, actor_name="special", retry_when=lambda retries, exception: retries < 2).send()

    drain(broker)

    assert (plain.calls, special.calls) == (2, 3)


class Expected(Exception): ...


class MoreSpecial(Expected): ...


@pytest.mark.parametrize("throws", [Expected, (KeyError, Expected)])
@pytest.mark.parametrize("error", [Expected("known"), MoreSpecial("known")])
def test_an_expected_exception_is_not_retried(
    broker: Broker,
    drain: Callable[..., None],
    logged: Callable[[int], list[str]],
    throws: Any,
    error: Exception,
) -> None:
    fn = Failing(ALWAYS, error)
    work = localq.actor(fn, actor_name="work", throws=throws, **NOW)

    message = work.send()
    drain(broker)

    assert fn.calls == 1
    assert only_dead_letter(broker).reason == f"{type(error).__name__}: known"
    assert f"Aborting message {message.message_id!r}." in logged(logging.INFO)
    assert logged(logging.WARNING) == logged(logging.ERROR) == []


def test_an_exception_that_is_not_expected_is_retried_as_usual(broker: Broker, drain: Callable[..., None]) -> None:
    fn = Failing(1, KeyError("unknown"))
    work = localq.actor(fn, actor_name="work", throws=Expected, **NOW)

    work.send()
    drain(broker)

    assert fn.calls == 2


def test_how_an_expected_exception_is_logged(
    broker: Broker, drain: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    localq.actor(Failing(ALWAYS, Expected("known")), actor_name="work", throws=Expected).send()

    drain(broker)

    formats = [(record.levelname, record.msg) for record in caplog.records]
    assert ("INFO", "Failed to process message %s with expected exception %s.") in formats
    assert {level for level, _ in formats} <= {"DEBUG", "INFO"}


# -- what is told


def test_who_asked_is_told_once_that_retries_are_exhausted(broker: Broker, drain: Callable[..., None]) -> None:
    told = []

    @localq.actor
    def give_up(message: dict[str, Any], counts: dict[str, Any]) -> None:
        told.append((message, counts))

    work = localq.actor(
        Failing(ALWAYS), actor_name="work", max_retries=2, on_retry_exhausted=give_up.actor_name, **NOW
    )

    sent = work.send()
    drain(broker)

    ((message, counts),) = told
    assert counts == {"retries": 2, "max_retries": 2}
    assert (message["message_id"], message["actor_name"], message["args"]) == (sent.message_id, "work", ())
    assert tuple(message) == Message._fields


def test_a_message_may_ask_to_have_an_actor_told(broker: Broker, drain: Callable[..., None]) -> None:
    told = []

    @localq.actor
    def give_up(message: dict[str, Any], counts: dict[str, Any]) -> None:
        told.append(counts)

    work = localq.actor(Failing(ALWAYS), actor_name="work", max_retries=0)

    work.send_with_options(on_retry_exhausted=give_up)
    work.send()
    drain(broker)

    assert told == [{"retries": 0, "max_retries": 0}]


def test_nobody_is_told_of_exhausted_retries_when_it_succeeds_or_was_expected_to_fail(
    broker: Broker, drain: Callable[..., None]
) -> None:
    told = []

    @localq.actor
    def give_up(message: dict[str, Any], counts: dict[str, Any]) -> None:
        told.append(counts)

    options = {"on_retry_exhausted": give_up, "max_retries": 2, **NOW}
    localq.actor(Failing(2), actor_name="succeeding", **options).send()
    localq.actor(Failing(ALWAYS, Expected()), actor_name="expected", throws=Expected, **options).send()
    drain(broker)

    assert told == []


def test_a_retried_message_knows_how_often_why_and_since_when(broker: Broker, drain: Callable[..., None]) -> None:
    broker.add_middleware(CurrentMessage())
    seen = []

    @localq.actor(max_retries=2, **NOW)
    def work() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append(dict(message.options))
        raise RuntimeError(f"failure {len(seen)}")

    before = time.time_ns() // 1_000_000
    work.send()
    drain(broker)
    after = time.time_ns() // 1_000_000

    first, second, third = seen
    assert {"retries", "traceback", "requeue_timestamp"}.isdisjoint(first)
    assert (second["retries"], third["retries"]) == (1, 2)
    assert second["traceback"].endswith("RuntimeError: failure 1\n")
    assert third["traceback"].endswith("RuntimeError: failure 2\n")
    assert 'raise RuntimeError(f"failure {len(seen)}")' in second["traceback"]
    assert before <= second["requeue_timestamp"] <= third["requeue_timestamp"] <= after


def test_a_retry_keeps_the_id_the_arguments_and_the_options_of_its_message(
    broker: Broker, drain: Callable[..., None]
) -> None:
    broker.add_middleware(CurrentMessage())
    seen = []

    @localq.actor(max_retries=1, queue_name="mail", priority=3, **NOW)
    def work(*args: Any, **kwargs: Any) -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append((message.asdict(), args, kwargs))
        raise RuntimeError

    sent = work.send_with_options(args=(1,), kwargs={"k": (2,)}, of_my_own="x", priority=1)
    drain(broker)

    for fields, args, kwargs in seen:
        assert (args, kwargs) == ((1,), {"k": (2,)})
        assert fields["message_id"] == sent.message_id
        assert fields["message_timestamp"] == sent.message_timestamp
        assert fields["queue_name"] == "mail"
        assert fields["options"].items() >= {"of_my_own": "x", "priority": 1}.items()


def test_what_is_logged_about_retries(
    broker: Broker, drain: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    message = localq.actor(Failing(ALWAYS), actor_name="work", max_retries=1, **NOW).send()

    drain(broker)

    lines = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "localq.middleware.retries.Retries"
    ]
    assert lines == [
        ("INFO", f"Retrying message {message.message_id!r} in 0 milliseconds."),
        ("WARNING", f"Retries exceeded for message {message.message_id!r}."),
    ]
    formats = [record.msg for record in caplog.records]
    assert "Retrying message %r in %d milliseconds." in formats
    assert "Retries exceeded for message %r." in formats


def test_an_unexpected_failure_is_logged_as_an_error_with_its_traceback(
    broker: Broker, drain: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    localq.actor(Failing(ALWAYS), actor_name="work", max_retries=0).send()

    drain(broker)

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "localq.worker.WorkerThread"
    assert record.getMessage() == "Failed to process message work() with unhandled exception."
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError


def test_a_rate_limit_is_logged_at_debug_and_retried(
    broker: Broker, drain: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fn = Failing(1, localq.RateLimitExceeded("rate limit exceeded"))
    localq.actor(fn, actor_name="work", **NOW).send()

    drain(broker)

    assert fn.calls == 2
    formats = [(record.levelname, record.msg) for record in caplog.records]
    assert ("DEBUG", "Rate limit exceeded in message %s: %s.") in formats
    assert {level for level, _ in formats} <= {"DEBUG", "INFO"}


def test_a_dead_letter_that_is_brought_back_has_all_its_retries_again(
    broker: Broker, drain: Callable[..., None]
) -> None:
    fn = Failing(ALWAYS)
    localq.actor(fn, actor_name="work", max_retries=2, **NOW).send()
    drain(broker)

    broker.store.move(Selection(states=[DEAD]), "waiting", now=time.time_ns() // 1_000_000)
    drain(broker)

    assert fn.calls == 6
    assert broker.get_queue_message_counts("default") == (0, 0, 1)
