"""No signal is blocked where code of the user's runs, whatever the pool was started with."""

from __future__ import annotations

import pytest

from .support import Lab, both_start_methods

BLOCKS = """
import os, signal, sys
blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGURG}
signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""A script that becomes another program, with signals blocked."""

PLACES = [
    "after_process_boot",
    "before_worker_boot",
    "after_worker_boot",
    "after_consumer_thread_boot",
    "after_worker_thread_boot",
    "before_process_message",
    "after_process_message",
    "before_ack",
    "after_ack",
    "actor",
    "async_actor",
    "fork_of_flag",
    "fork_of_middleware",
]


@both_start_methods
@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("blocked", [False, True], ids=["", "blocked"])
def test_no_signal_is_blocked(lab: Lab, threads: str, blocked: bool) -> None:
    options = ["masks", "-p", "1", "-t", threads, "--fork", "masks:fork_of_flag"]
    if blocked:
        lab.write("blocks.py", BLOCKS)
        method = ["--start-method", lab.start_method or ""]
        pool = lab.start_python("blocks.py", "-m", "localq", *options, *method).wait_until_up()
    else:
        pool = lab.start_pool(*options)
    lab.send("mask"), lab.send("async_mask")
    for place in PLACES:
        assert {tuple(words) for words in lab.wait_for_notes(place)} == {(place,)}
    pool.stop()
