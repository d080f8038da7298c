"""The encoders: what comes back, what is refused and where, and what bad bytes do."""

from __future__ import annotations

import enum
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict, namedtuple
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localq import errors
from localq.encoder import Encoder, JSONEncoder, MsgpackEncoder, PickleEncoder
from localq.errors import DecodeError, EncodeError

ENCODERS: list[Encoder] = [MsgpackEncoder(), JSONEncoder(), PickleEncoder()]
MESSAGE: dict[str, Any] = {
    "queue_name": "default",
    "actor_name": "add",
    "args": (1, 2),
    "kwargs": {},
    "options": {},
    "message_id": "018bcfe5-687b-7fff-bfff-ffffffffffff",
    "message_timestamp": 1_700_000_000_000,
}
BERLIN = ZoneInfo("Europe/Berlin")
each_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)


class Thing:
    pass


class Color(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Mood(str, enum.Enum):
    GOOD = "good"


class Huge(int):
    pass


class Offset(tzinfo):
    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "odd"

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None


Point = namedtuple("Point", "x y")


def msgpacked(value: Any) -> Any:
    encoder = MsgpackEncoder()
    return encoder.decode(encoder.encode({"value": value}))["value"]


def exact(value: Any) -> Any:
    """Return a form of `value` that is equal only for the same value of the same types.

    It sees what ``==`` passes over: fold, the zone, the sign of zero, NaN.
    """
    if isinstance(value, dict):
        return dict, sorted(((exact(k), exact(v)) for k, v in value.items()), key=repr)
    if isinstance(value, (list, tuple)):
        return type(value), [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted((exact(item) for item in value), key=repr)
    if isinstance(value, (datetime, time)):
        zone = getattr(value.tzinfo, "key", None)
        return type(value), value.isoformat(), value.fold, zone
    return type(value), repr(value)


# Round trips


# Whole seconds: Python itself reads back the ISO form of an offset below one second as UTC.
offsets = st.integers(-86_399, 86_399).map(lambda seconds: timedelta(seconds=seconds))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(),
    st.text(st.characters(exclude_categories=[])),
    st.binary(),
    st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True),
    st.datetimes(timezones=st.builds(timezone, offsets)),
    st.dates(),
    st.times(timezones=st.none() | st.just(timezone.utc) | st.timezones()),
    st.timedeltas(),
    st.uuids(),
    st.decimals(),
    st.builds(Path, st.text(st.characters(exclude_characters="\0"))),
    st.builds(PurePosixPath, st.text()),
    st.builds(PureWindowsPath, st.text()),
)
# A signaling NaN has no hash, so that it can be no key.
hashables = st.recursive(
    scalars.filter(lambda value: not (isinstance(value, Decimal) and value.is_snan())),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    scalars | hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(hashables, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
    ),
    max_leaves=15,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_msgpack_gives_every_supported_value_back_with_its_type(value: Any) -> None:
    assert exact(msgpacked(value)) == exact(value)


@each_encoder
def test_a_message_of_plain_json_survives_every_encoder(encoder: Encoder) -> None:
    message = {**MESSAGE, "args": [1, "two", None, True, 2.5, {"é": []}]}

    assert encoder.decode(encoder.encode(message)) == message


@pytest.mark.parametrize("number", [0, -1, 2**63, -(2**63), -(2**63) - 1, 2**64, -(2**64), 10**500])
def test_integers_of_any_size_come_back(number: int) -> None:
    assert msgpacked(number) == number
    assert msgpacked(Huge(number)) == number
    assert type(msgpacked(Huge(number))) is int


def test_tuples_are_tuples_again_at_any_depth_and_as_keys() -> None:
    value = {(1, (2, ())): [(), ((),), [()]]}

    assert exact(msgpacked(value)) == exact(value)


def test_both_hours_of_the_end_of_summer_time_stay_apart() -> None:
    first = datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN)
    second = first.replace(fold=1)

    assert [msgpacked(first).utcoffset(), msgpacked(second).utcoffset()] == [
        timedelta(hours=2),
        timedelta(hours=1),
    ]
    assert msgpacked(second).tzinfo is BERLIN


def test_a_zone_without_a_key_becomes_its_offset() -> None:
    class Odd(Offset):
        def utcoffset(self, _: datetime | None) -> timedelta:
            return timedelta(minutes=-90)

    back = msgpacked(datetime(2024, 1, 1, tzinfo=Odd()))

    assert back.tzinfo == timezone(timedelta(minutes=-90))


def test_a_zone_that_this_machine_does_not_know_becomes_its_offset() -> None:
    raw = MsgpackEncoder().encode({"at": datetime(2024, 7, 1, tzinfo=BERLIN)})

    back = MsgpackEncoder().decode(raw.replace(b"Europe/Berlin", b"Europe/Elsewh"))["at"]

    assert back.isoformat() == "2024-07-01T00:00:00+02:00"
    assert back.tzinfo == timezone(timedelta(hours=2))


def test_file_names_that_are_not_unicode_come_back() -> None:
    name = os.fsdecode(b"caf\xe9")

    assert msgpacked([name, Path(name)]) == [name, Path(name)]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Size.BIG, 3),
        (Mood.GOOD, "good"),
        (Point(1, 2), (1, 2)),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (bytearray(b"b"), b"b"),
        (memoryview(b"b"), b"b"),
        (type("Text", (str,), {"__str__": lambda self: "other"})("t"), "t"),
        (type("Real", (float,), {})(0.5), 0.5),
        (type("Raw", (bytes,), {"__bytes__": lambda self: b"other"})(b"r"), b"r"),
        (type("Row", (list,), {})([1]), [1]),
        (type("Bag", (set,), {})([1]), {1}),
        (type("Day", (date,), {})(2024, 2, 29), date(2024, 2, 29)),
        (type("Moment", (datetime,), {"isoformat": None})(2024, 2, 29), datetime(2024, 2, 29)),
    ],
)
def test_a_subclass_comes_back_as_its_base(value: Any, plain: Any) -> None:
    assert exact(msgpacked(value)) == exact(plain)
    assert exact(msgpacked({"in": [value]})) == exact({"in": [plain]})


def test_an_ordered_dict_comes_back_in_its_order() -> None:
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")

    assert list(msgpacked(ordered)) == ["b", "a"]


def test_the_bytes_of_earlier_releases_stay_readable() -> None:
    stored = bytes.fromhex(
        "81a1769d92c70001c40901000000000000000093c700020191c7000292c700030292c700040394c7"
        "0005d920323032342d31302d32375430323a33303a30302e3030303030352b30313a303001ad4575"
        "726f70652f4265726c696e92c70006aa323032342d30322d323994c70007ae30313a30323a30332b"
        "30303a303000c094c70008ff020392c70009a4312e353092c7000ac4100000000000000000000000"
        "000000000792c7000ba3612f6292c7000ca22f6392c7000da3643a5c"
    )
    written = [
        2**64,
        (1, ()),
        {2},
        frozenset({3}),
        datetime(2024, 10, 27, 2, 30, 0, 5, tzinfo=BERLIN, fold=1),
        date(2024, 2, 29),
        time(1, 2, 3, tzinfo=timezone.utc),
        timedelta(-1, 2, 3),
        Decimal("1.50"),
        UUID(int=7),
        Path("a/b"),
        PurePosixPath("/c"),
        PureWindowsPath("d:/"),
    ]

    assert exact(MsgpackEncoder().decode(stored)) == exact({"v": written})


# Refusals


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"args": ({"when": Thing()},)}, 'args[0]["when"]'),
        ({"kwargs": {"a": [1, (2, Thing())]}}, 'kwargs["a"][1][1]'),
        ({"args": ({3: Thing()},)}, "args[0][3]"),
        ({"args": ({"it's": Thing()},)}, 'args[0]["it\'s"]'),
        ({"result": Thing()}, "result"),
        ({"result": Color.RED}, "result"),
        ({"args": ({1, Thing()},)}, "args[0]<element>"),
        ({"args": ({(1, Thing()): 2},)}, "args[0]<key>"),
        ({Thing(): 1}, "<key>"),
        ({"args": [[], OrderedDict(a=Point(1, Thing()))]}, 'args[1]["a"][1]'),
    ],
)
def test_what_cannot_be_encoded_is_named_with_its_place(data: Any, place: str) -> None:
    with pytest.raises(EncodeError) as caught:
        MsgpackEncoder().encode(data)

    kind = "Color" if "RED" in repr(data) else "Thing"
    assert caught.value.place == place
    assert str(caught.value).startswith(
        f"cannot encode {place}: a value of type '{__name__}.{kind}'; pass something"
    )
    assert str(caught.value).endswith("or choose PickleEncoder")


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        ({"args": ({"when": Thing()},)}, 'args[0]["when"]', "a value of type"),
        ({"args": [{(1, 2): 3}]}, "args[0]<key>", "keys must be"),
        ({"args": [{1}]}, "args[0]", "a value of type 'builtins.set'"),
    ],
)
def test_json_names_the_place_too(data: Any, place: str, reason: str) -> None:
    with pytest.raises(EncodeError) as caught:
        JSONEncoder().encode(data)

    assert caught.value.place == place
    assert str(caught.value).startswith(f"cannot encode {place}: {reason}")


def test_pickle_refuses_what_has_no_importable_name() -> None:
    with pytest.raises(EncodeError, match="cannot pickle this"):
        PickleEncoder().encode({"args": (lambda: None,)})


@pytest.mark.parametrize("encoder", [MsgpackEncoder(), JSONEncoder()], ids=["msgpack", "json"])
def test_what_contains_itself_is_an_encode_error_that_says_so(encoder: Encoder) -> None:
    loop: dict[str, Any] = {"a": [1]}
    loop["a"].append(loop)

    with pytest.raises(EncodeError, match="contains itself") as caught:
        encoder.encode({"args": [loop]})

    assert caught.value.place == 'args[0]["a"][1]'


@each_encoder
@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_too_deep_is_an_encode_error_that_says_so(encoder: Encoder, kind: type) -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = {"a": deep} if kind is dict else kind([deep])

    with pytest.raises(EncodeError, match=r"nested too deeply|recursion"):
        encoder.encode({"args": [deep]})


@pytest.mark.parametrize("depth", [600, 990, 2000])
@pytest.mark.parametrize("encoder", [MsgpackEncoder(), JSONEncoder()], ids=["msgpack", "json"])
def test_the_walk_to_the_place_ends_in_lists_that_hold_a_list_twice(encoder: Encoder, depth: int) -> None:
    deep: Any = [Thing()]
    for _ in range(depth):
        deep = [deep, deep]

    with pytest.raises(EncodeError, match=r"nested too deeply|a value of type") as caught:
        encoder.encode({"args": [deep]})

    assert caught.value.place.startswith("args[0][0][0]")


@pytest.mark.skipif(
    msgpack.Packer.__module__ == "msgpack.fallback",
    reason="without the C extension the depth depends on the stack of the caller",
)
def test_whatever_msgpack_takes_in_depth_it_gives_back() -> None:
    encoder, accepted = MsgpackEncoder(), 0
    deep: Any = ()
    for _ in range(1100):
        try:
            raw = encoder.encode({"a": deep})
        except EncodeError:
            break
        encoder.decode(raw)
        deep, accepted = (deep,), accepted + 1

    assert 400 < accepted < 1100


def test_code_of_a_value_that_fails_is_an_encode_error() -> None:
    class Broken(Offset):
        def utcoffset(self, _: datetime | None) -> timedelta:
            raise OSError("no clock")

    with pytest.raises(EncodeError, match="OSError: no clock") as caught:
        MsgpackEncoder().encode({"args": (datetime(2024, 1, 1, tzinfo=Broken()),)})

    assert caught.value.place == "args[0]"


def test_a_send_inside_a_send_does_not_mix_the_bytes() -> None:
    encoder = MsgpackEncoder()

    class Sender(dict[str, Any]):
        def keys(self) -> Any:
            inner.append(encoder.decode(encoder.encode(MESSAGE)))
            return super().keys()

        def __iter__(self) -> Any:
            return iter(self.keys())

    inner: list[Any] = []
    raw = encoder.encode({"args": ("before", Sender(a=1), "after")})

    assert encoder.decode(raw) == {"args": ("before", {"a": 1}, "after")}
    assert exact(inner) == exact([MESSAGE] * len(inner))
    assert inner


def test_one_encoder_serves_many_threads() -> None:
    encoder, wrong = MsgpackEncoder(), []

    def work(number: int) -> None:
        for turn in range(2000):
            data = {"args": (number, (turn, uuid4()), {"n": [date(2024, 1, 1)] * number})}
            if encoder.decode(encoder.encode(data)) != data:
                wrong.append(data)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


# Bad bytes


def decode_or_refuse(encoder: Encoder, data: bytes) -> None:
    try:
        assert isinstance(encoder.decode(data), dict)
    except DecodeError as error:
        refusal = error
    else:
        return
    assert refusal.data == data
    assert refusal.error is not None


# Random bytes rarely get past the first one, so most start as a dict with a list in it.
hostile = st.one_of(
    st.binary(),
    st.binary().map(lambda tail: b"\x81\xa1a" + tail),
    st.builds(
        lambda code, parts: b"\x81\xa1a" + bytes([0x91 + len(parts), 0xC7, 0, code]) + b"".join(parts),
        st.integers(0, 20),
        st.lists((values | st.binary()).map(lambda v: MsgpackEncoder().encode({"": v})[2:]), max_size=4),
    ),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile)
def test_any_bytes_are_a_dict_or_a_decode_error(data: bytes) -> None:
    decode_or_refuse(MsgpackEncoder(), data)
    decode_or_refuse(JSONEncoder(), data)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values, st.data())
def test_damaged_bytes_are_a_dict_or_a_decode_error(value: Any, data: st.DataObject) -> None:
    raw = bytearray(MsgpackEncoder().encode({"value": value}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))

    decode_or_refuse(MsgpackEncoder(), bytes(raw))
    decode_or_refuse(MsgpackEncoder(), bytes(raw[: data.draw(st.integers(0, len(raw)))]))


def marked(code: int, *parts: Any, content: bytes = b"") -> bytes:
    return bytes(msgpack.packb({"a": [msgpack.ExtType(code, content), *parts]}))


BAD_MSGPACK = {
    "nothing": b"",
    "cut": MsgpackEncoder().encode(MESSAGE)[:-1],
    "trailing bytes": MsgpackEncoder().encode(MESSAGE) + b"\x00",
    "a list": b"\x90",
    "a number": b"\x01",
    "the reserved byte": b"\xc1",
    "a tuple": MsgpackEncoder().encode({"a": ()})[3:],
    "not utf-8": b"\x81\xa1\xff\x01",
    "an unhashable key": b"\x81\x90\x01",
    "an unhashable element": marked(3, [1]),
    "an unknown extension": marked(99),
    "a negative extension": b"\x81\xa1a\xd4\xfb\x00",
    "a mark with content": marked(2, 1, content=b"x"),
    "a mark that starts no list": msgpack.packb({"a": msgpack.ExtType(2, b"")}),
    "a mark as a key": b"\x81\xc7\x00\x02\x01",
    "a mark in the middle": marked(2, msgpack.ExtType(2, b"")),
    "a date without a text": marked(6),
    "a date that is none": marked(6, "2024-02-30"),
    "a date that is a number": marked(6, 5),
    "a datetime of bytes": marked(5, b"0123456789", 0, None),
    "a fold of 7": marked(5, "2024-01-01", 7, None),
    "a zone that climbs out": marked(5, "2024-01-01", 0, "../../../etc/passwd"),
    "a zone that is a path": marked(5, "2024-01-01", 0, "/etc/passwd"),
    "a zone that is a number": marked(5, "2024-01-01", 0, 7),
    "a time that is none": marked(7, "25:00", 0, None),
    "a timedelta past all bounds": marked(8, 10**18, 0, 0),
    "a decimal that is none": marked(9, "one"),
    "a short uuid": marked(10, b"short"),
    "a path that is a number": marked(11, 5),
    "a timestamp past all bounds": b"\x81\xa1a\xc7\x0c\xff" + struct.pack(">IQ", 0, 2**62),
    "a huge string": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "a huge binary": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "a huge list": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "a huge dict": b"\xdf\xff\xff\xff\xff",
    "a huge extension": b"\x81\xa1a\xc9\xff\xff\xff\xff\x02",
    "many lists in lists": b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01",
    "many tuples in tuples": b"\x81\xa1a" + b"\x92\xc7\x00\x02" * 100_000 + b"\x01",
    "many dicts in dicts": b"\x81\xa1a" * 100_000 + b"\x01",
    "many long lists": b"\x81\xa1a" + b"\xdd\x00\x01\x00\x00" * 1000 + b"\x00" * 70_000,
}


@pytest.mark.parametrize("data", BAD_MSGPACK.values(), ids=BAD_MSGPACK.keys())
def test_bad_msgpack_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="the msgpack encoder cannot decode this") as caught:
        MsgpackEncoder().decode(data)

    assert caught.value.data is data
    assert isinstance(caught.value.error, Exception)
    assert caught.value.__cause__ is caught.value.error


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b'{"a":1} x', b"[" * 100_000, b"1" * 5000], ids=range(7)
)
def test_bad_json_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="the json encoder cannot decode this"):
        JSONEncoder().decode(data)


@pytest.mark.parametrize("data", [b"", b"x", pickle.dumps([1]), pickle.dumps(MESSAGE)[:-3]])
def test_a_bad_pickle_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="the pickle encoder cannot decode this"):
        PickleEncoder().decode(data)


@each_encoder
@pytest.mark.parametrize("data", [None, "text", 5])
def test_what_is_not_even_bytes_is_a_decode_error(encoder: Encoder, data: Any) -> None:
    with pytest.raises(DecodeError):
        encoder.decode(data)


def test_a_zone_that_is_named_like_a_module_imports_nothing() -> None:
    raw = marked(5, "2024-01-01T00:00:00+01:00", 0, "antigravity")

    MsgpackEncoder().decode(raw)

    assert "antigravity" not in sys.modules


# The form of the bytes


def test_json_is_compact_utf8_and_turns_tuples_into_lists() -> None:
    data = {"args": (1, "é"), "kwargs": {}}

    assert JSONEncoder().encode(data) == '{"args":[1,"é"],"kwargs":{}}'.encode()


def test_json_escapes_what_utf8_cannot_hold() -> None:
    name = os.fsdecode(b"caf\xe9\\")
    raw = JSONEncoder().encode({"name": name})

    assert raw.isascii()
    assert JSONEncoder().decode(raw) == json.loads(raw) == {"name": name}


def test_json_keeps_nan() -> None:
    assert math.isnan(JSONEncoder().decode(JSONEncoder().encode({"a": math.nan}))["a"])


def test_pickle_gives_any_object_back() -> None:
    assert isinstance(PickleEncoder().decode(PickleEncoder().encode({"a": Thing()}))["a"], Thing)


def test_plain_values_are_plain_msgpack() -> None:
    plain = {"a": [1, 2.5, "x", None, True, b"y", {"b": []}]}

    assert MsgpackEncoder().encode(plain) == msgpack.packb(plain)


def test_datetimes_of_other_writers_of_msgpack_are_read() -> None:
    at = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)

    assert MsgpackEncoder().decode(msgpack.packb({"at": at}, datetime=True)) == {"at": at}


# Names


class Special(MsgpackEncoder):
    pass


class Named(MsgpackEncoder):
    name = "mine"


def test_an_encoder_is_known_by_its_name_or_its_dotted_path() -> None:
    names = [encoder.name for encoder in (*ENCODERS, Special(), Named())]

    assert names == ["msgpack", "json", "pickle", f"{__name__}:Special", "mine"]


def test_an_encoder_must_have_both_directions() -> None:
    class Half(Encoder):
        def encode(self, data: dict[str, Any]) -> bytes:
            return b""

    with pytest.raises(TypeError, match="decode"):
        Half()  # type: ignore[abstract]


# Costs


def test_dear_modules_are_not_imported_before_they_are_needed() -> None:
    # A bare package stands in for localq, whose other parts may import them.
    check = (
        "import sys, types\n"
        "sys.modules['localq'] = package = types.ModuleType('localq')\n"
        f"package.__path__ = [{str(Path(errors.__file__).parent)!r}]\n"
        f"sys.path = {sys.path!r}\n"
        "from localq.encoder import MsgpackEncoder\n"
        "e = MsgpackEncoder(); e.decode(e.encode({'args': (1, 'x', [2])}))\n"
        "print(*{'decimal', 'pathlib', 'uuid', 'zoneinfo'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-S", "-c", check], capture_output=True, text=True, check=True)

    assert run.stdout.split() == []
