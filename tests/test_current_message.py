"""The message that an actor runs for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import localq
from localq import Broker, MessageProxy, Middleware
from localq.middleware import CurrentMessage, SkipMessage


@pytest.fixture
def broker(broker: Broker) -> Broker:
    broker.add_middleware(CurrentMessage())
    return broker


def test_an_actor_can_ask_for_it(broker: Broker, drain: Callable[..., None]) -> None:
    seen: list[Any] = []

    @localq.actor
    def act() -> None:
        seen.append(CurrentMessage.get_current_message())

    message = act.send_with_options(time_limit=1234)
    drain(broker)

    (found,) = seen
    assert isinstance(found, MessageProxy)
    assert found._message == message
    assert found.options["time_limit"] == 1234


def test_elsewhere_there_is_none(broker: Broker, drain: Callable[..., None]) -> None:
    seen: list[Any] = []

    @localq.actor
    def act() -> None:
        other = threading.Thread(target=lambda: seen.append(CurrentMessage.get_current_message()))
        other.start()
        other.join()

    act.send()
    drain(broker)
    assert seen == [None]
    assert CurrentMessage.get_current_message() is None
    act.fn()
    assert seen == [None, None]


@pytest.mark.parametrize("how", ["succeed", "fail", "be skipped"])
def test_there_is_none_any_more_when_it_has_ended(broker: Broker, drain: Callable[..., None], how: str) -> None:
    seen: list[Any] = []

    class Skips(Middleware):
        def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
            if how == "be skipped":
                raise SkipMessage("not today")

        def after_ack(self, broker: Broker, message: MessageProxy) -> None:
            seen.append(CurrentMessage.get_current_message())

        after_nack = after_ack

    broker.add_middleware(Skips())

    @localq.actor(max_retries=0)
    def act() -> None:
        if how == "fail":
            raise RuntimeError("no")

    act.send()
    drain(broker, worker_threads=1)
    assert seen == [None]


def test_a_test_that_runs_an_actor_itself_can_set_it() -> None:
    message = localq.Message[Any]("default", "act", (), {}, {})
    token = CurrentMessage._MESSAGE.set(message)
    assert CurrentMessage.get_current_message() is message
    CurrentMessage._MESSAGE.reset(token)
    assert CurrentMessage.get_current_message() is None


def test_each_thread_has_its_own(broker: Broker, drain: Callable[..., None]) -> None:
    together = threading.Barrier(3)
    seen: list[Any] = []

    @localq.actor
    def act(number: int) -> None:
        together.wait(20)
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append((number, *message.args))

    for number in range(3):
        act.send(number)
    drain(broker, worker_threads=3)
    assert sorted(seen) == [(0, 0), (1, 1), (2, 2)]
