"""``--discover``: modules and packages named ``tasks`` are found, however deep, and run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from localq.processes.discover import can_be_imported, find_task_modules

from .support import APPS, Lab, both_start_methods

MODULE = "import localq\n\n@localq.actor\ndef {}():\n    return __name__\n"


def write(lab: Lab, files: dict[str, str]) -> None:
    """Write modules with one actor each, of that name, which returns the name of its module."""
    for file, actor in files.items():
        (lab.folder / file).parent.mkdir(parents=True, exist_ok=True)
        lab.write(file, MODULE.format(actor))


@pytest.fixture
def project(lab: Lab) -> Lab:
    """A lab whose folder is a project with two task modules."""
    lab.env["PYTHONPATH"] = lab.env["PYTHONPATH"].replace(str(APPS), "")
    write(lab, {"shop/tasks.py": "pack", "shop/mail/tasks.py": "deliver", "shop/views.py": "view"})
    return lab


@both_start_methods
def test_all_modules_named_tasks_below_the_working_directory_run_and_are_logged_once(project: Lab) -> None:
    pool = project.start_pool("--discover", "-p", "2")
    assert project.result(project.send("pack")) == "shop.tasks"
    assert project.result(project.send("deliver")) == "shop.mail.tasks"
    pool.stop()
    assert pool.log().count(f"Found shop.mail.tasks, shop.tasks below {project.folder}.") == 1
    assert "view" not in pool.log()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--discover"],
        ["--discover", "."],
        ["--discover=."],
        ["--discover", "shop"],
        ["--discover=shop"],
        ["--discover", "--threads", "2"],
        ["--threads", "2", "--discover"],
        ["worker", "--discover"],
        ["worker", "--discover", "shop"],
        ["--discover", "-Q", "default", "mail"],
        ["--discover", "-P", "."],
        ["--discover", "--"],
    ],
    ids=" ".join,
)
def test_the_folder_may_be_named_or_left_out_wherever_the_flag_stands(project: Lab, arguments: list[str]) -> None:
    words = arguments if arguments[-1] == "--" else [*arguments, "-p", "1"]
    pool = project.start_pool(*words)
    assert project.result(project.send("pack")) == "shop.tasks"
    pool.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ["extra", "--discover"],
        ["--discover", "shop", "extra"],
        ["--discover", "shop", "--", "extra"],
        ["--discover=shop", "extra"],
        ["-p", "1", "--discover", "-P", ".", "--", "extra"],
    ],
    ids=" ".join,
)
def test_further_modules_can_be_named_besides(project: Lab, arguments: list[str]) -> None:
    write(project, {"extra.py": "further"})
    pool = project.start_pool(*arguments)
    assert project.result(project.send("further")) == "extra"
    assert project.result(project.send("pack")) == "shop.tasks"
    pool.stop()


def test_a_module_named_besides_may_have_the_broker(project: Lab) -> None:
    project.write("brokers.py", "import localq\n\ndef set_up():\n    localq.connect('sqlite:///other.db')\n")
    broker = project.broker_of(project.folder / "other.db")
    message = broker.enqueue(project.message("pack"))
    pool = project.start_pool("brokers:set_up", "--discover", "-p", "1")
    assert project.result(message, broker=broker) == "shop.tasks"
    pool.stop()


def test_only_the_named_queues_are_served_of_what_is_found(project: Lab) -> None:
    project.write("shop/tasks.py", "import localq\n\n@localq.actor(queue_name='mail')\ndef letter(): return 1\n")
    left = project.send("deliver")
    pool = project.start_pool("--discover", "-Q", "mail", "post", "-p", "1")
    assert project.result(project.send("letter", queue="mail")) == 1
    assert project.record(left).attempts == 0
    pool.stop()


def test_a_package_named_tasks_is_imported_with_all_that_is_in_it(lab: Lab) -> None:
    write(lab, {"tasks/__init__.py": "top", "tasks/mail.py": "mail_it", "tasks/deep/bill.py": "bill_it"})
    lab.write("tasks/__main__.py", "raise SystemExit('this is for python -m tasks')\n")
    pool = lab.start_pool("--discover", "-p", "1")
    for actor, module in (("top", "tasks"), ("mail_it", "tasks.mail"), ("bill_it", "tasks.deep.bill")):
        assert lab.result(lab.send(actor)) == module
    pool.stop()


def test_a_name_begins_in_the_nearest_folder_of_the_path(project: Lab) -> None:
    write(project, {"src/store/tasks.py": "sell"})
    pool = project.start_pool("--discover", "-P", "src", "-p", "1")
    assert project.result(project.send("sell")) == "store.tasks"
    assert project.result(project.send("pack")) == "shop.tasks"
    pool.stop()


@both_start_methods
def test_a_folder_outside_of_the_path_becomes_importable(
    project: Lab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "depot").mkdir()
    (elsewhere / "depot" / "tasks.py").write_text("import beside\n" + MODULE.format("store"))
    (elsewhere / "beside.py").write_text("import notes\n\ndef serve():\n    notes.note('serves')\n")
    project.env["PYTHONPATH"] += str(APPS)
    pool = project.start_pool("--discover", str(elsewhere), "-p", "1", "-f", "depot.tasks:beside.serve")
    assert project.result(project.send("store")) == "depot.tasks"
    project.wait_for_notes("serves")
    pool.stop()


# -- what is new at a reload


@both_start_methods
def test_a_hang_up_looks_anew(project: Lab) -> None:
    pool = project.start_pool("--discover", "-p", "2")
    before = project.workers()
    write(project, {"depot/tasks.py": "store"})
    pool.signal(signal.SIGHUP)
    project.wait_for_workers(2, without=before)
    assert project.result(project.send("store")) == "depot.tasks"
    pool.stop()


def test_a_module_that_comes_while_the_folder_is_watched_is_run(project: Lab) -> None:
    pool = project.start_pool("--discover", "--watch", ".", "-p", "1")
    before = project.workers()
    write(project, {"depot/tasks.py": "store"})
    project.wait_for_workers(1, without=before)
    assert project.result(project.send("store")) == "depot.tasks"
    pool.stop()


def test_preload_looks_once_in_the_supervisor(project: Lab) -> None:
    pool = project.start_pool("--discover", "--preload", "-p", "2")
    assert project.result(project.send("pack")) == "shop.tasks"
    pool.stop()
    assert pool.log().count("Found ") == 1


# -- what is wrong


@both_start_methods
@pytest.mark.parametrize("options", [["-p", "2"], ["--preload"]], ids=" ".join)
def test_nothing_found_is_said_and_exits_2(lab: Lab, options: list[str]) -> None:
    if "--preload" in options and lab.start_method == "spawn":
        options = ["-p", "1"]  # they exclude each other
    write(lab, {".hidden/tasks.py": "hidden", "task.py": "almost"})
    program = lab.start("--discover", *options)
    assert program.wait() == 2
    assert f"no module or package named 'tasks' in {str(lab.folder)!r} or below it" in program.log()
    assert program.log().count("The pool cannot start") == 1


@pytest.mark.parametrize("arguments", [["--discover", "nosuch"], ["--discover=nosuch"], ["--discover", "a.py"]])
def test_a_folder_that_is_none_is_refused_with_2(lab: Lab, arguments: list[str]) -> None:
    lab.write("a.py", "")
    run = lab.localq(*arguments)
    assert run.returncode == 2
    assert "--discover" in run.stderr
    assert arguments[-1].rpartition("=")[2] in run.stderr


def test_a_module_that_breaks_is_described_and_exits_2(project: Lab) -> None:
    project.write("shop/mail/tasks.py", "1 / 0\n")
    program = project.start("--discover", "-p", "1")
    assert program.wait() == 2
    for text in (f"'tasks' modules below {str(project.folder)!r}", "ZeroDivisionError", "shop/mail/tasks.py"):
        assert text in program.log()


def test_a_store_that_a_found_module_cannot_open_exits_3(project: Lab) -> None:
    project.write("shop/tasks.py", "import localq\n\nlocalq.connect('sqlite:////nosuch/jobs.db').store\n")
    program = project.start("--discover", "-p", "1")
    assert program.wait() == 3
    assert "/nosuch" in program.log()


def test_names_that_no_module_can_have_are_left_out_with_a_warning(project: Lab) -> None:
    write(project, {"my-app/tasks.py": "lost", "v1.2/tasks.py": "lost", "class/tasks.py": "lost"})
    pool = project.start_pool("--discover", "-p", "2")
    assert project.result(project.send("pack")) == "shop.tasks"
    pool.stop()
    for folder in ("my-app", "v1.2", "class"):
        assert pool.log().count(f"Leaving out {project.folder}/{folder}/tasks.py") == 1


def test_two_files_for_one_name_are_an_error_that_names_both(project: Lab) -> None:
    write(project, {"a/tasks.py": "of_a", "b/tasks.py": "of_b"})
    program = project.start("--discover", "-P", "a", "b", "-p", "1")
    assert program.wait() == 2
    for file in ("a/tasks.py", "b/tasks.py"):
        assert str(project.folder / file) in program.log()


# -- looking, without processes


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is found when each of these files is there."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    files = [
        *("tasks.py", "tasks.pyc", "mytasks.py", "tasks_too.py", "tasks.txt", "tasks.d/a.txt"),
        *("docs/tasks/index.md", "bare/tasks/run.py", "whole/tasks/__init__.py", "whole/tasks/deep/er.py"),
        *(".hidden/tasks.py", "a/.tox/tasks.py", "node_modules/a/tasks.py", "__pycache__/tasks.py"),
        *("env/pyvenv.cfg", "env/lib/tasks.py", "conda/conda-meta/history", "conda/lib/tasks.py"),
        *("whole/tasks/node_modules/a.py", "no-name/tasks.py"),
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "circle").symlink_to(".")
    return [".".join(parts) for parts, _ in find_task_modules(str(tmp_path))]


def test_modules_and_packages_are_found_and_other_peoples_folders_are_left_out(found: list[str]) -> None:
    expected = ["bare.tasks.run", "no-name.tasks", "tasks", "whole.tasks", "whole.tasks.deep.er"]
    assert found == expected


def test_the_folder_may_itself_be_a_package_named_tasks_or_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".hidden" / "shop" / "tasks"
    folder.mkdir(parents=True)
    (folder / "mail.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / ".hidden")])
    assert find_task_modules(str(folder)) == [(("shop", "tasks", "mail"), str(folder / "mail.py"))]


def test_a_folder_above_that_is_named_tasks_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "other.py").touch()
    monkeypatch.setattr(sys, "path", [str(folder)])
    assert find_task_modules(str(folder)) == []


def test_a_link_to_a_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real.py").touch()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").symlink_to(tmp_path / "real.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert [parts for parts, _ in find_task_modules(str(tmp_path))] == [("shop", "tasks")]


def test_a_working_directory_that_python_names_by_nothing_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [""])
    assert find_task_modules(".") == [(("tasks",), os.path.join(os.getcwd(), "tasks.py"))]


@pytest.mark.parametrize(
    ("name", "can"),
    [("shop", True), ("müsli", True), ("my-app", False), ("v1.2", False), ("class", False), ("1", False)],
)
def test_a_name_that_an_import_statement_cannot_have_is_none(name: str, can: bool) -> None:
    assert can_be_imported((name, "tasks")) is can
