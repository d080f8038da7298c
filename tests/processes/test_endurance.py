"""Thousands of messages through a pool whose processes are killed at random."""

from __future__ import annotations

import random

import pytest

from localq.store.base import DEAD

from .support import Lab, both_start_methods, wait_until

MESSAGES, KILLS = 10_000, 15


@both_start_methods
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_message_runs_or_is_a_visible_dead_letter_whoever_is_killed(lab: Lab) -> None:
    dice = random.Random(20_000 + KILLS)
    messages = lab.broker.enqueue_many([lab.message("mark", number) for number in range(MESSAGES)])
    pool = lab.start_pool("marks", "-p", "3")

    killed: set[int] = set()
    for marks in sorted(dice.randrange(200, MESSAGES - 500) for _ in range(KILLS)):
        wait_until(lambda marks=marks: len(lab.notes()) >= marks, seconds=60)
        victim = dice.choice(sorted(wait_until(lambda: lab.workers() - killed)))
        lab.kill(victim)
        killed.add(victim)

    wait_until(lambda: not lab.states().keys() - {DEAD}, seconds=120)
    ran = {int(note.split()[1]) for note in lab.notes("mark")}
    dead = {record.message_id for record in lab.records(states=[DEAD])}
    assert {number for number, message in enumerate(messages) if message.message_id not in dead} <= ran
    assert all((record.reason or "").startswith("WorkerCrashed: ") for record in lab.records())
    assert pool.log().count("replacing it") == KILLS
    assert len(lab.wait_for_workers(3)) == 3
    assert lab.is_intact()
    pool.stop()
