"""A program that calls the command line in its own process: a reload runs the whole program anew, since what
it has imported itself would stay as it was."""

from __future__ import annotations

import signal

import pytest

from .support import Lab, Program, wait_until

VERSION = """
    import localq
    from notes import hold

    @localq.actor
    def version(name):
        hold(name)
        return {}
"""
PROGRAM = """
    import localq.cli, versions

    words = [*{options}, "-p", "1", "versions"]
    localq.cli.main(localq.cli.make_argument_parser().parse_args(words))
"""


def start(lab: Lab, *options: str) -> Program:
    lab.write("versions.py", VERSION.format(1))
    return lab.start_script(PROGRAM.format(options=list(options))).wait_until_up()


@pytest.mark.parametrize("options", [[], ["--watch", "."]], ids=["SIGHUP", "watch"])
def test_a_reload_runs_what_has_been_edited_in_the_same_process(lab: Lab, options: list[str]) -> None:
    program = start(lab, "--pid-file", "program.pid", *options)
    message = lab.send("version", "a")
    lab.held("a")
    lab.write("versions.py", VERSION.format(2222))
    if not options:
        program.signal(signal.SIGHUP)
    program.wait_for_log("Replacing the whole program")
    lab.release("a", "b")

    assert lab.result(message) == 1
    assert lab.result(lab.send("version", "b")) == 2222
    wait_until(lambda: (lab.folder / "program.pid").read_text() == str(program.pid))
    program.stop()
    assert lab.states() == {}


def test_it_is_stopped_in_order_while_it_is_about_to_run_anew(lab: Lab) -> None:
    program = start(lab)
    message = lab.send("version", "a")
    lab.held("a")
    program.signal(signal.SIGHUP)
    program.wait_for_log("Replacing the whole program")
    program.signal(signal.SIGTERM)
    program.wait_for_log("Stopping on SIGTERM")
    lab.release("a")

    assert program.wait() == 0
    assert lab.result(message) == 1
    assert program.log().count("is up") == 1
