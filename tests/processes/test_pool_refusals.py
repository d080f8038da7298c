"""``localq.pool`` where it cannot work: an error that names what is wrong, and nothing left behind."""

from __future__ import annotations

from .scripts import ACTORS, guarded, run
from .support import Lab, both_start_methods

pytestmark = both_start_methods


def test_a_store_of_this_process_alone_is_refused(lab: Lab) -> None:
    script = run(
        lab,
        """
        broker = localq.connect("memory://")
        localq.pool(broker, processes=1, start_method=METHOD).start()
        """,
        code=1,
    )
    assert "localq.errors.PoolError" in script.log()
    assert "'memory://'" in script.log()
    assert "localq.Worker" in script.log()


def test_all_values_that_cannot_be_are_named_together(lab: Lab) -> None:
    script = run(
        lab,
        """
        for values in (dict(processes=0), dict(processes=-1, threads=0, queues=["a b"], max_crashes=0,
                       shutdown_timeout=-5, start_method="thread"), dict(threads="two")):
            try:
                localq.pool(**values)
                print("accepted", values)
            except localq.PoolError as error:
                print(error)
        """,
    )
    lines = script.out().splitlines()
    assert "processes" in lines[0]
    for name in ("processes", "threads", "'a b'", "max_crashes", "shutdown_timeout", "start_method"):
        assert name in lines[1]
    assert "threads" in lines[2]
    assert "accepted" not in script.out()


def test_queues_given_as_one_text_are_not_taken_for_letters(lab: Lab) -> None:
    script = run(
        lab,
        """
        try:
            print(localq.pool(queues="default").config.queues)
        except (localq.PoolError, TypeError) as error:
            print("refused:", error)
        """,
    )
    assert script.out().startswith(("['default']", "refused: "))


def test_a_script_without_a_guard_is_told_about_it(lab: Lab) -> None:
    script = lab.start_script(
        ACTORS
        + """
with localq.pool(processes=1, start_method=METHOD):
    print(double.send(4).get_result(block=True, timeout=30_000))
"""
    )
    if lab.start_method == "fork":
        assert script.wait() == 0, script.log()
        assert script.out() == "8\n"
    else:
        assert script.wait() == 1
        assert "localq.errors.PoolError" in script.log()
        assert "if __name__ == '__main__':" in script.log()
    lab.wait_until_empty()


def test_actors_that_no_fresh_process_can_find_are_named(lab: Lab) -> None:
    program = lab.start_python(
        "-c",
        ACTORS + "with localq.pool(processes=1, start_method=METHOD):\n"
        "    print(double.send(4).get_result(block=True, timeout=30_000))\n",
    )
    if lab.start_method == "fork":
        assert program.wait() == 0, program.log()
        assert program.out() == "8\n"
    else:
        assert program.wait() == 1
        assert "localq.errors.PoolError" in program.log()
        assert "'aside'" in program.log()  # the first of them
    lab.wait_until_empty()


def test_without_a_file_actors_of_modules_are_still_found(lab: Lab) -> None:
    program = lab.start_python(
        "-c",
        "import os, localq, tasks\n"
        "with localq.pool(processes=1, start_method=os.environ['LAB_START_METHOD']):\n"
        "    print(tasks.add.send(1, 2).get_result(block=True, timeout=30_000))\n",
    )
    assert program.wait() == 0, program.log()
    assert program.out() == "3\n"


def test_a_program_that_a_fresh_process_cannot_import_is_described(lab: Lab) -> None:
    script = lab.start_script(
        "import sys\nif __name__ != '__main__':\n    raise RuntimeError('not twice')\n"
        + guarded(
            """
            try:
                with localq.pool(processes=2, start_method=METHOD):
                    print("up")
            except localq.PoolError as error:
                print(error)
            """
        )
    )
    assert script.wait() == 0, script.log()
    if lab.start_method == "fork":
        assert script.out() == "up\n"
    else:
        assert "RuntimeError: not twice" in script.out()
        assert "script0.py" in script.out()
    lab.wait_until_empty()


def test_a_broker_that_the_guarded_part_connects_is_used_by_fresh_processes_too(lab: Lab) -> None:
    script = run(
        lab,
        """
        localq.connect("sqlite:///other.db")
        with localq.pool(processes=1, start_method=METHOD):
            print(double.send(4).get_result(block=True, timeout=30_000))
        """,
    )
    assert script.out() == "8\n"


def test_a_program_that_sets_another_broker_in_a_fresh_process_is_told(lab: Lab) -> None:
    other = "\nlocalq.connect('sqlite:///mine.db' if __name__ == '__main__' else 'sqlite:///other.db')\n"
    script = run(
        lab,
        """
        try:
            with localq.pool(processes=1, start_method=METHOD):
                print(double.send(4).get_result(block=True, timeout=30_000))
        except localq.PoolError as error:
            print(error)
        """,
        beginning=ACTORS + other,
    )
    if lab.start_method == "fork":
        assert script.out() == "8\n"
    else:
        assert "mine.db" in script.out()
        assert "other.db" in script.out()
        assert "top level" in script.out()


def test_a_relative_file_is_the_same_in_a_fresh_process_whatever_folder_that_is_in(lab: Lab) -> None:
    (lab.folder / "sub").mkdir()
    script = run(
        lab,
        """
        import multiprocessing.process  # remembers the folder of now, and takes fresh processes there
        os.chdir("sub")
        localq.connect("sqlite:///mine.db")
        with localq.pool(processes=1, start_method=METHOD):
            print(double.send(4).get_result(block=True, timeout=30_000))
        """,
    )
    assert script.out() == "8\n"
    assert not (lab.folder / "mine.db").exists()


def test_a_store_that_has_gone_is_described(lab: Lab) -> None:
    script = run(
        lab,
        """
        localq.get_broker().url = "sqlite:////nosuch/jobs.db"
        try:
            localq.pool(processes=1, start_method=METHOD).start()
        except localq.LocalqError as error:
            print(error)
        """,
    )
    assert "/nosuch" in script.out()


def test_actors_that_only_the_guarded_part_declares_are_named(lab: Lab) -> None:
    script = run(
        lab,
        """
        @localq.actor
        def inner(x):
            return x + 1
        try:
            with localq.pool(processes=1, start_method=METHOD):
                print(inner.send(1).get_result(block=True, timeout=10_000))
        except localq.PoolError as error:
            print(error)
        """,
    )
    if lab.start_method == "fork":
        assert script.out() == "2\n"
    else:
        assert "'inner'" in script.out()
