"""URLs of stores: what each names, what is refused, and who shares what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from localq.errors import BrokerError, StoreError
from localq.store import Store, Value, open_store, sqlite_path, sqlite_url
from localq.store.base import WAITING
from localq.store.memory import MemoryStore
from localq.store.sqlite import SQLiteStore

from .contract import EVERYTHING, HOUR, ids, message, run_in_threads

NOW = 1_700_000_000_000


@pytest.fixture
def opened() -> Iterator[Callable[[str], Any]]:
    """Opens the store of a URL; all are closed at the end, as often as they were opened."""
    stores: list[Store] = []

    def opened(url: str) -> Store:
        stores.append(open_store(url))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


Opened = Callable[[str], Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# -- what a URL names


def test_three_slashes_begin_a_relative_path(here: Path, opened: Opened) -> None:
    assert opened("sqlite:///jobs.db").path == str(here / "jobs.db")


def test_four_slashes_begin_an_absolute_path(tmp_path: Path, opened: Opened) -> None:
    assert opened(f"sqlite:///{tmp_path}/jobs.db").path == str(tmp_path / "jobs.db")


def test_a_relative_path_is_taken_from_the_working_directory_of_now(
    tmp_path: Path, here: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened("sqlite:///../here/./jobs.db")
    monkeypatch.chdir(tmp_path)
    store.put([message()], now=NOW)
    assert store.path == str(here / "jobs.db")
    assert not (tmp_path / "jobs.db").exists()


def test_a_tilde_is_the_home_of_the_user(here: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert opened("sqlite:///~/jobs.db").path == str(here / "jobs.db")
    assert sqlite_path(sqlite_url("~/jobs.db")) == str(here / "jobs.db")


@pytest.mark.parametrize(
    "name",
    ["a b.db", "100%.db", "%20.db", "a?b=c.db", "a#b.db", "a&b+c=d.db", "a:b;c.db", "\N{PILE OF POO}.db"],
)
def test_any_name_of_a_file_can_be_put_into_a_url(tmp_path: Path, opened: Opened, name: str) -> None:
    store = opened(sqlite_url(tmp_path / name, durability="full"))
    store.put([message()], now=NOW)
    assert store.path == str(tmp_path / name)
    assert store.durability == "full"
    assert (tmp_path / name).is_file()


def test_a_url_may_be_made_of_a_path_or_a_text() -> None:
    assert sqlite_url(Path("jobs.db")) == sqlite_url("jobs.db") == sqlite_url(os.path.abspath("jobs.db"))
    assert sqlite_url("jobs.db", durability="full").endswith("jobs.db?durability=full")


def test_a_store_tells_its_url(opened: Opened, here: Path) -> None:
    url = opened("sqlite:///jobs.db").url
    assert sqlite_path(url) == str(here / "jobs.db")
    assert opened(url).path == str(here / "jobs.db")


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("sqlite://", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite://jobs.db", "three slashes"),
        ("sqlite://localhost/jobs.db", "three slashes"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:jobs.db", "sqlite:///"),
        ("sqlite3:///jobs.db", "sqlite:///"),
        ("jobs.db", "sqlite:///"),
        ("", "sqlite:///"),
        ("://", "sqlite:///"),
        ("redis://localhost:6379/0", "sqlite:///"),
        ("postgresql://localhost/jobs", "sqlite:///"),
        ("sqlite:///jobs\0.db", "jobs"),
        ("sqlite:///jobs%00.db", "jobs"),
    ],
)
def test_what_names_no_store_is_refused_with_the_remedy(here: Path, url: str, remedy: str) -> None:
    with pytest.raises(BrokerError) as refused:
        open_store(url)
    assert repr(url) in str(refused.value)
    assert remedy in str(refused.value)
    assert list(here.iterdir()) == []


# -- options


def test_options_are_passed_on(opened: Opened) -> None:
    store = opened("sqlite:///jobs.db?durability=full&gate_timeout=100&busy_timeout=200")
    assert store.durability == "full"
    assert store.database.busy_timeout == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("durabilty=full", "durability"),
        ("timeout=5", "gate_timeout"),
        ("=", "gate_timeout"),
        ("durability=high", "normal or full"),
        ("durability=", "normal or full"),
        ("gate_timeout=soon", "milliseconds"),
        ("gate_timeout=", "milliseconds"),
        ("network=yes", "refuse or allow"),
        ("gate_timeout=1.5", "milliseconds"),
        ("gate_timeout=-1", "milliseconds"),
        ("busy_timeout=1s", "milliseconds"),
        ("busy_timeout=-200", "milliseconds"),
    ],
)
def test_an_option_that_means_nothing_is_refused(here: Path, query: str, words: str) -> None:
    with pytest.raises(BrokerError) as refused:
        open_store(f"sqlite:///jobs.db?{query}")
    assert words in str(refused.value)
    assert list(here.iterdir()) == []


def test_an_option_that_means_nothing_is_refused_for_an_open_store_too(opened: Opened) -> None:
    opened("sqlite:///jobs.db")
    with pytest.raises(BrokerError):
        open_store("sqlite:///jobs.db?colour=red")


def test_who_asks_for_full_durability_has_it_or_is_told(opened: Opened) -> None:
    # Otherwise a power loss would show what a backend that was built first has decided.
    opened("sqlite:///jobs.db")
    with suppress(BrokerError):
        store = opened("sqlite:///jobs.db?durability=full")
        assert store.durability == "full"
        with store.database.read as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


# -- who shares what


def test_one_file_is_one_store_in_a_process(tmp_path: Path, here: Path, opened: Opened) -> None:
    store = opened("sqlite:///jobs.db")
    assert isinstance(store, SQLiteStore)
    assert opened(f"sqlite:///{here}/jobs.db") is store
    assert opened(f"sqlite:///{tmp_path}/here/../here/jobs.db") is store
    assert opened("sqlite:///other.db") is not store


def test_a_link_to_a_file_is_that_file(tmp_path: Path, here: Path, opened: Opened) -> None:
    (here / "link.db").symlink_to(here / "jobs.db")
    (tmp_path / "folder").symlink_to(here)
    store = opened("sqlite:///link.db")
    assert store.path == str(here / "jobs.db")
    assert opened("sqlite:///jobs.db") is store
    assert opened(f"sqlite:///{tmp_path}/folder/link.db") is store
    assert sorted(each.name for each in here.glob("*.localq")) == ["jobs.db.localq"]


def test_another_name_of_a_file_is_that_file(here: Path, opened: Opened) -> None:
    store = opened("sqlite:///jobs.db")
    os.link(here / "jobs.db", here / "same.db")
    assert opened("sqlite:///same.db") is store


def test_who_closes_leaves_it_open_for_the_others(here: Path) -> None:
    first, second = open_store("sqlite:///jobs.db"), open_store("sqlite:///jobs.db")
    first.put([message("a")], now=NOW)
    first.close()
    assert (here / "jobs.db-wal").exists(), "it is open"
    second.put([message("b")], now=NOW)
    second.close()
    assert not (here / "jobs.db-wal").exists(), "it is closed"


def test_what_the_last_one_closed_is_opened_anew(opened: Opened) -> None:
    first = open_store("sqlite:///jobs.db")
    first.put([message("a")], now=NOW)
    first.close()
    second = opened("sqlite:///jobs.db")
    assert second is not first
    assert ids(second.browse(EVERYTHING)) == ["a"]


def test_many_threads_that_open_it_at_once_have_one_store() -> None:
    stores = run_in_threads(16, lambda _: open_store("sqlite:///jobs.db"))
    assert len(set(map(id, stores))) == 1
    for store in stores[1:]:
        store.close()
    stores[0].put([message()], now=NOW)
    assert stores[0].counts() == {"q": {WAITING: 1}}
    stores[0].close()


def test_who_was_refused_does_not_count(here: Path, opened: Opened) -> None:
    (here / "jobs.db").write_text("Dear diary,\n" * 100)
    for _ in range(2):
        with pytest.raises(StoreError):
            open_store("sqlite:///jobs.db")
    (here / "jobs.db").unlink()
    opened("sqlite:///jobs.db").put([message()], now=NOW)


def test_a_file_in_the_place_of_one_that_was_deleted_is_another_store(here: Path, opened: Opened) -> None:
    first = opened("sqlite:///jobs.db")
    first.put([message("old")], now=NOW)
    for each in here.glob("jobs.db*"):
        if each.is_file():
            each.unlink()
    second = opened("sqlite:///jobs.db")
    assert second is not first
    assert second.counts() == {}


# -- memory


def test_a_memory_store_without_a_name_is_nobody_elses(opened: Opened, here: Path) -> None:
    first, second = opened("memory://"), opened("memory://")
    assert isinstance(first, MemoryStore)
    first.put([message()], now=NOW)
    assert second.counts() == {}
    assert list(here.iterdir()) == []


def test_a_memory_store_with_a_name_is_shared_by_all_who_name_it(opened: Opened) -> None:
    name = uuid4().hex
    first, second = opened(f"memory://{name}"), opened(f"memory://{name}")
    first.put([message("m")], now=NOW)
    first.set_values([Value("k", b"v", HOUR)], now=NOW)
    assert ids(second.browse(EVERYTHING)) == ["m"]
    assert second.get_value("k", now=NOW) == b"v"
    assert opened(f"memory://{uuid4().hex}").counts() == {}


def test_who_closes_a_shared_memory_store_leaves_it_to_the_others(opened: Opened) -> None:
    name = uuid4().hex
    first, second = open_store(f"memory://{name}"), opened(f"memory://{name}")
    first.put([message("m")], now=NOW)
    first.close()
    assert ids(second.browse(EVERYTHING)) == ["m"]
    second.put([message("n")], now=NOW)


def test_a_store_says_whether_other_processes_see_it(opened: Opened) -> None:
    assert opened("sqlite:///jobs.db").shared
    assert not opened("memory://").shared
