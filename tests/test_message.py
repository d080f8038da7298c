"""Messages: data that never changes, and their way into bytes and back."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import pytest

import localq
from localq import (
    Broker,
    DecodeError,
    EncodeError,
    Encoder,
    JSONEncoder,
    Message,
    MsgpackEncoder,
    PickleEncoder,
    pipeline,
)
from localq.errors import ResultMissing

FIELDS = ("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp")


@pytest.fixture
def url() -> str:
    return "memory://"


def make(**fields: Any) -> Message[Any]:
    given = {"queue_name": "default", "actor_name": "add", "args": (1, 2), "kwargs": {}, "options": {}}
    return Message(**{**given, **fields})


# -- fields


def test_a_message_gets_an_id_and_a_timestamp_of_its_own() -> None:
    before = datetime.now(timezone.utc)
    one, two = make(), make()
    after = datetime.now(timezone.utc)

    assert str(UUID(one.message_id)) == one.message_id
    assert one.message_id != two.message_id
    assert type(one.message_timestamp) is int
    assert int(before.timestamp() * 1000) <= one.message_timestamp <= after.timestamp() * 1000


def test_ids_are_uuids_that_do_not_repeat_and_begin_with_the_time() -> None:
    messages = [make() for _ in range(1000)]

    ids = [UUID(message.message_id) for message in messages]
    assert len(set(ids)) == 1000
    assert {(each.version, each.variant) for each in ids} == {(7, RFC_4122)}
    assert all(abs((each.int >> 80) - m.message_timestamp) < 1000 for each, m in zip(ids, messages, strict=True))


def test_fields_can_be_given_by_position_in_their_order() -> None:
    message: Message[int] = Message("q", "a", (1,), {"k": 2}, {"o": 3}, "id", 5)

    assert [getattr(message, name) for name in FIELDS] == ["q", "a", (1,), {"k": 2}, {"o": 3}, "id", 5]


@pytest.mark.parametrize("name", FIELDS)
def test_no_field_can_be_changed(name: str) -> None:
    message = make()

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(message, name, "x")


@pytest.mark.parametrize("given", [[1, 2], (1, 2), range(1, 3)])
def test_args_always_become_a_tuple(given: Any) -> None:
    assert make(args=given).args == (1, 2)
    assert make().copy(args=given).args == (1, 2)
    assert make()._replace(args=given).args == (1, 2)


def test_ids_that_are_no_strings_and_timestamps_that_are_floats_are_accepted() -> None:
    message = make(message_id=42, message_timestamp=1000.5)

    assert Message.decode(message.encode()) == message
    assert message.message_datetime == datetime.fromtimestamp(1.0005, timezone.utc)


def test_a_message_can_be_named_with_the_type_of_its_result() -> None:
    assert Message[int]("q", "a", (), {}, {}).queue_name == "q"


# -- comparing


def test_messages_are_equal_when_all_fields_are() -> None:
    message = make(message_id="x", message_timestamp=1)

    assert message == make(message_id="x", message_timestamp=1)
    assert message != make(message_id="y", message_timestamp=1)
    assert message != make(message_id="x", message_timestamp=1, args=(1, 3))
    assert message != dataclasses.astuple(message)


def test_messages_are_ordered_by_their_fields() -> None:
    messages = [make(queue_name=queue, args=(n,), message_id=str(n)) for queue in "ab" for n in range(10)]
    mixed = random.Random(1).sample(messages, len(messages))

    assert sorted(mixed) == messages
    assert messages[0] < messages[1] <= messages[2]


# -- copying


def test_a_copy_has_the_fields_that_are_given_and_the_others_as_they_were() -> None:
    message = make()

    copy = message.copy(args=(9,), queue_name="other")

    assert (copy.args, copy.queue_name) == ((9,), "other")
    assert (copy.message_id, copy.message_timestamp) == (message.message_id, message.message_timestamp)
    assert (message.args, message.queue_name) == ((1, 2), "default")


def test_a_copy_merges_options_over_the_old_ones() -> None:
    message = make(options={"a": 1, "b": 2})

    copy = message.copy(options={"b": 3, "c": 4})

    assert copy.options == {"a": 1, "b": 3, "c": 4}
    assert message.options == {"a": 1, "b": 2}


def test_replace_puts_options_in_the_place_of_the_old_ones() -> None:
    message = make(options={"a": 1})

    replaced = message._replace(options={"b": 2}, actor_name="other")

    assert (replaced.options, replaced.actor_name) == ({"b": 2}, "other")
    assert message.options == {"a": 1}


# -- as a dict, and as what it was before it was a class


def test_asdict_has_all_fields_in_order_and_the_very_same_options() -> None:
    message = make(options={"a": 1})

    fields = message.asdict()

    assert tuple(fields) == FIELDS
    assert fields == {name: getattr(message, name) for name in FIELDS}
    assert fields["options"] is message.options
    assert Message(**fields) == message


def test_what_named_tuples_have_is_there() -> None:
    message = make()

    assert message._asdict() == message.asdict()
    assert message._fields == Message._fields == FIELDS
    assert message._field_defaults == {}
    assert message._replace() == message


# -- showing


def test_str_is_the_call_that_it_stands_for() -> None:
    assert str(make(args=(1, "two"), kwargs={"x": 3, "y": None})) == "add(1, 'two', x=3, y=None)"
    assert str(make(args=())) == "add()"


@pytest.mark.parametrize("timestamp", [0, 1, 999, 1_000, 1_700_000_000_001, 1_700_000_000_999, 4_102_444_799_123])
def test_its_datetime_is_in_utc_and_exact_to_the_millisecond(timestamp: int) -> None:
    moment = make(message_timestamp=timestamp).message_datetime

    assert moment.tzinfo is timezone.utc
    assert moment.timestamp() == timestamp / 1000
    assert moment.microsecond == timestamp % 1000 * 1000


# -- bytes


@pytest.mark.parametrize("encoder", [MsgpackEncoder(), PickleEncoder()])
def test_what_was_encoded_is_decoded_to_an_equal_message(encoder: Encoder) -> None:
    localq.set_encoder(encoder)
    message = make(
        args=((1, 2), {3}, b"x", uuid4()), kwargs={"when": datetime.now(timezone.utc)}, options={"o": None}
    )

    data = message.encode()

    assert type(data) is bytes
    assert Message.decode(data) == message


def test_under_json_tuples_among_the_arguments_become_lists() -> None:
    localq.set_encoder(JSONEncoder())
    message = make(args=((1, 2),))

    assert message.encode().startswith(b'{"queue_name":"default","actor_name":"add","args":[[1,2]],')
    assert Message.decode(message.encode()).args == ([1, 2],)


def test_msgpack_is_the_encoder_when_none_was_set() -> None:
    assert type(localq.get_encoder()) is MsgpackEncoder
    assert localq.get_encoder() is localq.get_encoder()


def test_the_encoder_is_looked_up_at_each_call() -> None:
    message = make(args=(1,))
    as_msgpack = message.encode()
    encoder = JSONEncoder()

    localq.set_encoder(encoder)

    assert localq.get_encoder() is encoder
    assert message.encode().startswith(b"{")
    with pytest.raises(DecodeError):
        Message.decode(as_msgpack)


class Refusing(Encoder):
    """Raises something of its own on every decode."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, data: dict[str, Any]) -> bytes:
        return b"x"

    def decode(self, data: bytes) -> dict[str, Any]:
        raise self.error


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("y"), RecursionError("z"), MemoryError()])
def test_whatever_an_encoder_raises_becomes_a_decode_error(error: Exception) -> None:
    localq.set_encoder(Refusing(error))

    with pytest.raises(DecodeError) as refusal:
        Message.decode(b"data")

    assert (refusal.value.data, refusal.value.error) == (b"data", error)
    assert refusal.value.__cause__ is error


GOOD = make(message_id="x", message_timestamp=1).asdict()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {name: value for name, value in GOOD.items() if name != "args"},
        {**GOOD, "unknown_field": 1},
        {**GOOD, "args": None},
        {**GOOD, "args": 5},
    ],
)
def test_fields_that_make_no_message_are_a_decode_error(fields: dict[str, Any]) -> None:
    data = MsgpackEncoder().encode(fields)

    with pytest.raises(DecodeError) as refusal:
        Message.decode(data)

    assert refusal.value.data == data


@pytest.mark.parametrize("data", [b"", b"\0", b"garbage", b"\xc1", b"\x91\x01", make().encode()[:-3]])
def test_bytes_that_are_no_message_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Message.decode(data)


@pytest.mark.parametrize(
    "field",
    [
        {"options": None},
        {"options": []},
        {"kwargs": None},
        {"kwargs": [1]},
    ],
)
def test_fields_of_a_wrong_type_are_a_decode_error(field: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        Message.decode(MsgpackEncoder().encode({**GOOD, **field}))


def test_a_message_of_a_newer_layout_is_refused_with_the_remedy() -> None:
    data = make().encode()

    with pytest.raises(DecodeError, match=r"newer localq .*layout 2.*upgrade"):
        Message.decode_stored(data, "msgpack", 2)


def test_messages_of_the_other_built_in_encoder_stay_readable() -> None:
    message = make(args=("a",))
    data = JSONEncoder().encode(message.asdict())

    assert Message.decode_stored(data, "json", 1) == message
    localq.set_encoder(JSONEncoder())
    assert Message.decode_stored(MsgpackEncoder().encode(message.asdict()), "msgpack", 1) == message


def test_a_pickled_message_is_read_only_by_those_who_chose_pickle() -> None:
    message = make()
    data = PickleEncoder().encode(message.asdict())

    with pytest.raises(DecodeError, match=r"pickled.*set_encoder\(PickleEncoder\(\)\)"):
        Message.decode_stored(data, "pickle", 1)

    localq.set_encoder(PickleEncoder())
    assert Message.decode_stored(data, "pickle", 1) == message


def test_an_encoder_that_nobody_knows_here_is_named() -> None:
    with pytest.raises(DecodeError, match=r"'app:Special'.*set_encoder"):
        Message.decode_stored(b"data", "app:Special", 1)


def test_what_cannot_be_encoded_is_named_with_its_place() -> None:
    with pytest.raises(EncodeError) as refusal:
        make(options={"hint": object()}).encode()

    assert refusal.value.place == 'options["hint"]'


# -- pipelines and results


def test_messages_and_pipelines_are_joined_by_a_bar(broker: Broker) -> None:
    a, b, c = (make(actor_name=name) for name in "abc")

    assert isinstance(a | b, pipeline)
    assert [message.actor_name for message in (a | b).messages] == ["a", "b"]
    assert [message.actor_name for message in (a | (b | c)).messages] == ["a", "b", "c"]


def test_the_result_is_looked_for_where_the_global_broker_keeps_results(broker_with_results: Broker) -> None:
    message = make()

    with pytest.raises(ResultMissing):
        message.get_result()

    broker_with_results.get_results_backend().store_result(message, 42, 60_000)
    assert message.get_result() == 42


def test_the_result_is_looked_for_in_the_backend_that_is_given(
    broker_with_results: Broker, make_broker: Callable[..., Broker]
) -> None:
    other = make_broker("memory://", [localq.results.Results()])
    message = make()

    other.get_results_backend().store_result(message, 42, 60_000)

    assert message.get_result(backend=other.get_results_backend()) == 42
    with pytest.raises(ResultMissing):
        message.get_result()


def test_asking_for_a_result_where_none_are_kept_says_what_is_missing(broker: Broker) -> None:
    with pytest.raises(RuntimeError, match=r"broker doesn't have a results backend.*Results"):
        make().get_result()
