"""Interrupts: exceptions that one thread raises in another, and where they may land."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import localq
from localq.middleware import Interrupt as InterruptOfMiddleware
from localq.middleware import raise_thread_exception as raise_of_middleware
from localq.store.base import nothing
from localq.threading import (
    Interrupt,
    Interruptible,
    current_platform,
    is_gevent_active,
    raise_thread_exception,
    shielded,
    supported_platforms,
)

# Loops that are to be interrupted stand in a function of their own: the compiler of CPython 3.13.0 leaves
# the jump back to the head of a `while` out of the `try` around it.


class Spoken(Interrupt):
    """An interrupt that says something."""


def open_files() -> int:
    """How many file descriptors this process has; 0 where nobody says."""
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


def run_python_code() -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.001)


class Spinning:
    """A thread that runs Python code until it is interrupted or told to end."""

    def __init__(self, *, with_door: bool, opened: bool = True) -> None:
        self.with_door = with_door
        self.opened = opened
        self.running = threading.Event()
        self.told_to_end = False
        self.shielded = threading.Event()
        self.leave_shield = threading.Event()
        self.caught: BaseException | None = None
        self.landed_in_shield = False
        self.thread = threading.Thread(target=self.run)

    def start(self, *, in_shield: bool = False) -> int:
        self.in_shield = in_shield
        self.thread.start()
        assert self.running.wait(20)
        assert self.thread.ident is not None
        return self.thread.ident

    def run(self) -> None:
        door = Interruptible() if self.with_door else None
        try:
            try:
                if door is not None and self.opened:
                    door.open()
                self.work()
            finally:
                if door is not None:
                    door.close()
        except Interrupt as error:
            self.caught = error
        if door is not None:
            door.forget()

    def work(self) -> None:
        self.running.set()
        if self.in_shield:
            with shielded():
                try:
                    self.shielded.set()
                    while not self.leave_shield.is_set():
                        time.sleep(0.001)
                except Interrupt:
                    self.landed_in_shield = True
                    raise
        end = time.monotonic() + 20
        while not self.told_to_end and time.monotonic() < end:
            time.sleep(0.001)

    def end(self) -> None:
        self.told_to_end = True
        self.leave_shield.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def spin() -> Iterator[Callable[..., Spinning]]:
    made: list[Spinning] = []

    def spin(**options: Any) -> Spinning:
        made.append(Spinning(**options))
        return made[-1]

    yield spin
    for each in made:
        each.end()


@pytest.fixture
def switches_often() -> Iterator[None]:
    """Python goes from one thread to another between any two bytecodes, instead of 5 ms later."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.000_01)
    yield
    sys.setswitchinterval(before)


# -- raising


def test_an_interrupt_is_not_an_exception_that_tasks_catch_by_accident() -> None:
    assert issubclass(Interrupt, BaseException)
    assert not issubclass(Interrupt, Exception)
    assert InterruptOfMiddleware is Interrupt
    assert raise_of_middleware is raise_thread_exception


def test_this_python_is_among_the_supported_platforms() -> None:
    assert "CPython" in supported_platforms
    assert current_platform in supported_platforms
    assert is_gevent_active() is False


@pytest.mark.parametrize("with_door", [False, True])
def test_it_is_raised_in_a_thread_that_runs_python_code(spin: Callable[..., Spinning], with_door: bool) -> None:
    spinning = spin(with_door=with_door)

    raise_thread_exception(spinning.start(), Interrupt)
    spinning.thread.join(20)

    assert type(spinning.caught) is Interrupt


def test_an_instance_can_be_raised_with_what_it_says(spin: Callable[..., Spinning]) -> None:
    spinning = spin(with_door=True)

    raise_thread_exception(spinning.start(), Spoken("enough", 3))
    spinning.thread.join(20)

    assert isinstance(spinning.caught, Spoken)
    assert spinning.caught.args == ("enough", 3)


def test_raising_in_a_thread_that_is_not_there_is_logged_as_critical(caplog: pytest.LogCaptureFixture) -> None:
    gone = threading.Thread(target=lambda: None)
    gone.start()
    gone.join()
    # An ident may be taken by the next thread, so one that none can have.
    raise_thread_exception(2**40 + 7, Interrupt)

    assert caplog.record_tuples == [
        ("localq.threading", logging.CRITICAL, f"Failed to set exception (Interrupt) in thread {2**40 + 7}.")
    ]


def test_raising_where_that_is_not_supported_is_logged_as_critical(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spin: Callable[..., Spinning]
) -> None:
    spinning = spin(with_door=True)
    ident = spinning.start()
    monkeypatch.setattr(sys.modules["localq.threading"], "current_platform", "not supported")

    raise_thread_exception(ident, Interrupt)
    spinning.end()

    assert spinning.caught is None
    assert caplog.record_tuples == [
        (
            "localq.threading",
            logging.CRITICAL,
            "Setting thread exceptions (Interrupt) is not supported for your current platform ('not supported').",
        )
    ]


# -- where it lands


def test_an_interrupt_at_a_closed_door_is_dropped(spin: Callable[..., Spinning]) -> None:
    spinning = spin(with_door=True, opened=False)

    raise_thread_exception(spinning.start(), Interrupt)
    time.sleep(0.05)
    spinning.end()

    assert spinning.caught is None


def test_an_interrupt_waits_for_the_end_of_a_shield_and_lands_then(spin: Callable[..., Spinning]) -> None:
    spinning = spin(with_door=True)
    ident = spinning.start(in_shield=True)
    assert spinning.shielded.wait(20)

    raise_thread_exception(ident, Interrupt)
    time.sleep(0.05)
    assert spinning.caught is None
    assert spinning.thread.is_alive()
    spinning.leave_shield.set()
    spinning.thread.join(20)

    assert type(spinning.caught) is Interrupt
    assert not spinning.landed_in_shield


def test_shields_may_be_nested_and_the_outermost_counts() -> None:
    door = Interruptible()
    caught = []
    try:
        try:
            door.open()
            with shielded():
                with shielded():
                    threading.Thread(target=raise_thread_exception, args=(door.thread_id, Interrupt)).start()
                    time.sleep(0.05)
                caught.append("still inside")
        finally:
            door.close()
    except Interrupt:
        caught.append("outside")
    door.forget()

    assert caught == ["still inside", "outside"]


def test_what_waited_for_the_end_of_a_shield_is_dropped_when_the_door_closes_first() -> None:
    door = Interruptible()
    door.open()
    with shielded():
        interrupting = threading.Thread(target=raise_thread_exception, args=(door.thread_id, Interrupt))
        interrupting.start()
        interrupting.join(20)
        door.close()
    door.open()
    with shielded():
        pass
    door.close()
    door.forget()


def test_an_error_inside_a_shield_gets_out_even_when_an_interrupt_waits() -> None:
    door = Interruptible()

    def fail_in_a_shield() -> None:
        with shielded():
            interrupting = threading.Thread(target=raise_thread_exception, args=(door.thread_id, Interrupt))
            interrupting.start()
            interrupting.join(20)
            raise ValueError("mine")

    try:
        door.open()
        with pytest.raises(ValueError, match="mine"):
            fail_in_a_shield()
        with pytest.raises(Interrupt), shielded():
            pass
    finally:
        door.close()
        door.forget()


def test_a_thread_that_nobody_interrupts_needs_no_shield() -> None:
    with shielded(), shielded():
        pass


def test_interrupts_and_shields_never_miss_each_other() -> None:
    landed: list[str] = []
    ready, go_on = threading.Semaphore(0), threading.Semaphore(0)
    inside = False

    def go_in_and_out() -> None:
        nonlocal inside
        ready.release()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with shielded():
                inside = True
                inside = False

    def work() -> None:
        door = Interruptible()
        for _ in range(300):
            try:
                try:
                    door.open()
                    go_in_and_out()
                    landed.append("never")
                finally:
                    door.close()
            except Interrupt:
                door.close()
                landed.append("inside" if inside else "outside")
            go_on.acquire()
        door.forget()

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(300):
        assert ready.acquire(timeout=20)
        raise_thread_exception(thread.ident or 0, Interrupt)
        go_on.release()
    thread.join(60)

    assert landed == ["outside"] * 300


def interrupt_again_and_again(
    task: Callable[[], object], rounds: int, *, within: float = 10, after_each: Callable[[], object] = nothing
) -> None:
    """Have a thread do the task without end, and interrupt it so often, each time a moment after it has begun
    anew; each must land within so many seconds."""
    ready, landed = threading.Event(), threading.Semaphore(0)

    def do_without_end() -> None:
        ready.set()
        while True:
            task()

    def work() -> None:
        door = Interruptible()
        for _ in range(rounds):
            try:
                door.open()
                do_without_end()
            except Interrupt:
                door.close()
            landed.release()
        door.forget()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for number in range(rounds):
        assert ready.wait(20)
        ready.clear()
        time.sleep(number % 50 / 1_000_000)
        raise_thread_exception(thread.ident or 0, Interrupt)
        assert landed.acquire(timeout=within)
        after_each()
    thread.join(20)


def test_interrupts_of_waits_for_results_cost_no_place_to_sleep(
    broker_with_results: localq.Broker, switches_often: None
) -> None:
    message: localq.Message[Any] = localq.Message("default", "nobody", (), {}, {})
    counts: list[int] = []

    def look() -> None:
        with contextlib.suppress(localq.errors.ResultTimeout):
            broker_with_results.get_results_backend().get_result(message, block=True, timeout=0)

    look()
    before = open_files()
    interrupt_again_and_again(look, 2000, within=20, after_each=lambda: counts.append(open_files()))

    assert max(counts) == before


def test_an_interrupt_that_comes_while_the_last_shield_is_left_lands_too(switches_often: None) -> None:
    rounds = 2000
    at_the_end_of_a_shield, landed = threading.Semaphore(0), threading.Semaphore(0)

    def leave_a_shield_and_enter_none_again() -> None:
        with shielded():
            at_the_end_of_a_shield.release()
        run_python_code()

    def work() -> None:
        door = Interruptible()
        for _ in range(rounds):
            try:
                door.open()
                leave_a_shield_and_enter_none_again()
            except Interrupt:
                door.close()
                landed.release()
        door.forget()

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(rounds):
        assert at_the_end_of_a_shield.acquire(timeout=20)
        raise_thread_exception(thread.ident or 0, Interrupt)
        assert landed.acquire(timeout=10)
    thread.join(20)


def test_an_interrupt_while_a_task_starts_a_thread_is_not_given_to_that_thread(switches_often: None) -> None:
    # Before Python 3.12 the new thread died of it, and `start` waited for it for ever.
    interrupt_again_and_again(lambda: threading.Thread(target=lambda: None, daemon=True).start(), 500)


def test_an_interrupt_while_a_task_logs_leaves_no_lock_held(switches_often: None) -> None:
    # Before Python 3.13 every other thread that logs would wait for ever.
    handler, logger = logging.StreamHandler(io.StringIO()), logging.Logger("of a task")
    logger.addHandler(handler)

    interrupt_again_and_again(lambda: logger.warning("again"), 2000)

    assert handler.lock is not None
    assert handler.lock.acquire(timeout=10)
    handler.lock.release()


# -- on the main thread, by a signal

BY_SIGNAL = """
import sys, threading, time
from localq.store.base import nothing
from localq.threading import Interrupt, Interruptible, install_signal_handler, raise_thread_exception, shielded

assert install_signal_handler()
door = Interruptible(by_signal=True)

def interrupt_soon():
    threading.Timer(0.2, raise_thread_exception, (door.thread_id, Interrupt)).start()

def run(what):
    began = time.monotonic()
    try:
        try:
            door.open()
            interrupt_soon()
            what()
        finally:
            door.close()
    except Interrupt:
        return "interrupted", time.monotonic() - began
    return "not interrupted", time.monotonic() - began

def blocking():
    time.sleep(20)

def in_a_shield():
    with shielded():
        time.sleep(0.6)
    time.sleep(20)

end, seconds = run(blocking)
assert end == "interrupted" and 0.1 < seconds < 10, (end, seconds)

end, seconds = run(in_a_shield)
assert end == "interrupted" and 0.5 < seconds < 10, (end, seconds)

# At a closed door it is dropped, and a blocking call goes on to its end.
interrupt_soon()
began = time.monotonic()
time.sleep(0.5)
assert time.monotonic() - began >= 0.49

end, seconds = run(lambda: None)
assert end == "not interrupted"
time.sleep(0.4)
print("all as it should be")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that interrupts")
def test_on_the_main_thread_a_signal_ends_a_blocking_call_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BY_SIGNAL],
        cwd=Path(localq.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert (done.stdout, done.stderr) == ("all as it should be\n", "")


# -- in actors


def test_an_interrupt_lands_in_the_actor_and_is_a_failure_of_its_message(
    broker: localq.Broker, start_worker: Callable[..., localq.Worker]
) -> None:
    started = threading.Semaphore(0)
    threads: list[int] = []
    ends: list[str] = []

    @localq.actor(max_retries=0)
    def work() -> None:
        try:
            threads.append(threading.get_ident())
            started.release()
            run_python_code()
        except Spoken:
            ends.append("interrupted")
            raise

    work.send()
    start_worker(broker, worker_threads=1)
    assert started.acquire(timeout=20)

    raise_thread_exception(threads[0], Spoken("enough"))
    broker.join("default", timeout=20_000)

    assert ends == ["interrupted"]
    (dead,) = broker.store.browse(localq.store.Selection())
    assert dead.reason == "Spoken: enough"


def test_an_interrupt_between_two_messages_is_dropped(
    broker: localq.Broker, start_worker: Callable[..., localq.Worker], until: Callable[..., Any]
) -> None:
    ran = []
    work = localq.actor(lambda: ran.append(1), actor_name="work")
    worker = start_worker(broker, worker_threads=1)
    (thread,) = worker.workers
    until(lambda: thread.idle)

    for _ in range(20):
        raise_thread_exception(thread.ident, Interrupt)
    work.send()
    broker.join("default", timeout=20_000)

    assert ran == [1]
    assert thread.is_alive()


def test_interrupts_at_any_moment_lose_no_message_and_no_thread(
    broker: localq.Broker, start_worker: Callable[..., localq.Worker]
) -> None:
    lock = threading.Lock()
    ran: list[int] = []

    @localq.actor(max_retries=None, min_backoff=0, max_backoff=0)
    def work(n: int) -> None:
        if n % 50 == 0:
            time.sleep(0.002)
        with shielded(), lock:
            ran.append(n)

    logging.disable(logging.CRITICAL)
    try:
        broker.enqueue_many([work.message(n) for n in range(2000)])
        worker = start_worker(broker, worker_threads=2)
        end = time.monotonic() + 20
        while sum(broker.get_queue_message_counts("default")) and time.monotonic() < end:
            for thread in worker.workers:
                raise_thread_exception(thread.ident, Interrupt)
            time.sleep(0.001)
        broker.join("default", timeout=20_000)
    finally:
        logging.disable(logging.NOTSET)

    assert set(ran) == set(range(2000))
    assert broker.store.counts() == {}
    assert all(thread.is_alive() for thread in worker.workers)
