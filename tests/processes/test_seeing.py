"""``localq info``, ``localq status`` and ``localq dead`` beside a pool that runs."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from localq.store.base import DEAD
from localq.store.database import SCHEMA_VERSION

from .support import Lab, both_start_methods


def said(lab: Lab, *arguments: str) -> str:
    run = lab.localq(*arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


def facts(lab: Lab, *arguments: str) -> Any:
    return json.loads(said(lab, *arguments, "--json"))


# -- info


def test_info_tells_the_file_and_why_and_how_it_is_set_up(lab: Lab) -> None:
    lab.send("add", 1, 2)
    info = facts(lab, "info")
    assert info["file"] == str(lab.file)
    assert info["url"] == lab.url
    assert "LOCALQ_URL" in info["why"]
    assert info["exists"] is True
    assert info["sqlite_version"] == sqlite3.sqlite_version
    assert info["journal_mode"] == "wal"
    assert info["schema_version"] == SCHEMA_VERSION
    text = said(lab, "info")
    for value in (str(lab.file), "LOCALQ_URL", sqlite3.sqlite_version, "wal"):
        assert value in text


@pytest.mark.parametrize("command", ["info", "status", "dead"])
def test_looking_makes_no_file(lab: Lab, command: str) -> None:
    said(lab, command)
    assert not lab.file.exists()
    assert not list(lab.folder.glob("*.localq"))


def test_another_store_can_be_named(lab: Lab) -> None:
    other = lab.broker_of(lab.folder / "other.db")
    other.enqueue(lab.message("add", 1, 2))
    queues = facts(lab, "status", "--url", "sqlite:///other.db")["queues"]
    assert queues["default"]["waiting"] == 1
    lab.write("others.py", "import localq\nbroker = localq.connect('sqlite:///other.db')\n")
    assert facts(lab, "status", "--app", "others:broker")["queues"] == queues
    assert facts(lab, "status")["queues"] == {}


def test_without_a_variable_the_file_is_in_the_users_data_folder(lab: Lab) -> None:
    info = json.loads(lab.localq("info", "--json", LOCALQ_URL="").stdout)
    assert info["url"].startswith(f"sqlite:///{lab.folder / 'data' / 'localq'}")
    assert info["exists"] is False
    assert not (lab.folder / "data").exists()


@pytest.mark.parametrize("command", [["info"], ["status"], ["dead"], ["dead", "purge", "--all"]])
def test_a_store_that_is_none_is_described(lab: Lab, command: list[str]) -> None:
    (lab.folder / "no_database").write_text("a letter to my mother " * 100)
    run = lab.localq(*command, "--url", "sqlite:///no_database")
    assert run.returncode not in (0, 2)
    assert "no_database" in run.stderr
    assert "Traceback" not in run.stderr
    assert lab.localq(*command, "--url", "mysql://jobs").returncode not in (0,)


# -- status


@both_start_methods
def test_status_tells_how_many_messages_there_are_and_what_each_worker_runs(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "2", "-Q", "default")
    message = lab.send("hold", "a")
    worker = lab.held("a")
    lab.send("mail_too", 1, queue="mail")
    lab.send("mail_too", 2, queue="mail", delay=3_600_000)
    lab.wait_until_dead(lab.send("fail", "out of milk"))

    status = facts(lab, "status")

    counts = {queue: {state: n for state, n in each.items() if n} for queue, each in status["queues"].items()}
    assert counts == {"default": {"running": 1, "dead": 1}, "mail": {"waiting": 1, "delayed": 1}}
    by_pid = {each["pid"]: each for each in status["workers"]}
    assert by_pid.keys() == lab.workers()
    assert all(each["alive"] and each["queues"] == ["default"] for each in by_pid.values())
    (running,) = by_pid.pop(worker)["running"]
    assert (running["actor"], running["message_id"]) == ("hold", message.message_id)
    assert running["for_ms"] >= 0
    assert [each["running"] for each in by_pid.values()] == [[]]
    text = said(lab, "status")
    for value in ("waiting", "delayed", "running", "dead", "default", "mail", "hold", message.message_id, "idle"):
        assert value in text
    lab.release("a")
    lab.result(message)
    pool.stop()
    assert facts(lab, "status")["workers"] == []


def test_status_knows_a_worker_that_has_died(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    lab.send("hold", "a")
    worker = lab.held("a")
    pool.kill()
    lab.wait_until_empty()
    (dead,) = facts(lab, "status")["workers"]
    assert (dead["pid"], dead["alive"]) == (worker, False)
    assert "dead" in said(lab, "status").splitlines()[-1]


# -- dead letters


@both_start_methods
def test_dead_letters_are_listed_with_their_reason_and_run_again(lab: Lab) -> None:
    pool = lab.start_pool("tasks", "-p", "1")
    message = lab.send("fail", "out of milk")
    crashed = lab.send("nosuch")
    lab.wait_until_dead(message), lab.wait_until_dead(crashed)

    letters = {each["message_id"]: each for each in facts(lab, "dead", "list")}

    assert letters.keys() == {message.message_id, crashed.message_id}
    letter = letters[message.message_id]
    assert (letter["actor"], letter["queue"], letter["reason"]) == ("fail", "default", "ValueError: out of milk")
    assert "T" in letter["died_at"]
    assert letters[crashed.message_id]["reason"].startswith("ActorNotFound: nosuch")
    for command in (["dead"], ["dead", "list"]):
        text = said(lab, *command)
        assert message.message_id in text
        assert "ValueError: out of milk" in text

    assert "1 dead letter is waiting again" in said(lab, "dead", "retry", message.message_id)
    pool.wait_for_log("ValueError: out of milk", times=2)
    lab.wait_until_dead(message)
    assert lab.record(message).attempts == 1
    pool.stop()


def test_the_list_has_the_form_for_programs_without_a_subcommand_too(lab: Lab) -> None:
    assert facts(lab, "dead") == []
    bury(lab, "a")
    assert len(facts(lab, "dead")) == 1


@both_start_methods
def test_a_dead_letter_is_shown_with_its_traceback(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "tasks", "-p", "1")
    failed = lab.send("fail", "out of\x1b[0m milk")
    crashed, unknown = lab.send("crash", "segfault"), lab.send("nosuch")
    for message in (failed, crashed, unknown):
        lab.wait_until_dead(message)
    pool.stop()

    shown = said(lab, "dead", "show", failed.message_id)
    assert "reason:      ValueError: out of\\x1b[0m milk" in shown
    assert 'tasks.py", line' in shown
    assert shown.rstrip().endswith("ValueError: out of\\x1b[0m milk")
    assert "\x1b" not in shown  # a terminal would obey it
    shown = said(lab, "dead", "show", crashed.message_id)
    assert "Fatal Python error: Segmentation fault" in shown
    assert 'crashes.py", line' in shown
    assert "No traceback." in said(lab, "dead", "show", unknown.message_id)
    letters = {each["message_id"]: each["traceback"] for each in facts(lab, "dead", "list")}
    assert "out of\x1b[0m milk" in letters[failed.message_id]
    assert letters[unknown.message_id] is None

    said(lab, "dead", "retry", failed.message_id)
    assert lab.record(failed).traceback is None
    done = lab.localq("dead", "show", failed.message_id)
    assert done.returncode == 1
    assert f"{failed.message_id!r} is no dead letter here" in done.stderr


def bury(lab: Lab, *actors: str) -> list[str]:
    """Make a dead letter for each of these unknown actors; returns their ids, in that order."""
    pool = lab.start_pool("tasks", "-p", "1")
    messages = [lab.send(actor) for actor in actors]
    for message in messages:
        lab.wait_until_dead(message)
    pool.stop()
    return [message.message_id for message in messages]


def test_a_crashed_message_starts_anew_when_it_is_run_again(lab: Lab) -> None:
    pool = lab.start_pool("crashes", "-p", "1")
    message = lab.send("crash", "exit")
    lab.wait_until_dead(message)
    said(lab, "dead", "retry", "--actor", "crash")
    lab.wait_for_notes("crashed", 6)
    assert lab.wait_until_dead(message).crashes == 3
    pool.stop()


def test_some_are_retried_and_others_purged(lab: Lab) -> None:
    first, _, third, _ = bury(lab, "a", "b", "c", "d")
    assert "1 dead letter is removed" in said(lab, "dead", "purge", first)
    assert "1 dead letter is removed" in said(lab, "dead", "purge", "--actor", "b")
    assert "1 dead letter is waiting again" in said(lab, "dead", "retry", third)
    assert [(record.actor, record.state) for record in lab.records()] == [("c", "waiting"), ("d", "dead")]
    assert "0 dead letters are removed" in said(lab, "dead", "purge", "--queue", "other")
    assert "1 dead letter is waiting again" in said(lab, "dead", "retry", "--queue", "default")
    assert DEAD not in lab.states()


def test_all_are_retried_or_purged(lab: Lab) -> None:
    bury(lab, "a", "b")
    assert "2 dead letters are waiting again" in said(lab, "dead", "retry", "--all")
    bury(lab, "c")
    lab.wait_until_done()
    assert "3 dead letters are removed" in said(lab, "dead", "purge", "--all")
    assert lab.states() == {}
    assert "No dead letters." in said(lab, "dead")


def test_the_list_has_a_limit_and_says_so(lab: Lab) -> None:
    bury(lab, "a", "b", "c")
    assert "--limit" in said(lab, "dead", "list", "--limit", "2")
    assert len(facts(lab, "dead", "list", "--limit", "2")) == 2
    assert len(facts(lab, "dead", "list", "--actor", "c")) == 1


@pytest.mark.parametrize("command", ["retry", "purge"])
def test_ids_that_are_no_dead_letters_are_an_error(lab: Lab, command: str) -> None:
    waiting = lab.send("add", 1, 2)
    for given in ("nosuch", waiting.message_id):
        run = lab.localq("dead", command, given)
        assert run.returncode == 1
        assert "no dead letter" in run.stderr
    assert lab.record(waiting).state == "waiting"


@pytest.mark.parametrize("command", ["retry", "purge"])
def test_what_is_meant_must_be_said(lab: Lab, command: str) -> None:
    bury(lab, "a")
    run = lab.localq("dead", command)
    assert run.returncode == 2
    assert "--all" in run.stderr
    assert lab.states() == {DEAD: 1}
