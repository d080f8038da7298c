"""The write gate: one at a time, bounded, and fair to nobody who hangs in it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from localq.errors import StoreBusy, StoreError
from localq.store.gate import Gate

# From Python 3.12 on a fork warns where there are threads, as pytest-xdist has them.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

PATIENT, SHORT = 30_000, 300
NOW = 1_700_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "gate")


@pytest.fixture
def gate(path: str) -> Iterator[Gate]:
    gate = Gate(path, SHORT)
    yield gate
    gate.close()


def count_up(gate: Gate, counter: Path, times: int) -> None:
    for _ in range(times):
        with gate:
            counter.write_text(str(int(counter.read_text()) + 1))


# -- one at a time


def test_one_of_four_processes_is_inside_at_a_time(path: str, tmp_path: Path, start: Callable[..., Any]) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def work(_: Connection) -> None:
        count_up(Gate(path, PATIENT), counter, 500)

    processes = [start(work)[0] for _ in range(4)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert counter.read_text() == "2000"


def test_one_of_four_threads_is_inside_at_a_time(path: str, tmp_path: Path) -> None:
    counter, gate = tmp_path / "counter", Gate(path, PATIENT)
    counter.write_text("0")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: count_up(gate, counter, 300), range(4)))
    gate.close()
    assert counter.read_text() == "1200"


def test_two_gates_of_one_process_on_one_file_keep_each_other_out(path: str, gate: Gate) -> None:
    other = Gate(path, SHORT)
    with gate, pytest.raises(StoreBusy), other:
        pass
    with other:
        pass
    other.close()


def test_an_error_inside_opens_the_gate_again(path: str, gate: Gate) -> None:
    with pytest.raises(ZeroDivisionError), gate:
        raise ZeroDivisionError
    other = Gate(path, SHORT)
    with other:
        pass
    other.close()


def test_a_process_that_dies_inside_opens_it(gate: Gate, path: str, start: Callable[..., Any]) -> None:
    process, connection = start(stay_inside, path)
    connection.recv()
    process.kill()
    process.join()
    with gate:
        pass


# -- bounded


def stay_inside(path: str, connection: Connection) -> None:
    with Gate(path, PATIENT):
        connection.send("inside")
        connection.recv()


def test_who_waits_for_a_stopped_process_is_told_its_pid(
    path: str, gate: Gate, start: Callable[..., Any]
) -> None:
    process, connection = start(stay_inside, path)
    connection.recv()
    os.kill(process.pid, signal.SIGSTOP)

    began = time.monotonic()
    with pytest.raises(StoreBusy) as refused, gate:
        pass
    assert SHORT / 1000 <= time.monotonic() - began < 20
    assert refused.value.holder == process.pid
    assert str(process.pid) in str(refused.value)
    assert path in str(refused.value)

    os.kill(process.pid, signal.SIGCONT)
    connection.send("leave")
    process.join(20)
    with gate:
        assert gate.holder == os.getpid()


def test_a_thread_that_stays_inside_keeps_others_out_for_no_longer_than_the_bound(gate: Gate) -> None:
    leave, inside = threading.Event(), threading.Event()

    def stay() -> None:
        with gate:
            inside.set()
            leave.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(stay)
        assert inside.wait(20)
        with pytest.raises(StoreBusy) as refused, gate:
            pass
        leave.set()
    assert refused.value.holder == os.getpid()
    with gate:
        pass


def test_who_waits_gets_in_as_soon_as_the_holder_has_left(path: str, start: Callable[..., Any]) -> None:
    _, connection = start(stay_inside, path)
    connection.recv()
    gate = Gate(path, PATIENT)

    def enter() -> int | None:
        with gate:
            return gate.holder

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(enter)
        connection.send("leave")
        assert holder.result(20) == os.getpid()
    gate.close()


# -- within itself


def test_to_use_it_within_itself_is_an_error_that_says_so(gate: Gate) -> None:
    with gate:
        with pytest.raises(StoreError, match="signal handler") as refused, gate:
            pass
        assert not isinstance(refused.value, StoreBusy)
        other = Gate(gate.path, SHORT)
        with pytest.raises(StoreBusy), other:  # what was refused has not opened it
            pass
        other.close()
    with gate:
        pass


def test_a_signal_handler_that_uses_it_gets_an_error_and_does_not_hang(gate: Gate) -> None:
    caught: list[BaseException] = []

    def handler(number: int, frame: Any) -> None:
        try:
            with gate:
                pass
        except StoreError as error:
            caught.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with gate:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ["signal handler" in str(error) for error in caught] == [True]


# -- positions


def test_positions_follow_the_clock(gate: Gate) -> None:
    with gate:
        first = gate.next_position(NOW, 3)
        assert first == NOW * 1000
        assert gate.next_position(NOW, 1) == first + 3
        assert gate.next_position(NOW + 1, 1) == (NOW + 1) * 1000


def test_positions_never_run_backwards_when_the_clock_does(gate: Gate) -> None:
    seen = []
    for moment in (NOW, NOW - 3_600_000, 0, NOW - 1, NOW):
        with gate:
            seen.append(gate.next_position(moment, 2))
    assert seen == [NOW * 1000 + n for n in (0, 2, 4, 6, 8)]


def test_positions_go_on_after_the_gate_was_closed(gate: Gate, path: str) -> None:
    with gate:
        first = gate.next_position(NOW, 5)
    gate.close()
    other = Gate(path, SHORT)
    with other:
        assert other.next_position(0, 1) == first + 5
    other.close()


def test_positions_of_four_processes_are_all_different_and_rise_in_each(
    path: str, start: Callable[..., Any]
) -> None:
    def work(number: int, connection: Connection) -> None:
        gate, seen = Gate(path, PATIENT), []
        for n in range(200):
            with gate:  # each has a clock of its own
                seen.append(gate.next_position(NOW + number * 50 + n * (-1) ** number, 2))
        connection.send(seen)

    started = [start(work, number) for number in range(4)]
    each = [connection.recv() for _, connection in started]
    assert all(seen == sorted(seen) for seen in each)
    taken = [position for seen in each for first in seen for position in (first, first + 1)]
    assert len(set(taken)) == len(taken) == 4 * 200 * 2


# -- who is told what, and who has waited


@pytest.fixture
def stopped_holder(path: str, start: Callable[..., Any]) -> Any:
    """A process that was stopped while it was inside, and our end of its connection."""
    process, connection = start(stay_inside, path)
    connection.recv()
    os.kill(process.pid, signal.SIGSTOP)
    return process, connection


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="needs /proc")
def test_the_holder_is_named_with_its_command_and_that_it_was_stopped(gate: Gate, stopped_holder: Any) -> None:
    process, connection = stopped_holder
    with pytest.raises(StoreBusy, match=rf"process {process.pid} \(.*python.*\), which is stopped,"), gate:
        pass
    os.kill(process.pid, signal.SIGCONT)
    with pytest.raises(StoreBusy) as refused, gate:
        pass
    assert f"process {process.pid} (" in str(refused.value)
    assert "which is stopped" not in str(refused.value)
    connection.send("leave")


def test_all_threads_that_wait_are_told_the_true_holder_and_within_one_bound(
    gate: Gate, stopped_holder: Any
) -> None:
    process, _ = stopped_holder

    def try_it(_: int) -> tuple[float, Any]:
        began = time.monotonic()
        with pytest.raises(StoreBusy) as refused, gate:
            pass
        return time.monotonic() - began, refused.value

    with ThreadPoolExecutor(8) as pool:
        refusals = list(pool.map(try_it, range(8)))
    assert {error.holder for _, error in refusals} == {process.pid}
    assert all(f"process {process.pid}" in str(error) for _, error in refusals)
    # One after the other, each with a bound of its own, they would need eight times as long.
    assert max(seconds for seconds, _ in refusals) < 5 * SHORT / 1000


def test_a_holder_that_is_continued_goes_on_without_harm(gate: Gate, stopped_holder: Any) -> None:
    process, connection = stopped_holder
    with pytest.raises(StoreBusy), gate:
        pass
    os.kill(process.pid, signal.SIGCONT)
    with pytest.raises(StoreBusy), gate:  # it is inside still
        pass
    connection.send("leave")
    process.join(20)
    assert process.exitcode == 0
    with gate:
        pass


def test_who_is_killed_while_it_is_stopped_frees_the_gate_at_once(path: str, stopped_holder: Any) -> None:
    process, _ = stopped_holder
    gate = Gate(path, PATIENT)

    def enter() -> None:
        with gate:
            pass

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(enter)
        os.kill(process.pid, signal.SIGKILL)
        began = time.monotonic()
        waiting.result(20)
    assert time.monotonic() - began < 10
    gate.close()


def test_who_was_stopped_itself_has_not_waited(path: str, start: Callable[..., Any]) -> None:
    bound = 1_500

    def wait_inside_two_threads(connection: Connection) -> None:
        gate = Gate(path, bound)

        def enter() -> str:
            with gate:
                return "inside"

        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(enter) for _ in range(2)]  # one for the system's lock, one for the other thread
            connection.send("waiting")
            connection.send([each.result() for each in waiting])

    _, of_holder = start(stay_inside, path)
    of_holder.recv()
    waiter, of_waiter = start(wait_inside_two_threads)
    assert of_waiter.recv() == "waiting"
    os.kill(waiter.pid, signal.SIGSTOP)
    time.sleep(2 * bound / 1000)  # the condition itself: longer than the bound
    os.kill(waiter.pid, signal.SIGCONT)
    of_holder.send("leave")
    assert of_waiter.recv() == ["inside", "inside"]


def test_who_waits_for_long_burns_next_to_nothing(path: str, stopped_holder: Any) -> None:
    gate = Gate(path, 3_000)
    began = time.process_time()
    with pytest.raises(StoreBusy), gate:
        pass
    assert time.process_time() - began < 0.6
    gate.close()


def test_a_fork_while_somebody_else_holds_it_gives_the_child_a_gate_of_its_own(
    path: str, stopped_holder: Any, start: Callable[..., Any]
) -> None:
    process, _ = stopped_holder
    gate = Gate(path, SHORT)
    with pytest.raises(StoreBusy), gate:  # so that its file is open
        pass

    def enter(connection: Connection) -> None:
        gate.after_fork(in_child=True)
        for _ in range(2):
            try:
                with gate:
                    connection.send("inside")
            except StoreBusy as error:
                connection.send(error.holder)
            connection.recv()

    gate.before_fork()
    _, connection = start(enter)
    gate.after_fork(in_child=False)
    assert connection.recv() == process.pid
    process.kill()
    process.join()
    connection.send("again")
    assert connection.recv() == "inside"
    with gate:
        pass
    connection.send("end")
    gate.close()


# -- its file


def test_its_file_has_no_holes(gate: Gate, path: str) -> None:
    with gate:
        assert os.stat(path).st_blocks * 512 >= os.stat(path).st_size > 0


def test_it_keeps_what_it_was_told_of_files(gate: Gate, path: str) -> None:
    files = [(1, 2), (2**63 + 5, 2**64 - 1), (0, 0)]
    with gate:
        assert gate.noted_files() == [(0, 0)] * 3
        gate.note_files(*files)
    other = Gate(path, SHORT)
    with other:
        assert other.noted_files() == files
    other.close()
