"""Rate limiters and barriers: how many get in, and who hears of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import localq
from localq import Broker
from localq.brokers import SQLiteBroker
from localq.clock import clock
from localq.rate_limits import (
    Barrier,
    BucketRateLimiter,
    ConcurrentRateLimiter,
    RateLimiter,
    RateLimiterBackend,
    RateLimitExceeded,
    WindowRateLimiter,
)
from localq.rate_limits.backends import SQLiteBackend, StubBackend
from localq.threading import Interrupt, Interruptible, raise_thread_exception

MINUTE = 60_000


@pytest.fixture(params=["sqlite", "stub"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "stub":
        yield StubBackend()
        return
    backend = SQLiteBackend(path=tmp_path / "limits.db")
    yield backend
    backend.store.close()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``at(millis)`` stops the clock so many milliseconds after a full minute."""
    begin = time.time_ns() // 10**6 // MINUTE * MINUTE

    def at(millis: int) -> None:
        monkeypatch.setattr(clock, "wall", lambda: begin + millis)

    return at


def lets_in(limiter: RateLimiter) -> bool:
    with limiter.acquire(raise_on_failure=False) as acquired:
        return acquired


def in_threads(count: int, do: Callable[[], Any]) -> list[Any]:
    begin = threading.Barrier(count)

    def run(_: int) -> Any:
        begin.wait(20)
        return do()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# -- at the same time


def test_no_more_than_the_limit_get_in_at_the_same_time(backend: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(backend, "key", limit=2)

    with limiter.acquire() as first, limiter.acquire() as second:
        assert (first, second) == (True, True)
        assert not lets_in(limiter)
    assert lets_in(limiter)


def test_of_32_threads_four_get_in_where_the_limit_is_four(backend: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(backend, "key", limit=4)
    all_tried = threading.Barrier(32)

    def try_it() -> bool:
        with limiter.acquire(raise_on_failure=False) as acquired:
            all_tried.wait(20)
            return acquired

    assert sum(in_threads(32, try_it)) == 4
    with limiter.acquire(), limiter.acquire(), limiter.acquire(), limiter.acquire():
        assert not lets_in(limiter)


def test_a_limiter_of_one_is_a_mutex(backend: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(backend, "key")
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(20):
            with limiter.acquire(raise_on_failure=False) as acquired:
                if acquired:
                    inside.append(1)
                    most = max(most, len(inside))
                    inside.pop()

    in_threads(8, work)
    assert most == 1


def test_who_finds_no_place_gets_an_error_that_names_the_key(backend: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(backend, "the key")

    with limiter.acquire(), pytest.raises(RateLimitExceeded, match="'the key'"), limiter.acquire():
        pytest.fail("it was let in")
    with limiter.acquire() as acquired:
        assert acquired


def test_a_place_is_free_again_when_what_it_was_for_fails(backend: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(backend, "key")

    with pytest.raises(ZeroDivisionError), limiter.acquire():
        raise ZeroDivisionError

    assert lets_in(limiter)


def test_a_place_stays_taken_however_long_one_is_inside(
    backend: RateLimiterBackend, at: Callable[[int], None]
) -> None:
    limiter = ConcurrentRateLimiter(backend, "key", ttl=1000)

    at(0)
    with limiter.acquire():
        at(100_000)
        assert not lets_in(limiter)
    assert lets_in(limiter)


def test_in_a_backend_that_only_counts_places_are_free_when_their_time_is_over(at: Callable[[int], None]) -> None:
    class Counting(RateLimiterBackend):
        """A backend of somebody's own, with dramatiq's verbs and no others."""

        value, until = 0, 0

        def add(self, key: str, value: int, ttl: int) -> bool:
            if self.until > clock.wall():
                return False
            self.value, self.until = value, clock.wall() + ttl
            return True

        def incr(self, key: str, amount: int, maximum: int, ttl: int) -> bool:
            return self._step(amount, ttl) if self.value + amount <= maximum else False

        def decr(self, key: str, amount: int, minimum: int, ttl: int) -> bool:
            return self._step(-amount, ttl) if self.value - amount >= minimum else False

        def _step(self, amount: int, ttl: int) -> bool:
            self.value, self.until = self.value + amount, clock.wall() + ttl
            return True

    limiter = ConcurrentRateLimiter(Counting(), "key", limit=2, ttl=1000)

    at(0)
    with limiter.acquire(), limiter.acquire():
        assert not lets_in(limiter)
    assert limiter._acquire()
    assert limiter._acquire()
    at(999)
    assert not lets_in(limiter)
    at(1001)
    assert lets_in(limiter)


def test_a_limiter_and_a_counter_may_have_one_key(backend: RateLimiterBackend) -> None:
    assert backend.add("key", 5, MINUTE)
    with ConcurrentRateLimiter(backend, "key").acquire():
        assert not backend.add("key", 1, MINUTE)


def test_limiters_of_one_key_and_different_limits_count_the_same_places(backend: RateLimiterBackend) -> None:
    one, two = (ConcurrentRateLimiter(backend, "key", limit=limit) for limit in (1, 2))

    with one.acquire(), two.acquire():
        assert not lets_in(two)
    with two.acquire():
        assert not lets_in(one)


def test_an_interrupt_never_keeps_a_place(backend: RateLimiterBackend) -> None:
    limiter = ConcurrentRateLimiter(backend, "key", limit=1)
    # Bare locks for the two to signal with: an interrupt may leave an Event's own lock held.
    opened, landed, over = threading.Lock(), threading.Lock(), False
    opened.acquire(), landed.acquire()
    refused: list[bool] = []

    def work() -> None:  # a function of its own: see test_interrupts.py
        while not over and not refused:
            with limiter.acquire(raise_on_failure=False) as acquired:
                if not acquired:
                    refused.append(True)

    def work_until_interrupted() -> None:
        while not over and not refused:
            door = Interruptible()
            try:
                door.open()
                opened.release()
                work()
            except Interrupt:
                door.close()
                door.forget()
                landed.release()

    thread = threading.Thread(target=work_until_interrupted)
    thread.start()
    try:
        for _ in range(50):
            if not opened.acquire(timeout=20) or refused:
                break
            raise_thread_exception(thread.ident or 0, Interrupt)
            if not landed.acquire(timeout=20):
                break
    finally:
        over = True
        thread.join(20)
    assert not refused


# -- in a stretch of time


def test_a_bucket_lets_in_so_many_in_each_interval(backend: RateLimiterBackend, at: Callable[[int], None]) -> None:
    limiter = BucketRateLimiter(backend, "key", limit=2, bucket=1000)

    seen = []
    for now in (0, 500, 999, 1000, 1001, 1002, 5000):
        at(now)
        seen.append(lets_in(limiter))

    assert seen == [True, True, False, True, True, False, True]


def test_a_window_lets_in_so_many_whenever_one_looks(
    backend: RateLimiterBackend, at: Callable[[int], None]
) -> None:
    limiter = WindowRateLimiter(backend, "key", limit=2, window=3)

    seen = []
    for now in (0, 2500, 2900, 3000, 3100, 5100, 5200, 6000):
        at(now)
        seen.append(lets_in(limiter))

    assert seen == [True, True, False, True, False, True, False, True]


@pytest.mark.parametrize("make", [BucketRateLimiter, WindowRateLimiter])
def test_of_32_threads_in_one_stretch_of_time_four_get_in(
    backend: RateLimiterBackend, at: Callable[[int], None], make: Any
) -> None:
    at(0)

    limiter = make(backend, "key", limit=4)

    assert sum(in_threads(32, lambda: lets_in(limiter))) == 4


def test_many_threads_that_try_all_the_time_stay_within_the_window(backend: RateLimiterBackend) -> None:
    limiter = WindowRateLimiter(backend, "key", limit=2, window=1)
    let_in: list[tuple[int, int]] = []  # after which second, and before the end of which
    end = time.monotonic() + 3.2

    def try_again_and_again() -> None:
        while time.monotonic() < end:
            asked_in = clock.wall() // 1000
            if lets_in(limiter):
                let_in.append((asked_in, clock.wall() // 1000))
            time.sleep(0.005)

    in_threads(8, try_again_and_again)
    # A loaded machine may let seconds pass in which nobody tried, and try long after the end.
    seconds = max(told for _, told in let_in) - min(asked for asked, _ in let_in) + 1
    assert 2 <= len(let_in) <= 2 * seconds


def test_keys_are_limited_each_for_itself(backend: RateLimiterBackend, at: Callable[[int], None]) -> None:
    at(0)
    for make in (ConcurrentRateLimiter, BucketRateLimiter, WindowRateLimiter):
        one, other = make(backend, f"{make.__name__} one"), make(backend, f"{make.__name__} other")
        with one.acquire(), other.acquire():
            assert not lets_in(one)


@pytest.mark.parametrize("make", [ConcurrentRateLimiter, BucketRateLimiter, WindowRateLimiter])
def test_a_limit_below_one_is_refused(backend: RateLimiterBackend, make: Any) -> None:
    with pytest.raises(AssertionError, match="a limit is at least 1, not 0"):
        make(backend, "key", limit=0)


def test_limiters_have_the_defaults_of_dramatiq(backend: RateLimiterBackend) -> None:
    concurrent = ConcurrentRateLimiter(backend, "k")
    bucket = BucketRateLimiter(backend, "k")
    window = WindowRateLimiter(backend, "k")

    assert (concurrent.limit, concurrent.ttl) == (1, 900_000)
    assert (bucket.limit, bucket.bucket) == (1, 1000)
    assert (window.limit, window.window) == (1, 1)
    assert Barrier(backend, "k").ttl == 900_000


# -- barriers


def test_a_barrier_opens_when_the_last_of_its_parties_arrives(backend: RateLimiterBackend) -> None:
    barrier = Barrier(backend, "key", ttl=30_000)

    assert barrier.create(parties=3)
    assert not barrier.create(parties=9)
    assert [barrier.wait(block=False) for _ in range(3)] == [False, False, True]


def test_all_who_wait_at_a_barrier_go_on_at_once(backend: RateLimiterBackend) -> None:
    passed: list[list[float]] = []
    for n in range(5):
        barrier = Barrier(backend, f"key {n}")
        assert barrier.create(parties=3)
        times: list[float] = []

        def arrive(barrier: Barrier = barrier, times: list[float] = times) -> bool:
            arrived = barrier.wait(timeout=20_000)
            times.append(time.monotonic())
            return arrived

        assert in_threads(3, arrive) == [True, True, True]
        passed.append(times)
    # The best of five: on a loaded machine a thread may not run for a while.
    assert min(max(times) - min(times) for times in passed) <= 0.01


def test_waiting_at_a_barrier_times_out(backend: RateLimiterBackend) -> None:
    barrier = Barrier(backend, "key")
    barrier.create(parties=2)
    began = time.monotonic()

    assert not barrier.wait(timeout=100)

    assert 0.099 <= time.monotonic() - began < 10


def test_who_waits_without_a_timeout_waits_until_all_are_there(backend: RateLimiterBackend) -> None:
    barrier = Barrier(backend, "key")
    barrier.create(parties=2)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(barrier.wait)
        assert not _is_done(waiting, seconds=0.05)
        assert barrier.wait()
        assert waiting.result(20) is True


def _is_done(future: Any, *, seconds: float) -> bool:
    try:
        future.result(seconds)
    except TimeoutError:
        return False
    except Exception as error:  # Python 3.10 has a TimeoutError of its own there
        if type(error).__name__ != "TimeoutError":
            raise
        return False
    return True


def test_who_waits_for_an_event_hears_one_that_came_before(backend: RateLimiterBackend) -> None:
    backend.wait_notify("key", MINUTE)

    assert backend.wait("key", 10)
    assert not backend.wait("another", 10)


def test_a_barrier_for_nobody_is_refused(backend: RateLimiterBackend) -> None:
    with pytest.raises(AssertionError, match="at least one party, not for 0"):
        Barrier(backend, "key").create(parties=0)


def test_a_barrier_may_be_a_subclass_that_uses_the_backend_itself(backend: RateLimiterBackend) -> None:
    class CountingUp(Barrier):
        def create(self, parties: int) -> bool:
            self.parties = parties
            return self.backend.add(self.key, -1, self.ttl)

        def wait(self, *, block: bool = True, timeout: int | None = None) -> bool:
            self.backend.incr(self.key, 1, self.parties - 1, self.ttl)
            return not self.backend.incr(self.key, 0, self.parties - 2, self.ttl)

    barrier = CountingUp(backend, "key")

    assert barrier.create(3)
    assert [barrier.wait(block=False) for _ in range(3)] == [False, False, True]


def test_backends_and_barriers_can_be_mocked_by_their_class() -> None:
    backend = mock.create_autospec(RateLimiterBackend, instance=True)
    backend.add.return_value = False
    backend.incr.return_value = True

    assert lets_in(ConcurrentRateLimiter(backend, "key", limit=3, ttl=7))

    backend.add.assert_called_once_with("key", 1, 7)
    backend.incr.assert_called_once_with("key", 1, 3, 7)
    assert mock.create_autospec(Barrier, instance=True).wait(block=False)


def test_the_base_of_backends_says_what_a_subclass_lacks() -> None:
    class Empty(RateLimiterBackend):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty has no wait\(\)"):
        Empty().wait("key", 1)
    with pytest.raises(NotImplementedError, match=r"Empty has no add\(\)"):
        lets_in(ConcurrentRateLimiter(Empty(), "key"))
    Empty().wait_notify("key", 1)


# -- backends


def test_a_stub_backend_can_be_emptied() -> None:
    backend = StubBackend()
    limiter = ConcurrentRateLimiter(backend, "key")
    assert limiter._acquire()
    assert backend.db == {"key": 1}

    backend.db = {}

    assert backend.db == {}
    assert lets_in(limiter)
    with pytest.raises(ValueError, match="can only be emptied"):
        backend.db = {"key": 1}


def test_two_stub_backends_share_nothing() -> None:
    with ConcurrentRateLimiter(StubBackend(), "key").acquire():
        assert lets_in(ConcurrentRateLimiter(StubBackend(), "key"))


def test_making_a_backend_touches_no_disk(tmp_path: Path) -> None:
    ConcurrentRateLimiter(SQLiteBackend(tmp_path / "limits.db"), "key")

    assert list(tmp_path.iterdir()) == []


def test_a_backend_on_the_path_of_a_broker_shares_its_store(tmp_path: Path) -> None:
    broker, backend = SQLiteBroker(tmp_path / "jobs.db"), SQLiteBackend(tmp_path / "jobs.db")

    assert backend.store is broker.store
    assert lets_in(ConcurrentRateLimiter(backend, "key"))
    backend.store.close()
    broker.close()


def test_a_backend_without_a_path_counts_where_the_global_broker_keeps_its_messages(tmp_path: Path) -> None:
    limiter = ConcurrentRateLimiter(SQLiteBackend(), "key")
    assert list(tmp_path.iterdir()) == []
    localq.connect(f"sqlite:///{tmp_path}/jobs.db")
    beside = ConcurrentRateLimiter(SQLiteBackend(tmp_path / "jobs.db"), "key")

    with limiter.acquire():
        assert not lets_in(beside)
    assert lets_in(beside)


def test_a_limit_holds_over_processes(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "limits.db")
    script = """
import sys
from localq.rate_limits import ConcurrentRateLimiter
from localq.rate_limits.backends import SQLiteBackend
with ConcurrentRateLimiter(SQLiteBackend(sys.argv[1]), "key").acquire(raise_on_failure=False) as acquired:
    print(acquired)
"""

    def ask_another_process() -> str:
        command = [sys.executable, "-c", script, str(tmp_path / "limits.db")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with ConcurrentRateLimiter(backend, "key").acquire():
        assert ask_another_process() == "False"
    assert ask_another_process() == "True"
    backend.store.close()


# -- in actors


def test_a_message_that_finds_no_place_is_retried_until_it_does(
    broker: Broker, backend: RateLimiterBackend, drain: Callable[..., None]
) -> None:
    mutex = ConcurrentRateLimiter(backend, "mutex")
    inside, most, ran = [], [], []

    @localq.actor(min_backoff=1, max_backoff=5, max_retries=10_000)
    def work(n: int) -> None:
        with mutex.acquire():
            inside.append(n)
            most.append(len(inside))
            time.sleep(0.002)
            inside.remove(n)
        ran.append(n)

    broker.enqueue_many(work.message(n) for n in range(10))
    drain(broker, worker_threads=4)

    assert sorted(ran) == list(range(10))
    assert set(most) == {1}


@pytest.mark.parametrize("url", ["memory://"])
def test_actors_can_meet_at_a_barrier(
    broker: Broker, backend: RateLimiterBackend, drain: Callable[..., None]
) -> None:
    Barrier(backend, "meeting").create(parties=3)
    met = []

    @localq.actor
    def meet(n: int) -> None:
        met.append(Barrier(backend, "meeting").wait(timeout=20_000))

    broker.enqueue_many(meet.message(n) for n in range(3))
    drain(broker, worker_threads=3)

    assert met == [True, True, True]
