"""Pipelines and groups whose workers die: no step and no callback is lost, and none comes twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import localq
from localq.brokers import SQLiteBroker, with_results
from localq.errors import ResultFailure

from .support import DEADLINE, Lab, wait_until


@pytest.fixture
def broker(lab: Lab) -> Iterator[SQLiteBroker]:
    broker = SQLiteBroker(lab.file, with_results())
    yield broker
    broker.close()


def call(actor: str, *args: Any, **options: Any) -> localq.Message[Any]:
    return localq.Message("default", actor, args, {}, options)


def times(lab: Lab, what: str) -> Counter[str]:
    return Counter(note.split()[1] for note in lab.notes(what))


def test_a_death_before_or_after_the_end_of_a_step_is_written_neither_loses_nor_doubles_what_follows(
    lab: Lab, broker: SQLiteBroker
) -> None:
    names = ["a", "b", "c", "d", "callback", "end"]
    for name in names:
        (lab.folder / f"die-before-{name}").touch()
        (lab.folder / f"die-after-{name}").touch()
    pipe = localq.pipeline([call("step", "a"), call("step", "b"), call("step", "c")], broker=broker)
    g = localq.group([pipe, call("step", "d")], broker=broker)
    g.add_completion_callback(call("done", "callback"))
    g.add_completion_callback(call("ended", "end", fire_on_failure=True))
    g.run()

    pool = lab.start_pool("steps", "-p", "1")
    g.wait(timeout=DEADLINE * 1000)
    wait_until(lambda: len(lab.notes("written")) >= len(names), why="all ends are written")
    lab.wait_until_done()
    pool.stop()

    assert list(lab.folder.glob("die-*")) == []
    assert times(lab, "ran") == dict.fromkeys(names, 2)  # once more after the death before its end
    assert times(lab, "written") == dict.fromkeys(names, 1)
    assert lab.states() == {}


def test_a_death_around_the_end_of_a_failure_tells_everybody_once(lab: Lab, broker: SQLiteBroker) -> None:
    (lab.folder / "die-before-end").touch()
    (lab.folder / "die-after-ok").touch()
    pipe = localq.pipeline([call("step", "ok"), call("fail", "broken"), call("step", "never")], broker=broker)
    g = localq.group([pipe, call("step", "other")], broker=broker)
    g.add_completion_callback(call("done", "success"))
    g.add_completion_callback(call("ended", "end", fire_on_failure=True))
    g.run()

    pool = lab.start_pool("steps", "-p", "1")
    with pytest.raises(ResultFailure, match="actor raised ValueError: broken"):
        g.wait(timeout=DEADLINE * 1000)
    lab.wait_for_notes("ran", 5)
    lab.wait_until_done()
    pool.stop()

    assert times(lab, "ran") == {"ok": 1, "broken": 1, "other": 1, "end": 2}
    assert "ran end broken" in lab.notes("ran")
    assert lab.states() == {"dead": 1}


def test_kills_at_any_time_neither_lose_nor_double_steps_and_callbacks(lab: Lab, broker: SQLiteBroker) -> None:
    groups, members, steps = 4, 12, 3
    expected = set()
    for n in range(groups):
        pipes = []
        for m in range(members):
            names = [f"{n}.{m}.{s}" for s in range(steps)]
            expected.update(names)
            pipes.append(localq.pipeline([call("step", name) for name in names], broker=broker))
        g = localq.group(pipes, broker=broker)
        g.add_completion_callback(call("done", f"done.{n}"))
        g.add_completion_callback(call("ended", f"ended.{n}", fire_on_failure=True))
        expected |= {f"done.{n}", f"ended.{n}"}
        g.run()

    pool = lab.start_pool("steps", "-p", "2")
    chance, killed = random.Random(7), 0
    while killed < 10:
        ran = len(lab.notes("ran"))
        wait_until(lambda ran=ran: len(lab.notes("ran")) > ran + 8 or not lab.states())
        if not lab.states():
            break
        lab.kill(chance.choice(sorted(lab.wait_for_workers(2))))
        killed += 1
    lab.wait_until_done()
    pool.stop()

    assert killed > 3
    assert set(times(lab, "ran")) == expected
    # Whoever died after the end of a message had been written may not have noted it.
    assert set(times(lab, "written").values()) == {1}
    assert lab.states() == {}
    assert lab.is_intact()


def test_who_waits_in_another_process_hears_of_a_crash(lab: Lab, broker: SQLiteBroker) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    pipe = localq.pipeline([call("crash", "segfault"), call("add", 1), call("add", 1)], broker=broker).run()

    with pytest.raises(ResultFailure, match=r"actor raised WorkerCrashed: .*signal 11"):
        pipe.get_result(block=True, timeout=DEADLINE * 1000)
    with pytest.raises(ResultFailure, match="actor raised WorkerCrashed"):
        localq.group([pipe], broker=broker).wait(timeout=DEADLINE * 1000)
    pool.stop()


def test_a_dead_letter_that_is_retried_on_the_command_line_takes_back_what_was_told_of_it(
    lab: Lab, broker: SQLiteBroker
) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    pipe = localq.pipeline([call("late"), call("add", 2)], broker=broker).run()
    with pytest.raises(ResultFailure, match="actor raised ActorNotFound: late"):
        pipe.get_result(block=True, timeout=DEADLINE * 1000)
    pool.stop()

    assert lab.localq("dead", "retry", "--all").returncode == 0
    assert not pipe.completed  # nothing is told of it any more

    lab.write("more.py", "import localq, tasks\n\n@localq.actor\ndef late():\n    return 40\n")
    pool = lab.start_pool("more", "-p", "1")
    assert pipe.get_result(block=True, timeout=DEADLINE * 1000) == 42
    pool.stop()
