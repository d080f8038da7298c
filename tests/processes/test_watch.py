"""``--watch``: the workers are replaced when a source file changes, and only then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from localq.processes import watch
from localq.processes.watch import Watcher

from .support import Lab, Program, both_start_methods, wait_until

VERSION = "import localq\n\n@localq.actor\ndef version():\n    return {}\n"

SECONDS = 5
"""What a change may take until the new code runs."""


def watching(lab: Lab, *options: str, folder: str = ".") -> Program:
    lab.write("versions.py", VERSION.format(1))
    return lab.start_pool("versions", "-p", "1", "--watch", folder, *options)


def assert_that_nothing_happens(lab: Lab, pool: Program) -> None:
    workers = lab.workers()
    time.sleep(4 * watch.INTERVAL / 1000)  # that something does not happen can only be waited for
    assert "Replacing" not in pool.log()
    assert lab.workers() == workers
    pool.stop()


@both_start_methods
@pytest.mark.parametrize("options", [[], ["--watch-use-polling"]], ids=["", "polling"])
def test_a_touched_source_replaces_the_workers_within_seconds(lab: Lab, options: list[str]) -> None:
    pool = watching(lab, *options)
    workers = lab.workers()
    (lab.folder / "versions.py").touch()
    wait_until(lambda: len(lab.workers() - workers) == 1, seconds=SECONDS)
    pool.wait_for_log("versions.py has changed")
    assert lab.result(lab.send("version")) == 1
    pool.stop()
    assert pool.log().count("Replacing") == 1


@pytest.mark.parametrize("options", [[], ["--watch-use-polling"]], ids=["", "polling"])
def test_a_source_that_is_read_replaces_nothing(lab: Lab, options: list[str]) -> None:
    pool = watching(lab, *options)
    (lab.folder / "versions.py").read_bytes()
    assert_that_nothing_happens(lab, pool)


def test_an_edited_source_is_what_runs_next(lab: Lab) -> None:
    pool = watching(lab)
    assert lab.result(lab.send("version")) == 1
    lab.write("versions.py", VERSION.format(2222))
    wait_until(lambda: lab.result(lab.send("version")) == 2222)
    pool.stop()


def test_a_source_below_the_folder_counts_too_and_one_beside_it_does_not(lab: Lab) -> None:
    (lab.folder / "package" / "inner").mkdir(parents=True)
    lab.write("package/inner/part.py", "")
    pool = watching(lab, folder="package")
    workers = lab.workers()
    (lab.folder / "versions.py").touch()
    (lab.folder / "package" / "inner" / "part.py").touch()
    lab.wait_for_workers(1, without=workers)
    pool.wait_for_log("part.py has changed")
    pool.stop()
    assert pool.log().count("Replacing") == 1


def test_a_running_message_comes_to_its_end_first(lab: Lab) -> None:
    lab.write("more.py", "from tasks import *\n")
    pool = lab.start_pool("more", "-p", "1", "--watch", ".")
    message = lab.send("hold", "a")
    worker = lab.held("a")
    (lab.folder / "more.py").touch()
    pool.wait_for_log("more.py has changed")
    lab.release("a")
    assert lab.result(message) == "a"
    lab.wait_for_workers(1, without=[worker])
    assert len(lab.notes("held")) == 1
    pool.stop()


def test_a_source_that_was_broken_and_is_mended_is_used_at_once(lab: Lab) -> None:
    pool = watching(lab)
    lab.write("versions.py", "raise RuntimeError('half edited')\n")
    pool.wait_for_log("RuntimeError: half edited")
    pool.wait_for_log("replacing it in 4 s")
    lab.write("versions.py", VERSION.format(2222))
    wait_until(lambda: lab.workers(), seconds=3)
    assert lab.result(lab.send("version")) == 2222
    pool.stop()


def test_fork_functions_are_started_anew_too(lab: Lab) -> None:
    pool = watching(lab, "-f", "beside:serve")
    lab.wait_for_notes("serves")
    (lab.folder / "versions.py").touch()
    lab.wait_for_notes("serves", 2)
    pool.stop()
    assert len(lab.notes("leaves")) == 2


@pytest.mark.parametrize(
    ("options", "path", "counts"),
    [
        (["-i", "*.html"], "page.html", True),
        (["--watch-include", "*.html"], "page.html", True),
        ([], "page.html", False),
        (["-i", "*.html"], "versions.py", True),
        (["-x", "ver*.py"], "versions.py", False),
        (["--watch-exclude", "ver*.py"], "versions.py", False),
    ],
)
def test_patterns_say_what_counts(lab: Lab, options: list[str], path: str, counts: bool) -> None:
    lab.write("page.html", "")
    pool = watching(lab, *options)
    workers = lab.workers()
    (lab.folder / path).touch()
    if counts:
        lab.wait_for_workers(1, without=workers)
        pool.stop()
    else:
        assert_that_nothing_happens(lab, pool)


def test_the_supervisor_that_watches_has_one_thread_and_stops_in_order(lab: Lab) -> None:
    pool = watching(lab)
    assert len(os.listdir(f"/proc/{pool.pid}/task")) == 1
    (lab.folder / "versions.py").touch()
    pool.wait_for_log("Replacing")
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--watch", "nosuch"], "nosuch"),
        (["--watch", "tasks.db"], "tasks.db"),
        (["--watch", ".", "--preload"], "preload"),
    ],
)
def test_what_cannot_be_watched_is_described_and_exits_2(lab: Lab, options: list[str], said: str) -> None:
    (lab.folder / "tasks.db").touch()
    run = lab.localq("tasks", *options)
    assert run.returncode == 2
    assert said in run.stderr


# -- what the watcher sees


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], str | None]]:
    """A watcher without pauses: what has changed, relative to its folder."""
    monkeypatch.setattr(watch, "INTERVAL", 0)
    monkeypatch.setattr(watch, "SHARE", 0)

    def look(*args: list[str]) -> Callable[[], str | None]:
        watcher = Watcher(str(tmp_path), *args)

        def changed() -> str | None:
            path = watcher.changed()
            return path and os.path.relpath(path, tmp_path)

        return changed

    return look


def test_it_sees_files_come_change_and_go(tmp_path: Path, look: Callable[..., Callable[[], str | None]]) -> None:
    changed = look()
    assert changed() is None
    (file := tmp_path / "a.py").write_text("1")
    assert changed() == "a.py"
    assert changed() is None
    os.utime(file, ns=(1, 1))
    assert changed() == "a.py"
    (tmp_path / "fresh").write_text("2")
    os.utime(tmp_path / "fresh", ns=(1, 1))
    (tmp_path / "fresh").replace(file)  # as editors save
    assert changed() == "a.py"
    file.rename(tmp_path / "b.py")
    assert changed() == "a.py"
    (tmp_path / "b.py").unlink()
    assert changed() == "b.py"
    assert changed() is None


@pytest.mark.parametrize("folder", [".git", ".venv", "__pycache__", "left_out"])
def test_it_leaves_out_folders_of_tools_and_excluded_ones(
    tmp_path: Path, look: Callable[..., Callable[[], str | None]], folder: str
) -> None:
    (tmp_path / folder).mkdir()
    changed = look([], ["left_out"])
    (tmp_path / folder / "a.py").touch()
    assert changed() is None


def test_patterns_may_name_folders(tmp_path: Path, look: Callable[..., Callable[[], str | None]]) -> None:
    for folder in ("templates", "others"):
        (tmp_path / folder).mkdir()
    changed = look(["templates/*.txt"])
    (tmp_path / "others" / "a.txt").touch()
    assert changed() is None
    (tmp_path / "templates" / "a.txt").touch()
    assert changed() == "templates/a.txt"


def test_a_folder_that_goes_is_no_error(tmp_path: Path, look: Callable[..., Callable[[], str | None]]) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").touch()
    changed = look()
    (tmp_path / "package" / "a.py").unlink()
    (tmp_path / "package").rmdir()
    assert changed() == "package/a.py"


def test_links_to_files_are_followed_and_circles_of_folders_are_not(
    tmp_path: Path, look: Callable[..., Callable[[], str | None]]
) -> None:
    (tmp_path / "a.py").touch()
    (tmp_path / "link.py").symlink_to("a.py")
    (tmp_path / "circle").symlink_to(".")
    (tmp_path / "dangling.py").symlink_to("nosuch")
    changed = look([], ["a.py"])
    assert changed() is None
    os.utime(tmp_path / "a.py", ns=(1, 1))
    assert changed() == "link.py"


def test_it_looks_again_after_a_pause_only(tmp_path: Path) -> None:
    watcher = Watcher(str(tmp_path))
    (tmp_path / "a.py").touch()
    assert watcher.changed() is None
    assert 0 < (watcher.due.left() or 0) <= watch.INTERVAL * 10
    wait_until(watcher.changed)
