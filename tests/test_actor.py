"""Actors: how they are declared, what they look like, and what they send."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

import localq
from localq import Actor, Broker, EncodeError, Message, Middleware

P = ParamSpec("P")
R = TypeVar("R")


@pytest.fixture
def url() -> str:
    return "memory://"


class Colours(Middleware):
    @property
    def actor_options(self) -> set[str]:
        return {"colour"}


# -- declaring


def test_the_decorator_works_bare(broker: Broker) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    assert isinstance(add, Actor)
    assert (add.actor_name, add.queue_name, add.priority, add.options) == ("add", "default", 0, {})
    assert broker.get_actor("add") is add


def test_the_decorator_works_with_empty_brackets(broker: Broker) -> None:
    @localq.actor()
    def add(x: int, y: int) -> int:
        return x + y

    assert isinstance(add, Actor)
    assert broker.get_actor("add") is add


def test_the_decorator_works_with_options(broker: Broker) -> None:
    @localq.actor(actor_name="plus", queue_name="sums", priority=3, max_retries=7)
    def add(x: int, y: int) -> int:
        return x + y

    assert (add.actor_name, add.queue_name, add.priority) == ("plus", "sums", 3)
    assert add.options == {"max_retries": 7}
    assert broker.get_declared_actors() == {"plus"}
    assert broker.get_declared_queues() == {"sums"}
    assert broker.get_declared_delay_queues() == {"sums.DQ"}


def test_an_actor_belongs_to_the_broker_that_it_names(broker: Broker, make_broker: Callable[..., Broker]) -> None:
    other = make_broker("memory://")

    @localq.actor(broker=other)
    def add() -> None: ...

    assert add.broker is other
    assert other.get_declared_actors() == {"add"}
    assert broker.get_declared_actors() == set()


def test_two_functions_declared_by_one_decorator_do_not_share_their_options(broker: Broker) -> None:
    patient = localq.actor(max_retries=7)

    def first() -> None: ...
    def second() -> None: ...

    one, two = patient(first), patient(second)
    one.options["max_retries"] = 0

    assert two.options == {"max_retries": 7}


@pytest.mark.parametrize("name", ["a", "_", "_private", "a1", "mail.bulk", "mail-bulk", "Mail_Bulk.v2-x"])
def test_a_queue_name_is_made_of_letters_digits_dots_dashes_and_underscores(broker: Broker, name: str) -> None:
    @localq.actor(queue_name=name)
    def work() -> None: ...

    assert work.queue_name == name


@pytest.mark.parametrize("name", ["", "1a", "-a", ".a", "a b", "a$", "a/b", "a\n", "\na", "ä", "$a"])
def test_another_queue_name_is_refused_and_nothing_is_declared(broker: Broker, name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits, dots, dashes and underscores") as refusal:

        @localq.actor(queue_name=name)
        def work() -> None: ...

    assert repr(name) in str(refusal.value)
    assert broker.get_declared_actors() == set()
    assert broker.get_declared_queues() == set()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("max_retries", "three", "max_retries is a whole number, not 'three'"),
        ("max_retries", True, "max_retries is a whole number, not True"),
        ("time_limit", timedelta(seconds=1), "time_limit is a number of milliseconds"),
        ("max_age", "1h", "max_age is a number of milliseconds, not '1h'"),
        ("min_backoff", [1], "min_backoff is a number of milliseconds, not [1]"),
        ("priority", "high", "priority is a whole number, not 'high'"),
        ("throws", "ValueError", "throws is a class of exceptions or a tuple of them, not 'ValueError'"),
        ("throws", (ValueError, 3), "throws is a class of exceptions or a tuple of them"),
        ("retry_when", 3, "retry_when is a function of the retries so far and the exception, not 3"),
        ("on_failure", 3, "on_failure is an actor, its name or None, not 3"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_where_it_is_given(
    broker: Broker, option: str, value: Any, says: str
) -> None:
    @localq.actor
    def work() -> None: ...

    with pytest.raises(TypeError) as refusal:
        localq.actor(**{"actor_name": "other", option: value})(lambda: None)
    assert says in str(refusal.value)
    assert broker.get_declared_actors() == {"work"}

    with pytest.raises(TypeError) as refusal:
        work.send_with_options(**{option: value})
    assert says in str(refusal.value)


def test_arguments_by_name_are_a_dict(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    with pytest.raises(TypeError, match="kwargs is a dict of arguments by name, not 3"):
        work.send_with_options(kwargs=3)  # type: ignore[arg-type]


def test_what_is_no_function_and_what_is_no_name_make_no_actor(broker: Broker) -> None:
    with pytest.raises(TypeError, match="made of a function, not of 3"):
        localq.actor(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="name of an actor is a string, not 3"):
        localq.actor(actor_name=3)(lambda: None)  # type: ignore[call-overload]
    assert broker.get_declared_actors() == set()


def test_options_of_a_message_that_nobody_knows_are_kept_and_warned_of_once(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    @localq.actor
    def work() -> None: ...

    @localq.actor
    def other() -> None: ...

    known = {"max_retries": 1, "priority": 3, "eta": None, "pipe_ignore": True}
    assert work.send_with_options(**known).options == {"max_retries": 1, "priority": 3, "pipe_ignore": True}
    assert caplog.messages == []

    assert work.send_with_options(max_retires=3, colour="red").options == {"max_retires": 3, "colour": "red"}
    work.send_with_options(max_retires=3)
    other.send_with_options(shade=1)

    of_work, of_other = caplog.messages
    for part in ("Actor(work)", "'max_retires' (did you mean 'max_retries'?)", "'colour'"):
        assert part in of_work
    assert "Actor(other)" in of_other


def test_an_option_that_no_middleware_knows_is_refused_with_a_hint(broker: Broker) -> None:
    with pytest.raises(ValueError, match="no middleware") as refusal:

        @localq.actor(max_retires=3, colour="red")
        def work() -> None: ...

    for part in ("'work'", "'max_retires' (did you mean 'max_retries'?)", "'colour'"):
        assert part in str(refusal.value)
    assert broker.get_declared_actors() == set()


def test_an_option_of_added_middleware_is_accepted(broker: Broker) -> None:
    broker.add_middleware(Colours())

    @localq.actor(colour="red")
    def work() -> None: ...

    assert work.options == {"colour": "red"}


def test_a_second_actor_of_one_name_is_refused(broker: Broker) -> None:
    @localq.actor
    def foo() -> int:
        return 1

    with pytest.raises(ValueError, match="foo") as refusal:
        localq.actor(lambda: 2, actor_name="foo")

    assert type(refusal.value) is ValueError
    assert str(refusal.value) == "An actor named 'foo' is already registered."
    assert broker.get_actor("foo") is foo


def test_so_is_one_that_is_made_without_the_decorator(broker: Broker) -> None:
    def make() -> localq.Actor[[], int]:
        return localq.Actor(
            lambda: 1, broker=broker, actor_name="foo", queue_name="default", priority=0, options={}
        )

    first = make()
    with pytest.raises(ValueError, match="'foo' is already registered"):
        make()
    assert broker.get_actor("foo") is first


def test_the_actor_class_is_called_with_the_function_and_keywords(broker: Broker) -> None:
    calls = []

    def make(*args: Any, **kwargs: Any) -> str:
        calls.append((args, kwargs))
        return "made"

    def work() -> None: ...

    made = localq.actor(work, actor_class=make, queue_name="q", priority=2, max_retries=1)

    assert made == "made"
    keywords = {"actor_name": "work", "queue_name": "q", "priority": 2, "broker": broker}
    assert calls == [((work,), {**keywords, "options": {"max_retries": 1}})]


def test_a_generic_subclass_of_actor_can_be_the_actor_class(broker: Broker) -> None:
    class Loud(localq.Actor[P, R]):
        def shout(self) -> str:
            return self.actor_name.upper()

    @localq.actor(actor_class=Loud)
    def work() -> int:
        return 1

    assert isinstance(work, Loud)
    assert work.shout() == "WORK"
    assert work() == 1


# -- what an actor looks like


def test_the_attributes_of_an_actor_are_in_its_dict(broker: Broker) -> None:
    def fn() -> None: ...

    work = localq.actor(fn, actor_name="work", queue_name="q", priority=4, max_age=9)

    values = {
        name: vars(work)[name] for name in ("fn", "broker", "actor_name", "queue_name", "priority", "options")
    }
    assert values == {
        "fn": fn,
        "broker": broker,
        "actor_name": "work",
        "queue_name": "q",
        "priority": 4,
        "options": {"max_age": 9},
    }
    assert "%(actor_name)s on %(queue_name)s" % vars(work) == "work on q"  # noqa: UP031
    assert "{actor_name}: {logger.name}".format(**vars(work)) == f"work: {__name__}.work"


def test_str_names_the_actor_and_repr_tells_more(broker: Broker) -> None:
    def fn() -> None: ...

    test = localq.actor(fn, actor_name="test")

    assert str(test) == "Actor(test)"
    assert repr(test) == f"Actor({fn!r}, queue_name='default', actor_name='test')"


def test_its_logger_is_named_after_module_and_actor(broker: Broker) -> None:
    def fn() -> None: ...

    assert localq.actor(fn, actor_name="named").logger.name == f"{__name__}.named"


def test_its_logger_stands_under_an_underscore_when_the_function_has_no_module(broker: Broker) -> None:
    def fn() -> None: ...

    fn.__module__ = None  # type: ignore[assignment]

    assert localq.actor(fn, actor_name="homeless").logger.name == "_.homeless"


# -- calling


def test_calling_an_actor_runs_its_function_here(broker: Broker) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    assert add(1, y=2) == 3
    assert broker.store.counts() == {}


def test_what_the_function_raises_reaches_the_caller(broker: Broker) -> None:
    @localq.actor
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        fail()


def test_the_function_of_an_actor_can_be_replaced(broker: Broker) -> None:
    @localq.actor
    def one() -> int:
        return 1

    one.fn = lambda: 2

    assert one() == 2


def test_a_call_is_logged_at_debug(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    with caplog.at_level(logging.DEBUG):
        add(1, y=2)

    lines = [(r.levelname, r.name, r.msg) for r in caplog.records]
    assert lines == [
        ("DEBUG", f"{__name__}.add", "Received args=%r kwargs=%r."),
        ("DEBUG", f"{__name__}.add", "Completed after %.02fms."),
    ]
    assert caplog.records[0].getMessage() == "Received args=(1,) kwargs={'y': 2}."


# -- messages


def test_a_message_carries_what_the_actor_is_to_be_called_with(broker: Broker) -> None:
    @localq.actor(queue_name="sums")
    def add(x: int, y: int) -> int:
        return x + y

    message = add.message(1, y=2)

    assert isinstance(message, Message)
    assert (message.queue_name, message.actor_name) == ("sums", "add")
    assert (message.args, message.kwargs, message.options) == ((1,), {"y": 2}, {})
    assert broker.store.counts() == {}


def test_args_may_be_a_list(broker: Broker) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    assert add.message_with_options(args=[1, 2]).args == (1, 2)
    assert add.send_with_options(args=[1, 2]).args == (1, 2)


def test_a_message_with_options_has_no_arguments_by_default(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    message = work.message_with_options(max_retries=3, of_my_own="x")

    assert (message.args, message.kwargs) == ((), {})
    assert message.options == {"max_retries": 3, "of_my_own": "x"}


def test_two_messages_do_not_share_what_can_be_changed(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    one, two = work.message(), work.message()

    assert one.options is not two.options
    assert one.kwargs is not two.kwargs
    assert one.message_id != two.message_id


CALLBACKS = ["on_success", "on_failure", "on_retry_exhausted"]


@pytest.mark.parametrize("option", CALLBACKS)
def test_a_callback_option_turns_an_actor_into_its_name(broker: Broker, option: str) -> None:
    @localq.actor
    def told(*args: Any) -> None: ...

    @localq.actor(**{option: told})
    def work() -> None: ...

    assert work.options == {option: "told"}
    assert work.message_with_options(**{option: told}).options == {option: "told"}


@pytest.mark.parametrize("option", CALLBACKS)
@pytest.mark.parametrize("given", ["told", None])
def test_a_callback_option_may_be_a_name_or_none(broker: Broker, option: str, given: str | None) -> None:
    @localq.actor(**{option: given})
    def work() -> None: ...

    assert work.options == {option: given}
    assert work.message_with_options(**{option: given}).options == {option: given}
    assert work.send_with_options(**{option: given}).options == {option: given}


@pytest.mark.parametrize("option", CALLBACKS)
@pytest.mark.parametrize("given", [1, b"told", lambda: None, ["told"]])
def test_any_other_callback_is_refused_when_the_message_is_built(broker: Broker, option: str, given: Any) -> None:
    @localq.actor
    def work() -> None: ...

    with pytest.raises(TypeError, match=option):
        work.message_with_options(**{option: given})
    with pytest.raises(TypeError, match=option):
        work.send_with_options(**{option: given})
    with pytest.raises(TypeError, match=option):
        localq.actor(lambda: None, actor_name="other", **{option: given})
    assert broker.store.counts() == {}


# -- sending


def test_send_returns_the_message_that_was_stored(broker: Broker) -> None:
    @localq.actor
    def add(x: int, y: int) -> int:
        return x + y

    sent = add.send(1, y=2)

    (stored,) = broker.store.browse(localq.store.Selection())
    assert Message.decode(stored.body) == sent
    assert broker.get_queue_message_counts("default") == (1, 0, 0)


@pytest.mark.parametrize("delay", [60_000, timedelta(minutes=1), timedelta(milliseconds=60_000.4)])
def test_a_delay_is_milliseconds_or_a_timedelta(broker: Broker, delay: Any) -> None:
    @localq.actor
    def work() -> None: ...

    before = time.time_ns() // 1_000_000
    message = work.send_with_options(delay=delay)
    after = time.time_ns() // 1_000_000

    assert before + 60_000 <= message.options["eta"] <= after + 60_000
    assert broker.get_queue_message_counts("default") == (0, 1, 0)


@pytest.mark.parametrize("delay", [0, timedelta(0), -5, None])
def test_a_message_without_a_delay_is_ready_at_once(broker: Broker, delay: Any) -> None:
    @localq.actor
    def work() -> None: ...

    work.send_with_options(delay=delay)

    assert broker.get_queue_message_counts("default") == (1, 0, 0)


def test_a_delay_that_is_no_number_is_refused_in_the_caller(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    with pytest.raises(TypeError, match="delay is a whole number, not 'soon'"):
        work.send_with_options(delay="soon")  # type: ignore[arg-type]
    assert broker.store.counts() == {}


def test_a_priority_that_is_no_number_is_refused_in_the_caller(broker: Broker) -> None:
    @localq.actor
    def work() -> None: ...

    with pytest.raises(TypeError, match="priority is a whole number, not 'high'"):
        work.send_with_options(priority="high")
    assert broker.store.counts() == {}


class Unknown: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ((Unknown(),), {}, "args[0]"),
        (({"when": Unknown()},), {}, 'args[0]["when"]'),
        ((), {"deep": [1, (2, Unknown())]}, 'kwargs["deep"][1][1]'),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_the_caller_with_its_place(
    broker: Broker, args: Any, kwargs: Any, place: str
) -> None:
    @localq.actor
    def work(*args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(EncodeError) as refusal:
        work.send(*args, **kwargs)

    assert refusal.value.place == place
    assert f"{place}: " in str(refusal.value)
    assert "Unknown" in str(refusal.value)
    assert isinstance(refusal.value, TypeError)
    assert broker.store.counts() == {}


# -- type checkers

CHECKED = """
from typing import TypeVar
from typing_extensions import ParamSpec, assert_type
import localq

P = ParamSpec("P")
R = TypeVar("R")

class Mine(localq.Actor[P, R]): ...

@localq.actor
def bare(x: int) -> str: return ""

@localq.actor()
def called(x: int) -> str: return ""

@localq.actor(actor_class=Mine, max_retries=3)
def classed(x: int) -> str: return ""

@localq.actor
async def bare_async(x: int) -> str: return ""

@localq.actor()
async def called_async(x: int) -> str: return ""

@localq.actor(actor_class=Mine)
async def classed_async(x: int) -> str: return ""

assert_type(bare(1), str)
assert_type(called(1), str)
assert_type(classed(1), str)
assert_type(bare_async(1), str)
assert_type(called_async(1), str)
assert_type(classed_async(1), str)
assert_type(bare.send(1), localq.Message[str])
assert_type(bare.message(x=1).get_result(), str)
assert_type(bare.fn(1), str)
bare("one")  # error: arg-type
bare.send(1, 2)  # error: call-arg
"""


def test_a_type_checker_sees_the_plain_result_of_sync_and_async_actors(tmp_path: Path) -> None:
    (tmp_path / "checked.py").write_text(CHECKED)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\nshow_error_codes = true\n")

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--config-file", "mypy.ini", "checked.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(localq.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
    )

    found = [
        (line.split(":")[1], line[line.rindex("[") :]) for line in checked.stdout.splitlines() if ": error:" in line
    ]
    lines = CHECKED.splitlines()
    wanted = [
        (str(number), f"[{line.partition('# error: ')[2]}]")
        for number, line in enumerate(lines, 1)
        if "# error: " in line
    ]
    assert found == wanted, checked.stdout + checked.stderr


# -- pickling


@localq.actor(broker=Broker(url="memory://"))
def importable() -> None: ...


@localq.actor(broker=Broker(url="memory://"))
async def importable_coroutine() -> None: ...


class Importable(localq.GenericActor):
    class Meta:
        broker = Broker(url="memory://")


@pytest.mark.parametrize("actor", [importable, importable_coroutine, Importable.__actor__], ids=str)
def test_send_is_pickled_by_reference_where_the_actor_can_be_imported(actor: Any) -> None:
    pickled = pickle.dumps(actor.send)

    assert len(pickled) < 200
    assert pickle.loads(pickled).__self__ is actor


def test_an_actor_that_cannot_be_imported_can_be_copied(broker: Broker) -> None:
    work = localq.actor(lambda: 42, actor_name="work")

    assert copy.copy(work) is not work
    assert copy.copy(work)() == 42


def test_what_a_subclass_adds_to_sending_with_options_is_added_to_every_send(broker: Broker) -> None:
    class Urgent(localq.Actor[Any, Any]):
        def send_with_options(self, **options: Any) -> Message[Any]:
            return super().send_with_options(**{"priority": -1, **options})

    @localq.actor(actor_class=Urgent)
    def work(x: int) -> None: ...

    assert work.send(1).options == {"priority": -1}
