"""Bytes that are no message: always a DecodeError, soon, and at little cost; see also test_encoder."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import localq
from localq import JSONEncoder, Message, MsgpackEncoder
from localq.errors import DecodeError

many = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
each = pytest.mark.parametrize("encoder", [MsgpackEncoder(), JSONEncoder()], ids=["msgpack", "json"])
MESSAGE = Message("default", "add", (1, 2), {"a": "b"}, {"eta": 5}, "m", 1)

trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
fields = st.dictionaries(
    st.one_of(st.sampled_from([*Message._fields, "__class__", "self", "_fields"]), st.text(max_size=3)), trees
)


def message_or_refusal(data: bytes, encoder: str, wire: int = 1) -> None:
    try:
        message = Message.decode_stored(data, encoder, wire)
    except DecodeError:
        return
    assert isinstance(message.args, tuple)
    assert isinstance(message.options, dict)
    assert str(message)
    assert message.copy(options={"x": 1}).options["x"] == 1
    assert list(message.asdict()) == list(Message._fields)
    assert Message(**message.asdict()) == message or message != message  # NaN


@each
@many
@given(fields)
@example({**MESSAGE.asdict(), "args": [10**5000]})
@example({**MESSAGE.asdict(), "args": {"a": 1}})
@example({**MESSAGE.asdict(), "options": {"options": {}}})
def test_any_dict_is_a_message_or_a_decode_error(encoder: Any, data: dict[str, Any]) -> None:
    try:
        raw = encoder.encode(data)
    except localq.errors.EncodeError:  # JSON writes no int of so many digits
        return
    message_or_refusal(raw, encoder.name)
    with pytest.raises(DecodeError, match="newer"):
        Message.decode_stored(raw, encoder.name, 2)


@each
@many
@given(st.data())
def test_a_damaged_message_is_a_message_or_a_decode_error(encoder: Any, data: st.DataObject) -> None:
    raw = bytearray(encoder.encode(MESSAGE.asdict()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    for name in ("msgpack", "json", encoder.name):
        message_or_refusal(bytes(raw), name)


BLOWN_UP = {
    "lists in lists": ("json", b'{"a":' + b"[" * 1_000_000),
    "dicts in dicts": ("json", b'{"a":' * 1_000_000),
    "a number of a million digits": ("json", b'{"a":' + b"9" * 1_000_000 + b"}"),
    "an exponent": ("json", b'{"a":1e999999999}'),
    "half a pair": ("json", b'{"a":"\\ud800"}'),
    "keys that repeat": ("json", b'{"args":[],"args":{},"args":5}'),
    "NaN and the infinities": ("json", b'{"a":[NaN,Infinity,-Infinity]}'),
    "a NUL": ("json", b'{"\\u0000":"\\u0000"}'),
    "UTF-16": ("json", json.dumps({"a": 1}).encode("utf-16")),
    "a byte order mark": ("json", b"\xef\xbb\xbf{}"),
    "lists that claim to be long": ("msgpack", b"\x81\xa1a" + b"\xdd\x7f\xff\xff\xff" * 200_000),
    "dicts that claim to be long": ("msgpack", b"\xdf\x7f\xff\xff\xff" + b"\xa1a" * 200_000),
    "lists of lists, each as long as it can be": ("msgpack", b"\x81\xa1a" + b"\xdd\x00\x0f\x00\x00" * 100),
    "a dict of one key": ("msgpack", b"\xde\xff\xff" + b"\xa1a\x01" * 0xFFFF),
    "keys that are lists": ("msgpack", b"\x81" + b"\x91" * 100_000),
    "extensions in lists": ("msgpack", b"\x81\xa1a\xdc\xff\xff" + b"\xc7\x00\x02" * 0xFFFF),
    "a string that claims to be long": ("msgpack", b"\x81\xdb\x7f\xff\xff\xff"),
    "decimals": ("msgpack", msgpack.packb({"a": [msgpack.ExtType(9, b""), "1e999999999999999999"]})),
    "a path of a million parts": ("msgpack", msgpack.packb({"a": [msgpack.ExtType(11, b""), *"x" * 1_000_000]})),
}


@pytest.mark.parametrize(("encoder", "data"), BLOWN_UP.values(), ids=BLOWN_UP)
def test_bytes_that_promise_much_cost_little(encoder: str, data: bytes) -> None:
    tracemalloc.start()
    try:
        message_or_refusal(data, encoder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 400_000_000


HOSTILE_IN_A_THREAD = """
    import sys, threading
    from localq import Message
    from localq.errors import DecodeError
    if not (3, 12) <= sys.version_info < (3, 14):  # these count calls in C whatever the size of the stack
        threading.stack_size(256 * 1024)
    bodies = [b"\\x81\\xa1a" + b"\\x91" * n for n in (100, 511, 512, 1024, 10**6)]
    bodies += [b"\\x81\\xa1a" + b"\\x92\\xc7\\x00\\x02" * n for n in (100, 511, 1024, 10**6)]
    bodies += [b'{"a":' * n for n in (100, 900, 10**6)]
    def decode():
        for body in bodies:
            for encoder in ("msgpack", "json"):
                try:
                    Message.decode_stored(body, encoder, 1)
                except DecodeError:
                    pass
                else:
                    sys.exit("no error")
        print("alive")
    thread = threading.Thread(target=decode)
    thread.start()
    thread.join()
"""


def test_no_depth_ends_the_process_not_even_on_a_small_stack() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOSTILE_IN_A_THREAD)],
        capture_output=True, text=True, timeout=60, cwd=Path(localq.__file__).parents[1],
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("alive\n", 0), ended.stderr


def test_what_stands_in_a_message_never_keeps_it_from_being_named() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    message = Message("default", "add", (10**5000, Rude()), {"x": Rude()}, {})
    assert str(message) == "add(<int>, <Rude>, x=<Rude>)"
