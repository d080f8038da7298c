"""Event backends: who waits for a key gets its event, and nobody else does."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from localq.aborting import Event, EventBackend
from localq.aborting.backends import SQLiteBackend, StubBackend


@pytest.fixture(params=["stub", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> EventBackend:
    return StubBackend() if request.param == "stub" else SQLiteBackend(tmp_path / "jobs.db")


def test_an_event_is_its_key_and_what_is_to_be_known() -> None:
    event = Event("key", {"a": 1})
    assert event == Event(key="key", params={"a": 1})
    key, params = event
    assert (key, params) == ("key", {"a": 1})


def test_each_event_is_delivered_once(backend: EventBackend) -> None:
    a, b, c = (Event(f"test-{name}", {"name": name}) for name in "abc")
    backend.notify([a], ttl=60_000)
    backend.notify([b, c], ttl=60_000)

    first = backend.wait_many(["test-a", "test-b"], timeout=10_000)
    second = backend.wait_many(["test-a", "test-b"], timeout=10_000)

    assert (first, second) == (a, b)
    assert backend.wait_many(["test-a", "test-b"], timeout=20) is None
    assert backend.poll("test-c") == c
    assert backend.poll("test-c") is None
    assert backend.poll("test-d") is None


def test_keys_can_come_from_any_iterable(backend: EventBackend) -> None:
    backend.notify((Event(key, {}) for key in ["x"]), ttl=60_000)
    assert backend.wait_many((key for key in ["w", "x"]), timeout=10_000) == Event("x", {})


def test_who_waits_for_nothing_gets_nothing(backend: EventBackend) -> None:
    assert backend.wait_many([], timeout=10) is None


@pytest.mark.parametrize(
    "params", [{}, {"abort_timeout": 5}, {"a": None, "b": [1, 2.5, "x", {"c": True}], "ä": "ö"}]
)
def test_what_is_to_be_known_are_json_values(backend: EventBackend, params: dict[str, Any]) -> None:
    backend.notify([Event("key", params)], ttl=60_000)
    assert backend.poll("key") == Event("key", params)


def test_what_is_no_json_is_refused_and_nothing_is_told(backend: EventBackend) -> None:
    with pytest.raises(TypeError):
        backend.notify([Event("good", {}), Event("bad", {"a": object()})], ttl=60_000)
    assert backend.poll("good") is None


def test_an_event_that_nobody_asks_for_is_forgotten(backend: EventBackend) -> None:
    backend.notify([Event("key", {})], ttl=1)
    began = time.time()
    while time.time() - began < 0.01:
        pass
    assert backend.poll("key") is None
    assert backend.wait_many(["key"], timeout=10) is None


def test_who_waits_is_woken(backend: EventBackend) -> None:
    heard: list[Event | None] = []
    waiter = threading.Thread(target=lambda: heard.append(backend.wait_many(["other", "key"], timeout=60_000)))
    waiter.start()
    backend.notify([Event("key", {"a": 1})], ttl=60_000)
    waiter.join(20)
    assert heard == [Event("key", {"a": 1})]


def test_of_many_who_wait_one_gets_it(backend: EventBackend) -> None:
    heard: list[Event | None] = []
    waiters = [
        threading.Thread(target=lambda: heard.append(backend.wait_many(["key"], timeout=300))) for _ in range(4)
    ]
    for waiter in waiters:
        waiter.start()
    backend.notify([Event("key", {})], ttl=60_000)
    for waiter in waiters:
        waiter.join(20)
    assert sorted(heard, key=str) == sorted([Event("key", {}), None, None, None], key=str)


def test_backends_on_one_file_share_their_events(tmp_path: Path) -> None:
    SQLiteBackend(tmp_path / "jobs.db").notify([Event("key", {"a": 1})], ttl=60_000)
    assert SQLiteBackend(str(tmp_path / "jobs.db")).poll("key") == Event("key", {"a": 1})


def test_a_backend_of_ones_own_says_what_it_lacks() -> None:
    class Half(EventBackend):
        def poll(self, key: str) -> Event | None:
            return None

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]
