"""A short run of what `python -m tests.torture.kills` does at length, and that its verdict can be trusted."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localq.locks import try_lock

from ..processes.support import ROOT, Lab
from .arena import Arena
from .ledger import Ledger

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it finds processes in /proc")


def kills(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "tests.torture.kills", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_after_kills_at_random_moments_every_message_is_accounted_for(tmp_path: Path) -> None:
    run = kills(tmp_path, "--seed", "7", "--kills", "40", "--round", "20", "--pools", "2")

    assert run.returncode == 0, run.stdout + run.stderr
    *_, last = run.stdout.splitlines()
    found = re.match(r"seed 7: (\d+) kills .* in 2 rounds .* accepted (\d+) = done (\d+) .*: all holds$", last)
    assert found, last
    assert int(found[1]) == 40
    assert int(found[3]) > 0
    assert list(tmp_path.iterdir()) == []  # nor is anything left of it


def test_whatever_is_wrong_with_a_queue_is_found(tmp_path: Path) -> None:
    arena = Arena(tmp_path, "1", start_method="fork")
    try:
        arena.attack(12)
        assert arena.settle().check() == []
        for harm, complaint in HARMS.items():
            undo = harm(arena.lab)
            problems = Ledger(arena.lab, {}).check()
            assert any(complaint in problem for problem in problems), (complaint, problems)
            undo()
            assert Ledger(arena.lab, {}).check() == []
    finally:
        arena.end()


def execute(statement: str) -> Callable[[Lab], Callable[[], None]]:
    """A harm done by SQL, to the file alone; undone by putting the file back."""

    def harm(lab: Lab) -> Callable[[], None]:
        lab.broker.close()
        before = lab.file.read_bytes()  # nobody has it open now
        with contextlib.closing(sqlite3.connect(lab.file)) as connection, connection:
            assert connection.execute(statement).rowcount

        def undo() -> None:
            lab.broker.close()
            lab.file.write_bytes(before)

        return undo

    return harm


def note(*lines: str) -> Callable[[Lab], Callable[[], None]]:
    def harm(lab: Lab) -> Callable[[], None]:
        notes = lab.folder / "notes"
        before = notes.read_bytes()
        notes.write_bytes(before + "".join(f"\n{line} .\n" for line in lines).encode())
        return lambda: notes.write_bytes(before) and None

    return harm


def leave_a_file(lab: Lab) -> Callable[[], None]:
    file = Path(f"{lab.file}.localq", "workers", "somebody")
    file.touch()
    return file.unlink


def leave_a_sleeper(lab: Lab) -> Callable[[], None]:
    table = Path(f"{lab.file}.localq", "bells", "table")
    before = table.read_bytes()
    table.write_bytes(b"m" + before[1:])
    return lambda: table.write_bytes(before) and None


def leave_a_lock(lab: Lab) -> Callable[[], None]:
    descriptor = os.open(f"{lab.file}.localq/gate", os.O_RDWR)
    assert try_lock(descriptor)
    return lambda: os.close(descriptor)


ONE = "(SELECT min(number) FROM journal WHERE what = 'stored' AND actor = 'plain')"
REPEAT = f"""
INSERT INTO journal SELECT NULL, what, message_id, actor, encoder, wire, body FROM journal WHERE number = {ONE}"""
RENAME = """
UPDATE journal SET message_id = 'another' WHERE number = (SELECT max(number) FROM journal WHERE what = 'removed')"""
FORGOTTEN = """
INSERT INTO message (message_id, queue, actor, lane, priority, position, state, encoder, wire, created_at, body)
VALUES ('a', 'default', 'plain', 'thread', 0, 0, 'waiting', 'msgpack', 1, 0, x'')"""
FOUR_INSIDE = [f"in few {pid} 1" for pid in range(4)] + [f"out few {pid} 2" for pid in range(4)]

HARMS = {
    execute("DELETE FROM journal WHERE what = 'stored' AND actor = 'plain'"): "accepted and lost",
    execute(REPEAT): "was stored 2 times",
    execute(RENAME): "was removed 0 times",
    execute("DELETE FROM value"): "has no result",
    execute(FORGOTTEN): "still waiting",
    execute("INSERT INTO payload VALUES (1000000, x'')"): "large bodies belong to no message",
    note(*FOUR_INSIDE): "inside of a limit",
    note(*["second 7 1"] * 26): "were let in during the second 7",
    note("broken 1 1 hurt"): "failed: hurt",
    leave_a_file: "files of dead workers are left",
    leave_a_sleeper: "still wait for dead sleepers",
    leave_a_lock: "is still held",
}
"""What may be wrong, and how the ledger says so."""
