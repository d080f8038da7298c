"""`examples/discover_tasks.sh` finds the modules that ``localq --discover`` finds, in every shell there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .frameworks import EXAMPLES, Stage, every_shell

SCRIPT = EXAMPLES / "discover_tasks.sh"

TASKS = """
import localq

@localq.actor(actor_name=__name__)
def name():
    return __name__
"""

ASKS = """
import localq

for name in {names!r}:
    message = localq.Message("default", name, (), {{}}, {{}})
    print(localq.get_broker().enqueue(message).get_result(block=True, timeout=30_000))
"""

FILES = ["shop/tasks.py", "shop/mail/tasks/__init__.py", "tasks.py", "shop/views.py"]
OTHERS = ["my-app/tasks.py", "v1.2/tasks.py", ".hidden/tasks.py", "node_modules/tasks.py", "env/lib/tasks.py"]
NAMES = ["shop.mail.tasks", "shop.tasks", "tasks"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A project in the folder ``project``, which is also the place of its queue."""
    for file in (*FILES, *OTHERS):
        path = tmp_path / "project" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TASKS)
    (tmp_path / "project" / "env" / "pyvenv.cfg").touch()
    with Stage(tmp_path) as stage:
        stage.env["LOCALQ_URL"] = f"sqlite:///{tmp_path}/jobs.db"
        yield stage


@every_shell
def test_it_starts_localq_on_all_that_it_finds_in_a_folder(stage: Stage, shell: str) -> None:
    worker = stage.start(shell, SCRIPT, "project", "-p", "1").wait_until_up()
    assert f"found: {' '.join(NAMES)}\n" in worker.log()
    assert stage.python(ASKS.format(names=NAMES)).split() == NAMES
    worker.stop()  # which goes to localq itself, and is answered with 0


def test_without_a_folder_it_looks_where_it_is(stage: Stage) -> None:
    stage.folder = stage.folder / "project"
    for arguments in ([], ["-p", "1"]):
        worker = stage.start(SCRIPT, *arguments).wait_until_up()
        assert f"found: {' '.join(NAMES)}\n" in worker.log()
        worker.stop()


def test_the_flag_of_localq_finds_the_same(stage: Stage) -> None:
    stage.folder = stage.folder / "project"
    worker = stage.start_worker("--discover", "-p", "1")
    assert f"Found {', '.join(NAMES)} below" in worker.log()
    worker.stop()


@every_shell
def test_a_folder_without_any_is_an_error(stage: Stage, shell: str) -> None:
    (stage.folder / "empty").mkdir()
    script = stage.start(shell, SCRIPT, "empty")
    assert script.wait() == 2
    assert f"no module or package named tasks in {stage.folder}/empty or below it" in script.log()


@every_shell
def test_a_folder_that_is_not_there_is_an_error(stage: Stage, shell: str) -> None:
    script = stage.start(shell, SCRIPT, "nosuch")
    assert script.wait() != 0
    assert "nosuch" in script.log()


def test_its_status_is_that_of_localq(stage: Stage) -> None:
    (stage.folder / "project" / "tasks.py").write_text("1 / 0\n")
    assert stage.start(SCRIPT, "project").wait() == 2
    script = stage.start(SCRIPT, "project", "--nosuch")
    assert script.wait() == 2
    assert "--nosuch" in script.log()


def test_it_can_be_executed() -> None:
    assert os.access(SCRIPT, os.X_OK)
