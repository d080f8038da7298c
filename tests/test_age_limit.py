"""AgeLimit: messages that waited for too long are not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import Broker, Message, Middleware
from localq.clock import clock, current_millis
from localq.errors import ResultFailure
from localq.middleware import AgeLimit, default_middleware
from localq.store import Selection
from localq.store.base import DEAD

HOUR = 3_600_000


def aged(actor: localq.Actor[..., Any], age: int, **options: Any) -> Message[Any]:
    """A message that was made so many milliseconds ago."""
    return actor.message_with_options(**options).copy(message_timestamp=current_millis() - age)


@pytest.fixture
def ran() -> list[int]:
    return []


@pytest.fixture
def declare(ran: list[int]) -> Callable[..., Any]:
    """Declares an actor that writes down that it ran."""

    def declare(**options: Any) -> Any:
        return localq.actor(lambda: ran.append(1), actor_name="work", **options)

    return declare


def test_a_message_above_the_age_limit_of_its_actor_is_a_dead_letter_and_does_not_run(
    broker: Broker, declare: Callable[..., Any], ran: list[int], drain: Callable[..., None]
) -> None:
    work = declare(max_age=HOUR)

    broker.enqueue(aged(work, HOUR + 1000))
    drain(broker)

    assert ran == []
    (dead,) = broker.store.browse(Selection())
    assert (dead.state, dead.reason) == (DEAD, "SkipMessage: Message age limit exceeded")
    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_a_message_below_the_age_limit_runs(
    broker: Broker, declare: Callable[..., Any], ran: list[int], drain: Callable[..., None]
) -> None:
    work = declare(max_age=HOUR)

    broker.enqueue(aged(work, HOUR - 60_000))
    drain(broker)

    assert ran == [1]


@pytest.mark.parametrize(("age", "runs"), [(999, True), (1000, False), (1001, False)])
def test_a_message_exactly_at_the_limit_is_too_old(
    broker: Broker, declare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, age: int, runs: bool
) -> None:
    work = declare(max_age=1000)
    now = current_millis()
    message = localq.MessageProxy(work.message().copy(message_timestamp=now - age))
    monkeypatch.setattr(clock, "wall", lambda: now)
    (limit,) = (one for one in broker.middleware if isinstance(one, AgeLimit))

    if runs:
        limit.before_process_message(broker, message)
        assert not message.failed
    else:
        with pytest.raises(localq.errors.SkipMessage) as skip:
            limit.before_process_message(broker, message)
        assert str(skip.value) == "Message age limit exceeded"
        assert message.failed


@pytest.mark.parametrize(("on_message", "on_actor", "runs"), [(1000, HOUR, False), (HOUR, 1000, True)])
def test_the_limit_of_a_message_wins_over_that_of_its_actor(
    broker: Broker,
    declare: Callable[..., Any],
    ran: list[int],
    drain: Callable[..., None],
    on_message: int,
    on_actor: int,
    runs: bool,
) -> None:
    work = declare(max_age=on_actor)

    broker.enqueue(aged(work, 60_000, max_age=on_message))
    drain(broker)

    assert ran == [1] * runs


def test_the_limit_of_the_middleware_is_for_all_and_that_of_an_actor_wins(
    make_broker: Callable[..., Broker], url: str, ran: list[int], drain: Callable[..., None]
) -> None:
    usual: list[Middleware] = [make() for make in default_middleware if make is not AgeLimit]
    broker = make_broker(url, [AgeLimit(max_age=1000), *usual])

    @localq.actor(broker=broker)
    def strict() -> None:
        ran.append(1)

    @localq.actor(broker=broker, max_age=HOUR)
    def patient() -> None:
        ran.append(2)

    broker.enqueue(aged(strict, 60_000))
    broker.enqueue(aged(patient, 60_000))
    drain(broker)

    assert ran == [2]


def test_there_is_no_limit_by_default(
    broker: Broker, declare: Callable[..., Any], ran: list[int], drain: Callable[..., None]
) -> None:
    broker.enqueue(aged(declare(), 100 * 24 * HOUR))
    drain(broker)

    assert ran == [1]


def test_who_waits_for_the_result_of_a_message_too_old_hears_of_it(
    broker_with_results: Broker, declare: Callable[..., Any], drain: Callable[..., None]
) -> None:
    message = broker_with_results.enqueue(aged(declare(max_age=1000), 60_000))
    drain(broker_with_results)

    with pytest.raises(ResultFailure) as failure:
        message.get_result()

    assert str(failure.value) == "actor raised SkipMessage: Message age limit exceeded"
    assert failure.value.orig_exc_type == "SkipMessage"
    assert failure.value.orig_exc_msg == "Message age limit exceeded"


def test_a_message_too_old_is_not_retried_and_calls_nobody_back(broker: Broker, drain: Callable[..., None]) -> None:
    told = []

    @localq.actor
    def tell(*args: Any) -> None:
        told.append(args)

    @localq.actor(max_age=1000, on_failure=tell, on_success=tell, on_retry_exhausted=tell)
    def work() -> None: ...

    broker.enqueue(aged(work, 60_000))
    drain(broker)

    assert told == []
    assert broker.get_queue_message_counts("default") == (0, 0, 1)


def test_the_age_counts_from_the_first_send_through_all_retries(
    broker: Broker, drain: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    now = current_millis()

    @localq.actor(max_age=1000, min_backoff=0, max_backoff=0)
    def work() -> None:
        runs.append(1)
        later = now + 400 * len(runs)
        monkeypatch.setattr(clock, "wall", lambda: later)
        raise RuntimeError

    monkeypatch.setattr(clock, "wall", lambda: now)
    work.send()
    drain(broker)

    assert len(runs) == 3
    (dead,) = broker.store.browse(Selection())
    assert dead.reason == "SkipMessage: Message age limit exceeded"
