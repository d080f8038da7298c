"""Actors that are classes, and the small functions of `localq.common`."""

from __future__ import annotations

import queue
from typing import Any

import pytest

import localq
from localq import common
from localq.brokers.stub import StubBroker


@pytest.fixture(autouse=True)
def stub() -> StubBroker:
    broker = StubBroker()
    localq.set_broker(broker)
    return broker


def test_a_class_becomes_an_actor_that_runs_its_perform(stub: StubBroker) -> None:
    class Add(localq.GenericActor):
        kind = "sum"

        def perform(self, x: int, y: int) -> int:
            """Add them."""
            return x + y

    assert isinstance(Add.__actor__, localq.Actor)
    assert Add(1, 2) == 3
    assert Add.actor_name == Add.__name__ == "Add"
    assert Add.kind == "sum"
    assert stub.get_actor("Add") is Add.__actor__
    assert Add.send(1, 2) == localq.Message.decode(stub.queues["default"].get())


def test_meta_holds_the_options_of_the_actor(stub: StubBroker) -> None:
    class Task(localq.GenericActor):
        class Meta:
            queue_name = "tasks"
            max_retries = 32

        def perform(self) -> None: ...

    assert Task.queue_name == "tasks"
    assert Task.options == {"max_retries": 32}


def test_its_actor_may_be_a_stand_in_that_is_not_ready(stub: StubBroker) -> None:
    class Later:
        def __init__(self, fn: Any) -> None:
            self.fn = fn

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name) if name.startswith("_") else RuntimeError("not ready")

    class Add(localq.GenericActor):
        class Meta:
            actor = Later

        def perform(self, x: int, y: int) -> int:
            return x + y

    declared = localq.actor(Add.fn, actor_name="add")

    assert declared(1, 2) == 3


def test_an_abstract_class_stays_one_and_hands_its_meta_down(stub: StubBroker) -> None:
    class Base(localq.GenericActor):
        class Meta:
            abstract = True
            queue_name = "tasks"
            max_retries = 20

        def name(self) -> str:
            raise NotImplementedError

        def perform(self) -> str:
            return self.name()

    class One(Base):
        def name(self) -> str:
            return "one"

    class Two(Base):
        def name(self) -> str:
            return "two"

    assert not isinstance(Base, localq.Actor)
    assert not hasattr(Base, "__actor__")
    assert stub.get_declared_actors() == {"One", "Two"}
    assert One.queue_name == Base.Meta.queue_name == "tasks"
    assert (One(), Two()) == ("one", "two")


def test_meta_may_bring_a_factory_that_is_called_with_the_instance_alone() -> None:
    calls: list[Any] = []

    def factory(*args: Any, **kwargs: Any) -> str:
        calls.append((args, kwargs))
        return "an actor"

    class Task(localq.GenericActor):
        class Meta:
            actor = factory

        def perform(self) -> None: ...

    assert Task.__actor__ == "an actor"
    assert calls == [((Task,), {})]


def test_an_actor_without_perform_says_so_whatever_it_is_called_with() -> None:
    class Foo(localq.GenericActor):
        pass

    with pytest.raises(NotImplementedError, match=r"Foo does not implement perform\(\)"):
        Foo(1, bar=2)


def test_wrong_arguments_are_told_as_by_python() -> None:
    class Foo(localq.GenericActor):
        def perform(self) -> None: ...

    with pytest.raises(TypeError, match=r"\.Foo\.perform\(\) got an unexpected keyword argument 'bar'"):
        Foo(bar=1)


def test_what_a_generic_actor_lacks_is_an_attribute_error() -> None:
    class Foo(localq.GenericActor):
        def perform(self) -> None: ...

    with pytest.raises(AttributeError, match="missing_property"):
        _ = localq.GenericActor.missing_property  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="missing_property"):
        _ = Foo.missing_property


@pytest.mark.parametrize("given", ["mail", "mail.DQ", "mail.XQ"])
def test_each_form_of_a_queues_name_can_be_made_of_the_others(given: str) -> None:
    forms = common.q_name(given), common.dq_name(given), common.xq_name(given)
    assert forms == ("mail", "mail.DQ", "mail.XQ")


def test_a_queue_can_be_emptied_and_joined() -> None:
    source: queue.Queue[int] = queue.Queue()
    for number in range(3):
        source.put(number)

    assert list(common.iter_queue(source)) == [0, 1, 2]
    with pytest.raises(localq.QueueJoinTimeout):
        common.join_queue(source, timeout=0.01)
    for _ in range(3):
        source.task_done()
    common.join_queue(source, timeout=0.01)


def test_threads_are_joined_for_so_long_in_all() -> None:
    waits = []

    class Joinable:
        def join(self, timeout: float) -> None:
            waits.append(timeout)

    common.join_all([Joinable(), Joinable()], 1000)

    assert all(0 < wait <= 1 for wait in waits)


def test_the_environment_gives_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert common.getenv_int("no_such_variable") is None
    monkeypatch.setenv("such_a_variable", "12")
    assert common.getenv_int("such_a_variable") == 12
    monkeypatch.setenv("such_a_variable", "many")
    with pytest.raises(ValueError, match=r"such_a_variable.*'many'"):
        common.getenv_int("such_a_variable")


@pytest.mark.parametrize("module", [localq, localq.errors])
def test_the_old_name_of_the_connection_error_still_resolves(module: Any) -> None:
    with pytest.warns(DeprecationWarning, match="BrokerConnectionError"):
        assert module.ConnectionError is localq.BrokerConnectionError
