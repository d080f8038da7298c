"""Aborts of messages in pools of worker processes."""

from __future__ import annotations

import pytest

import localq
from localq import Abortable, abort

from .support import Lab, both_start_methods

pytestmark = both_start_methods


def abortable_of(lab: Lab) -> Abortable:
    abortable = Abortable()
    lab.broker.add_middleware(abortable)
    lab.broker.declare_queue("default")
    return abortable


@pytest.mark.parametrize("how", ["sleep", "program", "lock", "loop"])
def test_an_abort_ends_a_blocking_call_of_the_only_thread(lab: Lab, how: str) -> None:
    pool = lab.start_pool("limits", "-p", "2")
    message = lab.send("blocks", how)
    lab.wait_for_notes("blocks")

    abort(message.message_id, abortable_of(lab))

    assert lab.failure(message).orig_exc_type == "Abort"
    assert lab.wait_until_dead(message).crashes == 0
    assert lab.notes("aborted") == [f"aborted {how}"]
    pool.stop()


def test_an_abort_hits_its_message_alone_among_several_threads(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "2", "-t", "2")
    messages = [lab.send("blocks", "loop") for _ in range(3)]
    lab.wait_for_notes("blocks", 3)
    abortable = abortable_of(lab)

    for number, message in enumerate(messages, 1):
        abort(message.message_id, abortable)
        assert lab.failure(message).orig_exc_type == "Abort"
        assert len(lab.notes("aborted")) == number
    pool.stop()


def test_an_abort_ends_an_async_actor(lab: Lab) -> None:
    pool = lab.start_pool("limits", "-p", "1")
    message: localq.Message[None] = lab.send("blocks_async")
    lab.wait_for_notes("blocks")
    abort(message.message_id, abortable_of(lab))
    assert lab.failure(message).orig_exc_type == "Abort"
    pool.stop()
