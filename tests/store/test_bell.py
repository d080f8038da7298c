"""Bells: who sleeps is woken, and nobody sleeps through what came for him."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from localq.store import Value, bell
from localq.store.bell import AWAKE, WANTS_MESSAGE, WANTS_SOME_MESSAGE, WANTS_VALUE, Bells, Sleeper, mask
from localq.store.sqlite import SQLiteStore

from .contract import HOUR, LONG, done, ids, message, promptly, take

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

NOW = 1_700_000_000_000
AT_ONCE = 0
"""Milliseconds: for asking whether a bell has rung, without waiting for one."""


def never_changes() -> Callable[[], bool]:
    return lambda: False


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def bells(folder: str) -> Iterator[Bells]:
    bells = Bells(folder, never_changes)
    yield bells
    bells.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(str(tmp_path / "jobs.db"))
    yield store
    store.close()


def sleepers(bells: Bells, count: int, state: bytes, *names: str) -> list[Sleeper]:
    made = [bells.borrow() for _ in range(count)]
    for sleeper in made:
        sleeper.announce(state, mask(names))
    return made


def rung(sleepers: list[Sleeper]) -> int:
    return sum(sleeper.wait(AT_ONCE) for sleeper in sleepers)


# -- who is woken


def test_one_message_wakes_one_sleeper(bells: Bells) -> None:
    asleep = sleepers(bells, 4, WANTS_MESSAGE, "q")
    bells.ring("q")
    assert rung(asleep) == 1


def test_each_further_message_wakes_another_one(bells: Bells) -> None:
    asleep = sleepers(bells, 4, WANTS_MESSAGE, "q")
    bells.ring("q")
    bells.ring("q", 2)
    assert rung(asleep) == 3


def test_many_messages_wake_all_there_are(bells: Bells) -> None:
    asleep = sleepers(bells, 4, WANTS_MESSAGE, "q")
    bells.ring("q", 1000)
    assert rung(asleep) == 4


def test_only_those_who_want_the_queue_are_woken(bells: Bells) -> None:
    others = sleepers(bells, 3, WANTS_MESSAGE, "r", "s")
    waiting_for_a_value = sleepers(bells, 1, WANTS_VALUE, "q")
    asleep = sleepers(bells, 1, WANTS_MESSAGE, "r", "q")
    bells.ring("q", 9)
    assert (rung(others), rung(waiting_for_a_value), rung(asleep)) == (0, 0, 1)


def test_who_leaves_some_actors_alone_is_woken_only_where_nobody_else_sleeps(bells: Bells) -> None:
    choosy = sleepers(bells, 2, WANTS_SOME_MESSAGE, "q")
    asleep = sleepers(bells, 2, WANTS_MESSAGE, "q")
    bells.ring("q", 2)
    assert (rung(choosy), rung(asleep)) == (0, 2)
    bells.ring("q")
    assert rung(choosy) == 1


def test_what_is_passed_on_wakes_one_who_wants_any_message_or_nobody(bells: Bells) -> None:
    choosy = sleepers(bells, 1, WANTS_SOME_MESSAGE, "q")
    others = sleepers(bells, 1, WANTS_MESSAGE, "r")
    asleep = sleepers(bells, 2, WANTS_MESSAGE, "q")
    for _ in range(3):
        bells.pass_on("q")
    assert (rung(choosy), rung(others), rung(asleep)) == (0, 0, 2)


def test_a_value_wakes_all_who_wait_for_it(bells: Bells) -> None:
    asleep, others = sleepers(bells, 5, WANTS_VALUE, "k"), sleepers(bells, 2, WANTS_VALUE, "l")
    waiting_for_messages = sleepers(bells, 2, WANTS_MESSAGE, "k")
    bells.ring_value("k")
    assert (rung(asleep), rung(others), rung(waiting_for_messages)) == (5, 0, 0)


def test_who_has_withdrawn_is_not_woken_but_the_next_one_is(bells: Bells) -> None:
    first, second = sleepers(bells, 2, WANTS_MESSAGE, "q")
    first.withdraw()
    bells.ring("q")
    assert (first.wait(AT_ONCE), second.wait(AT_ONCE)) == (False, True)


def test_a_bell_that_rang_before_the_wait_ends_it(bells: Bells) -> None:
    (sleeper,) = sleepers(bells, 1, WANTS_MESSAGE, "q")
    bells.ring("q")
    with promptly():
        assert sleeper.wait(None)


def test_a_wait_without_a_bell_ends_when_its_time_is_over(bells: Bells) -> None:
    (sleeper,) = sleepers(bells, 1, WANTS_MESSAGE, "q")
    began = time.monotonic()
    assert not sleeper.wait(50)
    assert 0.045 < time.monotonic() - began < 5


def test_a_place_that_was_given_back_is_borrowed_again(bells: Bells) -> None:
    sleeper = bells.borrow()
    bells.give_back(sleeper)
    assert bells.borrow() is sleeper


def test_wake_own_ends_every_wait_of_this_process_and_no_other(bells: Bells, folder: str) -> None:
    other_process = Bells(folder, never_changes)
    asleep, others = sleepers(bells, 3, WANTS_MESSAGE, "q"), sleepers(other_process, 2, WANTS_MESSAGE, "q")
    bells.wake_own()
    assert (rung(asleep), rung(others)) == (3, 0)
    other_process.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_the_table_and_the_fifos_are_private(folder: str) -> None:
    before = os.umask(0)
    try:
        bells = Bells(folder, never_changes)
        sleepers(bells, 1, WANTS_MESSAGE, "q")
    finally:
        os.umask(before)
    assert {each.stat().st_mode & 0o777 for each in Path(folder).iterdir()} == {0o600}
    bells.close()


def test_who_lies_down_beside_a_message_that_it_leaves_alone_tells_one_who_wants_it(store: SQLiteStore) -> None:
    """The bell for it may have been heard by the one who leaves it alone."""
    other = SQLiteStore(store.path)
    (asleep,) = sleepers(other.bells, 1, WANTS_MESSAGE, "q")
    store.put([message(actor="a")], now=NOW)
    assert asleep.wait(LONG)
    asleep.announce(WANTS_MESSAGE, mask(["q"]))

    assert not store.wait(["q"], now=NOW, timeout=1, skip=lambda: frozenset({"a"}))

    assert asleep.wait(AT_ONCE)
    other.close()


def test_who_leaves_actors_alone_that_no_message_waits_for_tells_nobody(store: SQLiteStore) -> None:
    other = SQLiteStore(store.path)
    (asleep,) = sleepers(other.bells, 1, WANTS_MESSAGE, "q")

    assert not store.wait(["q"], now=NOW, timeout=1, skip=lambda: frozenset({"a"}))

    assert not asleep.wait(AT_ONCE)
    other.close()


# -- the dead, and who takes their place


def sleep_for_ever(folder: str, count: int, connection: Connection) -> None:
    bells = Bells(folder, never_changes)
    sleepers(bells, count, WANTS_MESSAGE, "q")
    connection.send("asleep")
    threading.Event().wait()


def test_a_dead_sleeper_does_not_take_the_bell_from_a_living_one(
    bells: Bells, folder: str, start: Callable[..., Any]
) -> None:
    process, connection = start(sleep_for_ever, folder, 3)
    connection.recv()
    alive = sleepers(bells, 1, WANTS_MESSAGE, "q")
    process.kill()
    process.join()
    bells.ring("q")
    assert rung(alive) == 1


def test_who_died_asleep_is_forgotten_and_who_sleeps_is_not(
    bells: Bells, folder: str, start: Callable[..., Any]
) -> None:
    process, connection = start(sleep_for_ever, folder, 2)
    connection.recv()
    alive = sleepers(bells, 1, WANTS_MESSAGE, "q")
    process.kill()
    process.join()
    bells.forget_the_dead()
    table = (Path(folder) / "table").read_bytes()
    assert table[:3] == AWAKE + AWAKE + WANTS_MESSAGE
    bells.ring("q")
    assert rung(alive) == 1


def slot_files(folder: str) -> set[str]:
    return {name for name in os.listdir(folder) if name.isdigit()}


def test_the_slot_of_a_dead_sleeper_is_used_again(
    bells: Bells, folder: str, start: Callable[..., Any]
) -> None:
    for _ in range(3):
        process, connection = start(sleep_for_ever, folder, 2)
        connection.recv()
        process.kill()
        process.join()
    asleep = sleepers(bells, 2, WANTS_MESSAGE, "q")
    assert len(slot_files(folder)) == 2
    bells.ring("q", 2)
    assert rung(asleep) == 2


def test_who_takes_a_dead_sleepers_slot_wants_nothing_yet(
    bells: Bells, folder: str, start: Callable[..., Any]
) -> None:
    process, connection = start(sleep_for_ever, folder, 1)
    connection.recv()
    alive = sleepers(bells, 1, WANTS_MESSAGE, "q")  # the slot after it
    process.kill()
    process.join()
    heir = bells.borrow()  # the slot of the dead one, and awake
    bells.ring("q")
    assert (heir.wait(AT_ONCE), rung(alive)) == (False, 1)


def test_the_slots_of_who_closed_are_free(bells: Bells, folder: str) -> None:
    other = Bells(folder, never_changes)
    sleepers(other, 3, WANTS_MESSAGE, "q")
    other.close()
    asleep = sleepers(bells, 1, WANTS_MESSAGE, "q")
    bells.ring("q")
    assert rung(asleep) == 1
    assert len(slot_files(folder)) == 3


def test_a_forked_child_takes_slots_of_its_own(
    bells: Bells, folder: str, start: Callable[..., Any]
) -> None:
    asleep = sleepers(bells, 2, WANTS_MESSAGE, "q")

    def in_child(connection: Connection) -> None:
        bells.forget_in_child()
        (own,) = sleepers(bells, 1, WANTS_VALUE, "k")
        connection.send(own.wait(LONG))

    _, connection = start(in_child)
    with promptly():
        while not connection.poll(0.01):
            bells.ring_value("k")
    assert connection.recv()
    bells.ring("q", 2)
    assert rung(asleep) == 2, "the child did not take what was its parent's"


def test_a_child_that_forgot_does_not_keep_its_parents_slots(
    folder: str, start: Callable[..., Any]
) -> None:
    parent = Bells(folder, never_changes)
    sleepers(parent, 2, WANTS_MESSAGE, "q")

    def in_child(connection: Connection) -> None:
        parent.forget_in_child()
        connection.send("forgotten")
        threading.Event().wait()

    _, connection = start(in_child)
    connection.recv()
    parent.close()
    heir = Bells(folder, never_changes)
    sleepers(heir, 2, WANTS_MESSAGE, "q")
    assert len(slot_files(folder)) == 2
    heir.close()


# -- without FIFOs, or without a free slot


@pytest.fixture(params=["no FIFOs", "no free slots"])
def napping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleepers have no bell, and look now and then."""
    if request.param == "no FIFOs":
        monkeypatch.setattr(bell, "_has_fifo", False)
    else:
        monkeypatch.setattr(bell, "SLOTS", 0)


@contextmanager
def another_thread(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work)


@pytest.mark.usefixtures("napping")
def test_who_naps_notices_what_this_process_stores(store: SQLiteStore) -> None:
    with promptly(), another_thread(lambda: store.wait(["q"], now=NOW, timeout=LONG)) as sleeper:
        store.put([message()], now=NOW)
        assert sleeper.result()


@pytest.mark.usefixtures("napping")
def test_who_naps_notices_what_another_process_stores(
    store: SQLiteStore, start: Callable[..., Any]
) -> None:
    def in_child(connection: Connection) -> None:
        connection.recv()
        SQLiteStore(store.path).put([message()], now=NOW)

    _, connection = start(in_child)
    with promptly(), another_thread(lambda: store.wait(["q"], now=NOW, timeout=LONG)) as sleeper:
        connection.send("go")
        assert sleeper.result()


@pytest.mark.usefixtures("napping")
def test_who_naps_gets_the_value_that_it_waits_for(store: SQLiteStore) -> None:
    wait_for_it = lambda: store.wait_value("k", clock=lambda: NOW, timeout=LONG)  # noqa: E731
    with promptly(), another_thread(wait_for_it) as sleeper:
        store.set_values([Value("other", b"no", HOUR)], now=NOW)
        store.set_values([Value("k", b"yes", HOUR)], now=NOW)
        assert sleeper.result() == b"yes"


@pytest.mark.usefixtures("napping")
def test_a_nap_ends_when_its_time_is_over(store: SQLiteStore) -> None:
    began = time.monotonic()
    assert not store.wait(["q"], now=NOW, timeout=50)
    assert 0.045 < time.monotonic() - began < 5


@pytest.mark.usefixtures("napping")
def test_a_nap_is_ended_by_a_wake_that_came_before_it(store: SQLiteStore) -> None:
    def skip() -> frozenset[str]:
        store.wake()
        return frozenset({"a"})

    with promptly():
        store.wait(["q"], now=NOW, timeout=LONG, skip=skip)


@pytest.mark.usefixtures("napping")
def test_a_nap_is_ended_by_wake(store: SQLiteStore) -> None:
    with promptly(), another_thread(lambda: store.wait(["q"], now=NOW, timeout=LONG)) as sleeper:
        while not wait([sleeper], timeout=0.01).done:
            store.wake()


def test_when_all_slots_are_taken_the_next_one_naps(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bell, "SLOTS", 8)
    looks = iter([False, False, True])  # the first is the one before the nap
    bells = Bells(folder, lambda: lambda: next(looks))
    asleep = sleepers(bells, 9, WANTS_MESSAGE, "q")
    bells.ring("q", 9)
    assert rung(asleep[:8]) == 8
    with promptly():
        assert asleep[8].wait(LONG)
    assert list(looks) == []
    bells.close()


# -- nothing falls between


def answer(path: str, rounds: int, _: Connection) -> None:
    """Send one message back for each that comes, and never miss one."""
    store = SQLiteStore(path)
    for _ in range(rounds):
        reply_to_next(store, "ping", "pong")


def reply_to_next(store: SQLiteStore, queue: str, reply: str) -> None:
    while not (claimed := take(store, 1, NOW, queues=[queue])):
        # A bell that was missed would end this wait only after half a minute.
        store.wait([queue], now=NOW, timeout=LONG)
    store.finish([done(each) for each in claimed], now=NOW)
    store.put([message(queue=reply)], now=NOW)


def test_no_bell_is_missed_in_two_thousand_rounds_between_two_processes(
    store: SQLiteStore, start: Callable[..., Any]
) -> None:
    rounds = 2000
    process, _ = start(answer, store.path, rounds)
    longest = 0.0
    store.put([message(queue="ping")], now=NOW)
    for _ in range(rounds - 1):
        began = time.monotonic()
        reply_to_next(store, "pong", "ping")
        longest = max(longest, time.monotonic() - began)
    process.join(20)
    assert process.exitcode == 0
    assert longest < 10


def test_all_of_a_burst_is_claimed_by_sleepers_of_several_processes(
    store: SQLiteStore, start: Callable[..., Any]
) -> None:
    def consume(connection: Connection) -> None:
        own = SQLiteStore(store.path)
        while True:
            for each in take(own, 1, NOW):
                connection.send(ids([each])[0])
                own.finish([done(each)], now=NOW)
            own.wait(["q"], now=NOW, timeout=LONG)

    consumers = [start(consume)[1] for _ in range(3)]
    seen: list[str] = []
    for burst in range(50):
        names = {f"{burst} {n}" for n in range(1 + burst % 5)}
        store.put([message(name) for name in names], now=NOW)
        with promptly():
            while not names <= set(seen):
                for connection in multiprocessing.connection.wait(consumers, 20):
                    seen.append(connection.recv())
    assert len(seen) == len(set(seen))


def test_the_table_says_so_when_nobody_sleeps(store: SQLiteStore) -> None:
    store.wait(["q"], now=NOW, timeout=1)
    store.wait_value("k", clock=lambda: NOW, timeout=1)
    table = Path(store.path + ".localq", "bells", "table").read_bytes()
    assert set(table[: bell.SLOTS]) == {AWAKE[0]}
