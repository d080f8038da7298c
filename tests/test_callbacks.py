"""Callbacks: who is told of a success, and of each failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import Broker, Message
from localq.store import Selection
from localq.store.base import DEAD

NOW = {"min_backoff": 0, "max_backoff": 0}


@pytest.fixture
def told() -> list[tuple[dict[str, Any], Any]]:
    """What the actors `succeeded` and `failed` were told, in turn."""
    return []


@pytest.fixture
def listening(broker: Broker, told: list[tuple[dict[str, Any], Any]]) -> Broker:
    """A broker with an actor for each of the two callbacks."""

    @localq.actor
    def succeeded(message: dict[str, Any], result: Any) -> None:
        told.append((message, result))

    @localq.actor
    def failed(message: dict[str, Any], exception: dict[str, str]) -> None:
        told.append((message, exception))

    return broker


def test_success_is_told_with_the_message_and_its_result(
    listening: Broker, told: list[Any], drain: Callable[..., None]
) -> None:
    @localq.actor(on_success="succeeded", on_failure="failed")
    def add(x: int, y: int) -> tuple[str, int]:
        return "sum", x + y

    sent = add.send(1, y=2)
    drain(listening)

    assert told == [(sent.asdict(), ("sum", 3))]


def test_failure_is_told_with_the_message_and_the_exception(
    listening: Broker, told: list[Any], drain: Callable[..., None]
) -> None:
    @localq.actor(on_success="succeeded", on_failure="failed", max_retries=0)
    def fail() -> None:
        raise ValueError("broken")

    sent = fail.send()
    drain(listening)

    ((message, exception),) = told
    assert exception == {"type": "ValueError", "message": "broken"}
    assert (message["message_id"], message["actor_name"]) == (sent.message_id, "fail")
    assert tuple(message) == Message._fields


def test_each_failed_attempt_is_told_with_its_retries_already_counted(
    listening: Broker, told: list[Any], drain: Callable[..., None]
) -> None:
    @localq.actor(on_failure="failed", max_retries=3, **NOW)
    def fail() -> None:
        raise RuntimeError("broken")

    fail.send()
    drain(listening, worker_threads=1)

    assert [message["options"]["retries"] for message, _ in told] == [1, 2, 3, 4]
    assert all(message["options"]["traceback"].endswith("RuntimeError: broken\n") for message, _ in told)


def test_success_after_retries_is_told_once(listening: Broker, told: list[Any], drain: Callable[..., None]) -> None:
    runs = []

    @localq.actor(on_success="succeeded", **NOW)
    def work() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError
        return len(runs)

    work.send()
    drain(listening)

    ((message, result),) = told
    assert result == 3
    assert message["options"]["retries"] == 2


def test_a_failure_that_was_expected_is_told_too(
    listening: Broker, told: list[Any], drain: Callable[..., None]
) -> None:
    @localq.actor(on_failure="failed", throws=KeyError)
    def fail() -> None:
        raise KeyError("known")

    fail.send()
    drain(listening)

    ((message, exception),) = told
    assert exception == {"type": "KeyError", "message": "'known'"}
    assert message["options"]["retries"] == 1


def test_an_actor_may_stand_for_its_name_on_actors_and_on_messages(
    listening: Broker, told: list[Any], drain: Callable[..., None]
) -> None:
    succeeded = listening.get_actor("succeeded")

    @localq.actor(on_success=succeeded)
    def one() -> int:
        return 1

    @localq.actor
    def two() -> int:
        return 2

    one.send()
    two.send_with_options(on_success=succeeded)
    two.send()
    drain(listening)

    assert sorted(result for _, result in told) == [1, 2]


def test_the_callback_of_a_message_wins_over_that_of_its_actor(
    listening: Broker, told: list[Any], drain: Callable[..., None]
) -> None:
    instead = []

    @localq.actor
    def special(message: dict[str, Any], result: Any) -> None:
        instead.append(result)

    @localq.actor(on_success="succeeded")
    def work() -> int:
        return 1

    work.send_with_options(on_success="special")
    drain(listening)

    assert (told, instead) == ([], [1])


def test_callbacks_may_have_callbacks_of_their_own(broker: Broker, drain: Callable[..., None]) -> None:
    told = []

    @localq.actor
    def third(message: dict[str, Any], result: Any) -> None:
        told.append((message["actor_name"], result))

    @localq.actor(on_success=third)
    def second(message: dict[str, Any], result: Any) -> int:
        return int(result) + 1

    @localq.actor(on_success=second)
    def first() -> int:
        return 1

    first.send()
    drain(broker)

    assert told == [("second", 2)]


def test_a_callback_that_nobody_declares_is_logged_and_the_message_is_done(
    broker: Broker, drain: Callable[..., None], logged: Callable[[int], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    ran = []

    @localq.actor(on_success="nobody")
    def work() -> None:
        ran.append(1)

    work.send()
    drain(broker)

    assert ran == [1]
    assert broker.store.counts() == {}
    assert len(logged(logging.CRITICAL)) == 1
    assert "nobody" in caplog.text


def test_a_result_that_cannot_be_sent_on_is_logged_and_the_message_is_done(
    listening: Broker, told: list[Any], drain: Callable[..., None], logged: Callable[[int], list[str]]
) -> None:
    @localq.actor(on_success="succeeded")
    def work() -> object:
        return object()

    work.send()
    drain(listening)

    assert told == []
    assert listening.store.counts() == {}
    assert len(logged(logging.CRITICAL)) == 1


def test_a_dead_letter_and_its_callback_come_together(broker: Broker, start_worker: Callable[..., Any]) -> None:
    seen = []

    @localq.actor
    def failed(message: dict[str, Any], exception: Any) -> None:
        seen.append(broker.store.browse(Selection(states=[DEAD], message_ids=[message["message_id"]])))

    @localq.actor(on_failure=failed, max_retries=0)
    def fail() -> None:
        raise RuntimeError

    for _ in range(20):
        fail.send()
    start_worker(broker, worker_threads=4)
    broker.join("default", timeout=20_000)

    assert [len(dead) for dead in seen] == [1] * 20
