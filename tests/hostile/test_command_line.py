"""The command line: any words, any environment, any queue. It says in a line what is wrong, and what it prints
leaves a terminal as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import localq
from localq.cli import main
from localq.store.base import DEAD

from .support import NASTY_TEXTS, Queue, cells

ROOT = Path(localq.__file__).parents[1]

many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

nasty_words = st.sampled_from([text for text in NASTY_TEXTS if "\0" not in text and "\ud800" not in text])
words = st.one_of(
    nasty_words,
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.sampled_from([b"\xff\xfe", b"caf\xe9"]).map(os.fsdecode),
    st.sampled_from(["sqlite:///jobs.db", "sqlite:///no/such/folder/jobs.db", "memory://", "redis://x", "--url="]),
)
lookers = st.sampled_from([["info"], ["status"], ["dead"], ["dead", "list"], ["dead", "retry"], ["dead", "purge"]])
options = st.sampled_from(
    ["--url", "--app", "--json", "--queue", "--actor", "--all", "--limit", "--", "-", "--help", "-h", "--no-such"]
)


def check(arguments: list[str]) -> None:
    """Run the command in this process: it must end with a status, and no traceback."""
    ended = CliRunner().invoke(main, arguments, prog_name="localq")
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code in (0, 1, 2, 3, 4)
    if ended.exit_code:
        assert ended.output.strip()
        assert "Traceback" not in ended.output


@many
@given(lookers, st.lists(st.one_of(options, words), max_size=4))
@example(["dead", "retry"], [os.fsdecode(b"\xff")])
@example(["dead", "list"], ["--queue", os.fsdecode(b"\xff")])
@example(["info"], ["--url", os.fsdecode(b"sqlite:///\xff.db")])
@example(["status"], ["--app", os.fsdecode(b"\xff")])
@example(["status"], ["--app", ":"])
@example(["status"], ["--app", "x" * 5000])
def test_words_of_any_kind_behind_a_command_that_looks(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, command: list[str], rest: list[str]
) -> None:
    queue.broker.store.put([localq.store.Record("m", "q", "a", b"")], now=1)
    monkeypatch.setenv("LOCALQ_URL", f"sqlite:///{queue.file}")
    monkeypatch.chdir(queue.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    check([*command, *rest])


@pytest.mark.parametrize(
    "arguments",
    [
        ["x\ny"], ["'; DROP TABLE message; --"], ["$(touch pwned)"], ["."], [".."], ["/"], [":"], ["::"], ["json:"],
        [b"\xff\xfe"], ["\N{PILE OF POO}"], ["x" * 5000], ["\x1b[31m"],
        ["json", "-p", "0"], ["json", "-p", "1e9"], ["json", "-t", "-1"], ["json", "-Q", "no good"],
        ["json", "-Q", ""], ["json", "-Q", b"\xff"], ["json", "--log-file", "/no/such/folder/log"],
        ["json", "--log-file", "x" * 5000], ["json", "--pid-file", "/no/such/folder/pid"],
        ["json", "--pid-file", "x" * 5000], ["json", "--pid-file", "."], ["json", "-f", ":"], ["json", "-f", "x"],
        ["json", "--worker-fork-timeout", "nan"], ["json", "--start-method", "x"], ["json", "--watch", "x"],
        ["--discover", "x"], ["--discover", b"\xff"], ["worker"], ["-P", b"\xff", "no_such_module"],
    ],
)  # fmt: skip
def test_words_that_start_no_pool_are_told_in_a_line(tmp_path: Path, arguments: list[Any]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "localq", *arguments], cwd=tmp_path, capture_output=True, timeout=60,
        env={**os.environ, "LOCALQ_URL": f"sqlite:///{tmp_path}/jobs.db", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode in (1, 2, 3, 4), ended
    assert ended.stderr
    assert b"Traceback" not in ended.stderr
    assert b"\x1b" not in ended.stderr
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "url", ["redis://x", "sqlite://", "x" * 10_000, "sqlite:///\x1b[31m/x", b"sqlite:///\xff/y"]
)
@pytest.mark.parametrize("command", ["info", "status", "dead"])
def test_a_url_of_any_kind_in_the_environment(tmp_path: Path, url: Any, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "localq", command], cwd=tmp_path, capture_output=True, timeout=60,
        env={os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
        | {b"LOCALQ_URL": os.fsencode(url), b"PYTHONPATH": os.fsencode(ROOT)},
    )  # fmt: skip
    assert ended.returncode in (0, 1)
    assert b"Traceback" not in ended.stderr
    assert b"\x1b" not in ended.stdout + ended.stderr


@many
@given(st.dictionaries(st.sampled_from(["message_id", "queue", "actor", "reason", "died_at", "attempts"]), cells))
@example({"reason": "\x1b]0;owned\x07\x1b[2J\nm2  2020-01-01  default/forged"})
@example({"actor": "\x1b[31m", "queue": "\x9b31m", "message_id": "a\nb\r"})
@example({"died_at": 2**63 - 1})
@example({"died_at": -(2**63)})
def test_what_hostile_letters_say_reaches_no_terminal_raw(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any]
) -> None:
    queue.execute("DELETE FROM message")
    queue.insert(**{"state": DEAD, "reason": "it failed", "died_at": 1, **columns})
    queue.insert(**{"state": "waiting", **columns, "message_id": "waits"})
    queue.insert("worker", name="w", pid=1, pool="", queues='["\\u001b[31m"]', actors="[]", threads=1, joined_at=1)
    monkeypatch.setenv("LOCALQ_URL", f"sqlite:///{queue.file}")
    for command in (["dead"], ["status"], ["info"]):
        ended = CliRunner().invoke(main, command, prog_name="localq", catch_exceptions=False)
        assert ended.exit_code == 0
        assert all(line.isprintable() for line in ended.output.split("\n"))
        json.loads(CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False).output)
    queue.execute("DELETE FROM worker")


def test_a_forged_line_stays_a_part_of_its_own(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.insert(state=DEAD, reason="x\nforged  2020-01-01T00:00:00+00:00  default/add", died_at=1)
    monkeypatch.setenv("LOCALQ_URL", f"sqlite:///{queue.file}")
    ended = CliRunner().invoke(main, ["dead"], catch_exceptions=False)
    assert len(ended.output.splitlines()) == 2


@pytest.mark.parametrize("name", [text for text in NASTY_TEXTS if "\0" not in text and "\ud800" not in text])
def test_a_name_given_to_a_command_is_only_a_name(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("LOCALQ_URL", f"sqlite:///{queue.file}")
    monkeypatch.chdir(tmp_path)
    queue.insert(message_id=name, queue=name, actor=name, state=DEAD, reason=name, died_at=1)
    queue.insert(message_id="innocent", state=DEAD, reason="it failed", died_at=1)
    select = ["--queue", name, "--actor", name]

    def output_of(*arguments: str) -> str:
        return CliRunner().invoke(main, ["dead", *arguments], catch_exceptions=False).output

    assert len(json.loads(output_of("list", "--json", *select))) == 1
    assert output_of("retry", *select, "--", name) == "1 dead letter is waiting again.\n"
    queue.execute("UPDATE message SET state = 'dead', died_at = 1")
    assert output_of("purge", *select, "--", name) == "1 dead letter is removed.\n"
    assert [record.message_id for record in queue.records()] == ["innocent"]
    assert not (tmp_path / "pwned").exists()
