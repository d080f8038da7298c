"""The wall clock jumps, forward and back: nothing runs twice, nothing is lost, and no wait hears of it."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from localq.clock import clock
from localq.errors import ResultMissing, ResultTimeout
from localq.store import Schedule, Selection
from localq.store.base import DEAD, DELAYED, RUNNING, WAITING

from .support import Lab, wait_until

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR


class Time:
    """The wall clock of the test and of the processes that it starts."""

    def __init__(self, lab: Lab) -> None:
        self._file = lab.folder / "clock"
        self.ahead = 0

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead

    def jump(self, millis: int) -> None:
        self.ahead += millis
        (fresh := self._file.with_suffix(".fresh")).write_text(str(self.ahead))
        fresh.replace(self._file)


@pytest.fixture
def wall(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Time:
    wall = Time(lab)
    monkeypatch.setattr(clock, "wall", wall.now)
    return wall


def mailed(lab: Lab) -> list[str]:
    return [note.split()[1] for note in lab.notes("mail")]


def test_a_delayed_message_runs_once_when_the_clock_has_come_to_it_however_it_came(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "2")
    messages = [lab.send("mail", "later", delay=HOUR), lab.send("mail", "last", delay=48 * HOUR)]
    lab.send("mail", "now")
    lab.wait_for_notes("mail", 1)
    assert {lab.record(message).state for message in messages} == {DELAYED}
    wall.jump(HOUR)
    lab.wait_for_notes("mail", 2)
    wall.jump(-2 * HOUR)
    assert lab.record(messages[1]).state == DELAYED
    wall.jump(YEAR)
    lab.wait_for_notes("mail", 3)
    wall.jump(-YEAR)
    wall.jump(2 * YEAR)
    lab.wait_until_done()
    assert mailed(lab) == ["now", "later", "last"]
    pool.stop()


def test_messages_run_in_the_order_of_sending_whatever_the_clock_did_meanwhile(lab: Lab, wall: Time) -> None:
    for number in range(50):
        lab.send("mail", number)
        wall.jump([YEAR, -YEAR, -YEAR, HOUR, -1, YEAR][number % 6])
    pool = lab.start_pool("clocked", "-p", "1")
    lab.wait_for_notes("mail", 50)
    for number in range(50, 60):
        lab.send("mail", number)
        wall.jump([-HOUR, YEAR][number % 2])
    lab.wait_for_notes("mail", 60)
    lab.wait_until_done()
    assert mailed(lab) == [str(number) for number in range(60)]
    pool.stop()


def test_nothing_runs_twice_and_nothing_is_lost_while_the_clock_jumps(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "2", "-t", "2")
    for number in range(300):
        lab.send("mail", number, delay=(number % 3) * 5 or None)
        if number % 10 == 0:
            wall.jump([HOUR, -2 * HOUR, YEAR, HOUR][number // 10 % 4])
    wall.jump(2 * YEAR)
    lab.wait_until_done()
    assert Counter(mailed(lab)) == Counter(map(str, range(300)))
    pool.stop()


def test_what_runs_stays_with_its_worker_when_the_clock_jumps(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "2")
    message = lab.send("hold", "a")
    lab.held("a")
    before = lab.record(message)
    for jump in (YEAR, -2 * YEAR, YEAR):
        wall.jump(jump)
        lab.send("mail", jump)
        lab.wait_for_notes("mail", 1)
        assert lab.broker.store.reap(now=wall.now()) == 0
    record = lab.record(message)
    assert (record.state, record.owner, record.claim) == (RUNNING, before.owner, before.claim)
    lab.release("a")
    assert lab.result(message) == "a"
    assert len(lab.notes("held")) == 1
    pool.stop()


def test_retries_go_on_after_a_jump(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "1")
    wall.jump(-YEAR)
    assert lab.result(lab.send("fail_until", "a", 3)) == 3
    wall.jump(3 * YEAR)
    assert lab.result(lab.send("fail_until", "b", 3)) == 3
    message = lab.send("fail_once", "c")
    wait_until(lambda: lab.record(message).state == DELAYED, why="it waits for its second try")
    wall.jump(HOUR)
    lab.wait_until_done()
    assert [len([note for note in lab.notes("tried") if note.endswith(name)]) for name in "abc"] == [3, 3, 2]
    pool.stop()


def test_a_result_is_kept_by_the_wall_clock_and_is_back_with_it_until_it_is_swept(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "1")
    message = lab.send("fail_until", "a", 1)
    assert lab.result(message) == 1
    pool.stop()
    backend = lab.broker.get_results_backend()
    wall.jump(YEAR)
    with pytest.raises(ResultMissing):
        message.get_result(backend=backend)
    wall.jump(-YEAR)
    assert message.get_result(backend=backend) == 1
    lab.broker.store.sweep(now=wall.now() + YEAR)
    with pytest.raises(ResultMissing):
        message.get_result(backend=backend)


def test_only_what_has_an_end_by_the_clock_is_swept_after_a_jump(lab: Lab, wall: Time) -> None:
    lab.send("mail", "waiting")
    lab.send("mail", "delayed", delay=HOUR)
    wall.jump(YEAR)
    lab.broker.store.sweep(now=wall.now())
    assert lab.states() == {WAITING: 1, DELAYED: 1}
    assert not lab.broker.store.browse(Selection(states=[DEAD]))


def test_waits_do_not_hear_of_a_jump(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "1")
    backend = lab.broker.get_results_backend()
    message = lab.send("nap", 0.5)
    wall.jump(YEAR)  # its time limit does not either
    assert message.get_result(backend=backend, block=True, timeout=30_000) == "awake"
    wall.jump(-2 * YEAR)
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        lab.message("mail", "never sent").get_result(backend=backend, block=True, timeout=300)
    assert 0.25 < time.monotonic() - began < 20
    held = lab.send("hold", "a")
    lab.held("a")
    wall.jump(YEAR)
    pool.signal(signal.SIGTERM)
    pool.wait_for_log("no further message is started")
    wall.jump(-YEAR)
    lab.release("a")
    assert pool.wait() == 0
    assert lab.result(held) == "a"


def test_a_window_counts_by_the_clock_that_it_sees(lab: Lab, wall: Time) -> None:
    pool = lab.start_pool("clocked", "-p", "1")
    assert [lab.result(lab.send("enter")) for _ in range(3)] == [True, True, False]
    wall.jump(2 * HOUR)
    assert [lab.result(lab.send("enter")) for _ in range(3)] == [True, True, False]
    wall.jump(-2 * HOUR)  # the places of then are still taken
    assert lab.result(lab.send("enter")) is False
    pool.stop()


def test_a_tick_of_a_schedule_fires_once_whatever_the_clock_does(lab: Lab, wall: Time) -> None:
    store = lab.broker.store
    store.put_schedule(Schedule("hourly", wall.now() + HOUR, b""))
    wall.jump(YEAR)
    (first,) = store.due_schedules(now=wall.now())
    (second,) = store.due_schedules(now=wall.now())  # another process looks at the same moment
    record = lab.broker.record_of(lab.message("mail", "tick"), wall.now())
    assert store.advance_schedule(first, wall.now() + HOUR, [record], now=wall.now())
    wall.jump(-YEAR)
    assert not store.advance_schedule(second, wall.now() + HOUR, [record], now=wall.now())
    assert store.due_schedules(now=wall.now()) == []
    wall.jump(YEAR)
    assert store.due_schedules(now=wall.now()) == []
    wall.jump(HOUR)
    assert [schedule.name for schedule in store.due_schedules(now=wall.now())] == ["hourly"]
    assert lab.states() == {WAITING: 1}
