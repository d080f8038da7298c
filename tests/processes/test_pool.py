"""``localq.pool`` inside a script: what it runs."""

from __future__ import annotations

import pytest

from .scripts import BEGINNING, guarded, run
from .support import CLOSES, Lab, both_start_methods

pytestmark = both_start_methods


def test_it_runs_the_actors_of_the_script_itself(lab: Lab) -> None:
    script = run(
        lab,
        """
        with localq.pool(processes=2, start_method=METHOD) as pool:
            assert pool.is_running
            messages = [double.send(number) for number in range(5)]
            print([message.get_result(block=True, timeout=30_000) for message in messages])
            print(who.send().get_result(block=True, timeout=30_000) != os.getpid())
        assert not pool.is_running
        """,
    )
    assert script.out() == "[0, 2, 4, 6, 8]\nTrue\n"
    assert script.log() == ""


def test_it_runs_the_actors_of_imported_modules_and_of_the_broker_that_it_is_given(lab: Lab) -> None:
    script = run(
        lab,
        """
        import tasks
        with localq.pool(localq.get_broker(), processes=1, start_method=METHOD):
            print(tasks.add.send(1, 2).get_result(block=True, timeout=30_000))
        """,
        beginning=BEGINNING,
    )
    assert script.out() == "3\n"


def test_it_runs_the_broker_that_the_script_has_connected(lab: Lab) -> None:
    script = lab.start_script(
        """
        import os
        import localq
        localq.connect("sqlite:///mine.db")

        @localq.actor
        def double(x):
            return 2 * x

        if __name__ == "__main__":
            with localq.pool(processes=1, start_method=os.environ["LAB_START_METHOD"]):
                print(double.send(4).get_result(block=True, timeout=30_000))
        """
    )
    assert script.wait() == 0, script.log()
    assert script.out() == "8\n"
    assert not lab.file.exists()


def test_it_finds_a_script_that_is_run_as_a_module(lab: Lab) -> None:
    (lab.folder / "package").mkdir()
    lab.write("package/__init__.py", "")
    lab.write(
        "package/program.py",
        guarded(
            """
            with localq.pool(processes=1, start_method=METHOD):
                print(double.send(4).get_result(block=True, timeout=30_000))
            """
        ),
    )
    program = lab.start_python("-m", "package.program")
    assert program.wait() == 0, program.log()
    assert program.out() == "8\n"


def test_messages_that_were_sent_before_it_started_are_run(lab: Lab) -> None:
    script = run(
        lab,
        """
        messages = [double.send(number) for number in range(3)]  # the file is open when the pool forks
        with localq.pool(processes=2, start_method=METHOD):
            messages += [double.send(number) for number in range(3, 6)]
            print([message.get_result(block=True, timeout=30_000) for message in messages])
        print(localq.get_broker().store.counts())
        """,
    )
    assert script.out() == "[0, 2, 4, 6, 8, 10]\n{}\n"


def test_leaving_the_block_lets_the_running_message_come_to_its_end(lab: Lab) -> None:
    script = lab.start_script(
        guarded(
            """
            with localq.pool(processes=1, start_method=METHOD):
                message = hold.send("a")
                while not os.path.exists("left"):
                    time.sleep(0.01)
            print(message.get_result())
            """
        )
    )
    lab.held("a")
    (lab.folder / "left").touch()
    lab.release("a")
    assert script.wait() == 0, script.log()
    assert script.out() == "a\n"


def test_only_the_named_queues_are_served_by_several_threads(lab: Lab) -> None:
    script = run(
        lab,
        """
        with localq.pool(processes=1, threads=2, queues=["default"], start_method=METHOD):
            aside.send()
            messages = [hold.send("a"), hold.send("b")]
            while len([line for line in open("notes") if "held" in line] if os.path.exists("notes") else []) < 2:
                time.sleep(0.01)
            open("release-a", "w"), open("release-b", "w")
            print([message.get_result(block=True, timeout=30_000) for message in messages])
        print(localq.get_broker().get_queue_message_counts("aside"))
        """,
    )
    assert script.out() == "['a', 'b']\n(1, 0, 0)\n"


def test_it_can_be_started_and_stopped_by_hand_again_and_again(lab: Lab) -> None:
    script = run(
        lab,
        """
        pool = localq.pool(processes=1, start_method=METHOD)
        pool.stop()  # safe before it was started
        for number in range(2):
            pool.start()
            print(double.send(number).get_result(block=True, timeout=30_000))
            pool.stop()
            pool.stop()
            print(pool.is_running)
        """,
    )
    assert script.out() == "0\nFalse\n2\nFalse\n"


def test_to_start_it_twice_is_an_error_and_harms_nothing(lab: Lab) -> None:
    script = run(
        lab,
        """
        with localq.pool(processes=1, start_method=METHOD) as pool:
            try:
                pool.start()
            except localq.PoolError as error:
                print(error)
            print(double.send(4).get_result(block=True, timeout=30_000))
        """,
    )
    assert "running already" in script.out()
    assert script.out().endswith("\n8\n")


def test_two_pools_in_one_script_share_the_work(lab: Lab) -> None:
    script = run(
        lab,
        """
        with localq.pool(processes=1, start_method=METHOD), localq.pool(processes=1, start_method=METHOD):
            first, second = hold.send("a"), hold.send("b")
            while len([line for line in open("notes") if "held" in line] if os.path.exists("notes") else []) < 2:
                time.sleep(0.01)
            open("release-a", "w"), open("release-b", "w")
            print(first.get_result(block=True, timeout=30_000), second.get_result(block=True, timeout=30_000))
        """,
    )
    assert script.out() == "a b\n"


def test_a_program_with_threads_gets_fresh_processes(lab: Lab) -> None:
    # With one thread and "fork" the file would be run once; fresh processes import it again.
    script = run(
        lab,
        """
        import threading
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        with localq.pool(processes=1, start_method=METHOD):
            print(double.send(4).get_result(block=True, timeout=30_000))
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            commands = [open(f"/proc/{pid}/cmdline").read() for pid in children]
            print(any("localq.processes" in command for command in commands))
        """,
    )
    assert script.out() == "8\nTrue\n"


def test_output_that_the_script_has_not_written_yet_is_written_once(lab: Lab) -> None:
    script = run(
        lab,
        """
        import atexit
        atexit.register(notes.note, "left")
        sys.stdout.write("once ")
        with localq.pool(processes=2, start_method=METHOD):
            double.send(4).get_result(block=True, timeout=30_000)
        """,
    )
    assert script.out() == "once "
    assert lab.notes("left") == ["left"]


def test_a_killed_worker_of_it_is_replaced(lab: Lab) -> None:
    script = run(
        lab,
        """
        import signal
        with localq.pool(processes=1, start_method=METHOD):
            first = who.send().get_result(block=True, timeout=30_000)
            os.kill(first, signal.SIGKILL)
            print(who.send().get_result(block=True, timeout=30_000) != first)
        """,
    )
    assert script.out() == "True\n"


def test_max_crashes_says_how_often_a_message_may_crash(lab: Lab) -> None:
    script = run(
        lab,
        """
        import crashes
        with localq.pool(processes=1, max_crashes=1, start_method=METHOD):
            message = crashes.crash.send("SIGKILL")
            try:
                message.get_result(block=True, timeout=30_000)
            except localq.errors.ResultFailure as error:
                print(error.orig_exc_type)
        """,
        beginning=BEGINNING,
    )
    assert script.out() == "WorkerCrashed\n"
    assert len(lab.notes("crashed")) == 1


def test_it_runs_a_broker_that_is_not_the_global_one(lab: Lab) -> None:
    beginning = """
from localq.brokers import SQLiteBroker
from localq.results import Results

mine = SQLiteBroker("mine.db", [Results(store_results=True)])

@localq.actor(broker=mine)
def triple(x):
    return 3 * x
"""
    script = run(
        lab,
        """
        with localq.pool(mine, processes=1, start_method=METHOD):
            message = triple.send(4)
            print(message.get_result(backend=mine.get_results_backend(), block=True, timeout=10_000))
        """,
        beginning=BEGINNING + beginning,
    )
    assert script.out() == "12\n"


@pytest.mark.parametrize("closed", ["[0]", "[0, 1, 2]"])
def test_it_runs_in_a_program_without_standard_streams(lab: Lab, closed: str) -> None:
    lab.write("closes.py", CLOSES.replace("CLOSED", closed))
    lab.write(
        "program.py",
        guarded(
            """
            with localq.pool(processes=2, start_method=METHOD):
                notes.note("result", double.send(4).get_result(block=True, timeout=30_000))
            """
        ),
    )
    program = lab.start_python("closes.py", "program.py")
    assert program.wait() == 0, program.log()
    assert lab.notes("result") == ["result 8"]
