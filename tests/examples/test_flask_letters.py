"""`examples/flask_letters.py`: requests by Flask's test client, and a worker that really runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .frameworks import EXAMPLES, Stage, wait_until

CLIENT = f"""
import json, sys
sys.path.insert(0, {str(EXAMPLES)!r})
from flask_letters import create_app
client = create_app().test_client()
def show(answer):
    print(json.dumps([answer.status_code, answer.json]))
"""

PROBE = """
import flask
import localq
from flask_letters import create_app as create_letters

ENDS = []

def create_app():
    create_letters()  # whose context must not be the one of the messages
    app = create_letters()
    app.config["SITE"] = "the second"
    app.teardown_appcontext(lambda error: ENDS.append(type(error).__name__))

@localq.actor
def work():
    return flask.current_app.config["SITE"]

@localq.actor
async def work_in_a_coroutine():
    return flask.current_app.config["SITE"]

@localq.actor(max_retries=0)
def fail():
    raise OSError("no paper")

@localq.actor
def ends():
    return list(ENDS)
"""

ASK_PROBE = f"""
import json, sys
sys.path[:0] = [{str(EXAMPLES)!r}, "."]
import probe
def ask(actor):
    return actor.send().get_result(block=True, timeout=30_000)
work, in_a_coroutine = ask(probe.work), ask(probe.work_in_a_coroutine)
try:
    ask(probe.fail)
except Exception as error:
    failed = str(error)
print(json.dumps([work, in_a_coroutine, failed, ask(probe.ends)]))
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def ask(stage: Stage, request: str) -> tuple[int, Any]:
    status, answer = json.loads(stage.python(f"{CLIENT}show({request})\n"))
    return status, answer


def test_a_request_sends_and_another_shows_what_the_worker_has_made(stage: Stage) -> None:
    status, answer = ask(stage, "client.post('/letters', data={'name': 'Ada'})")
    assert status == 202
    letter = f"client.get({answer['letter']!r})"
    assert ask(stage, letter) == (202, {"text": None})

    worker = stage.start_worker("flask_letters:create_app", "--path", EXAMPLES, "-p", "2")

    wait_until(lambda: ask(stage, letter)[0] == 200, why="the letter is written")
    assert ask(stage, letter) == (200, {"text": "Dear Ada, welcome to the example."})
    worker.stop()


def test_a_failure_is_shown_as_one(stage: Stage) -> None:
    (stage.folder / "other.py").write_text("import localq\n\n@localq.actor\ndef other(): ...\n")
    worker = stage.start_worker("other", "-p", "1")  # it does not know the actor
    _, answer = ask(stage, "client.post('/letters', data={'name': 'Ada'})")
    letter = f"client.get({answer['letter']!r})"
    wait_until(lambda: ask(stage, letter)[0] != 202, why="an end")
    assert ask(stage, letter) == (500, {"error": "actor raised ActorNotFound: write_letter"})
    worker.stop()


def test_each_message_has_a_context_of_its_own_which_ends_with_it(stage: Stage) -> None:
    (stage.folder / "probe.py").write_text(PROBE)
    worker = stage.start_worker("probe:create_app", "--path", ".", EXAMPLES, "-p", "1")
    work, in_a_coroutine, failed, ends = json.loads(stage.python(ASK_PROBE))
    assert work == in_a_coroutine == "the second"
    assert failed == "actor raised OSError: no paper"
    assert ends == ["NoneType", "NoneType", "OSError"]
    worker.stop()


FLASK = """
import sys
import localq
localq.install_as_dramatiq()  # flask imports the plug-ins of all that is installed: one of tests/ecosystem, too
from flask.cli import main
sys.argv = ["flask", "--app", {app!r}, "routes"]
main()
"""


def test_flasks_own_command_finds_the_application(stage: Stage) -> None:
    assert "pages.order_letter" in stage.python(FLASK.format(app=str(EXAMPLES / "flask_letters")))
