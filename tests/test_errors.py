"""Errors: one tree, drawn where it grows."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

import localq
from localq import errors
from localq.errors import (
    ActorNotFound,
    BrokerConnectionError,
    BrokerError,
    DecodeError,
    DramatiqError,
    EncodeError,
    LocalqError,
    ResultFailure,
    Retry,
    SkipMessage,
    StoreBusy,
    text_of,
)

DRAWN = re.compile(r"^\s{4}(?P<branch>[│ ├└─]*)(?P<name>[A-Z]\w+)")
STEP = len("├── ")


def drawing() -> dict[str, str | None]:
    """Each error of the drawing in the module's docstring, and the one above it."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = DRAWN.match(line)
        if drawn:
            depth = len(drawn["branch"]) // STEP
            parents[drawn["name"]] = path[depth - 1] if depth else None
            path[depth:] = [drawn["name"]]
    return parents


def all_errors() -> dict[str, type[Exception]]:
    return {
        cls.__name__: cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, Exception) and cls.__module__ == errors.__name__
    }


def test_the_drawing_shows_every_error_and_no_other() -> None:
    assert drawing().keys() == all_errors().keys()


@pytest.mark.parametrize(("name", "parent"), drawing().items())
def test_the_drawing_shows_where_each_error_hangs(name: str, parent: str | None) -> None:
    error = all_errors()[name]
    assert error.__base__ is (all_errors()[parent] if parent else Exception)


@pytest.mark.parametrize("error", all_errors().values())
def test_each_error_says_what_it_means(error: type[Exception]) -> None:
    assert error.__doc__


@pytest.mark.parametrize("error", all_errors().values())
def test_each_error_is_raised_with_a_text_that_is_its_message(error: type[LocalqError]) -> None:
    raised = error("the disk is full; free some space")
    assert str(raised) == raised.message == "the disk is full; free some space"
    assert raised.args == ("the disk is full; free some space",)


@pytest.mark.parametrize("error", all_errors().values())
def test_each_error_passes_from_one_process_to_another_with_all_it_knows(error: type[LocalqError]) -> None:
    raised: Any = error("why")
    for name in vars(raised):
        setattr(raised, name, f"its {name}")
    for received in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
        assert type(received) is error
        assert vars(received) == vars(raised)


def test_an_encode_error_is_a_type_error_and_names_the_place() -> None:
    error = EncodeError("no", place='args[0]["when"]')
    assert isinstance(error, TypeError)
    assert error.place == 'args[0]["when"]'
    assert EncodeError("no").place == ""


def test_a_decode_error_keeps_the_bytes_and_the_cause() -> None:
    cause = ValueError("no")
    error = DecodeError("no message", b"\xff", cause)
    assert (error.message, error.data, error.error) == ("no message", b"\xff", cause)


def test_who_is_busy_is_known() -> None:
    assert StoreBusy("wait", holder=42).holder == 42
    assert StoreBusy("wait").holder is None


def test_a_result_failure_tells_the_type_and_the_text_of_what_was_raised() -> None:
    error = ResultFailure("it failed", orig_exc_type="ValueError", orig_exc_msg="no")
    assert (error.orig_exc_type, error.orig_exc_msg) == ("ValueError", "no")


def test_a_retry_may_name_its_delay() -> None:
    assert (Retry().delay, Retry().message) == (None, "")
    assert (Retry("later", delay=500).delay, Retry("later").message) == (500, "later")


def test_an_unknown_actor_is_named_and_nothing_else() -> None:
    assert str(ActorNotFound("mailer")) == "mailer"


def test_one_except_clause_catches_all() -> None:
    with pytest.raises(LocalqError):
        raise SkipMessage("not today")
    assert DramatiqError is LocalqError


def test_an_interrupt_is_no_error_that_a_task_could_catch() -> None:
    assert not issubclass(localq.middleware.Interrupt, Exception)
    assert issubclass(localq.middleware.Interrupt, BaseException)


def test_the_old_name_of_a_lost_connection_still_works_and_says_so() -> None:
    with pytest.warns(DeprecationWarning, match="BrokerConnectionError"):
        assert errors.ConnectionError is BrokerConnectionError
    with pytest.raises(AttributeError, match="Nonsense"):
        errors.Nonsense  # noqa: B018


def test_a_broker_error_is_not_pythons_own_connection_error() -> None:
    assert not issubclass(BrokerConnectionError, ConnectionError)
    assert issubclass(BrokerConnectionError, BrokerError)


@pytest.mark.parametrize(
    "name",
    ["LocalqError", "DramatiqError", "BrokerError", "DecodeError", "EncodeError", "ActorNotFound", "QueueNotFound",
     "QueueJoinTimeout", "BrokerConnectionError", "ConnectionClosed", "ConnectionFailed", "RateLimitExceeded",
     "Retry", "StoreError", "PoolError", "WorkerCrashed"],
)  # fmt: skip
def test_the_errors_that_users_catch_are_at_the_root(name: str) -> None:
    assert getattr(localq, name) is getattr(errors, name)
    assert name in localq.__all__


def test_the_errors_of_a_part_are_where_that_part_is() -> None:
    assert localq.results.ResultMissing is errors.ResultMissing
    assert localq.results.ResultTimeout is errors.ResultTimeout
    assert localq.results.ResultFailure is errors.ResultFailure
    assert localq.middleware.MiddlewareError is errors.MiddlewareError
    assert localq.middleware.SkipMessage is errors.SkipMessage


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_the_text_of_an_error_that_cannot_tell_it_is_a_word_about_that() -> None:
    assert text_of(ValueError("no")) == "no"
    assert text_of(KeyError("k")) == "'k'"
    assert "RuntimeError" in text_of(Mute())
