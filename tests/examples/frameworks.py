"""What the tests of the framework and operations recipes share: a stage on which their commands run as
a reader would type them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ..processes.support import DIES_WITH_THE_TESTS, ROOT, Program, wait_until

EXAMPLES = ROOT / "examples"

SHELLS = list({os.path.realpath(path): path for path in map(shutil.which, ("sh", "bash", "ksh", "dash")) if path})
every_shell = pytest.mark.parametrize("shell", SHELLS, ids=os.path.basename)
"""Runs a test with each program that may run a shell script here."""

__all__ = ["EXAMPLES", "Program", "Stage", "every_shell", "wait_until"]


class Stage:
    """A folder to be in, an environment in which nothing is set, and the programs that were started.

    The data folder is an empty one, and ``localq`` is a command, as in an activated virtual environment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[Program] = []
        self.env = {name: value for name, value in os.environ.items() if name != "LOCALQ_URL"}
        self.env["XDG_DATA_HOME"] = str(folder / "data")
        self.env["PYTHONPATH"] = str(ROOT)
        self.env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self.programs:
            if program.runs():
                _end(program)
            print(f"--- {program.name}: {program.out()}\n{program.log()[-10_000:]}")

    def start(self, *command: str | Path) -> Program:
        """Start a program in the folder."""
        words = [*DIES_WITH_THE_TESTS, *map(str, command)]
        program = Program(words, self.folder, self.env, f"program{len(self.programs)}")
        self.programs.append(program)
        return program

    def start_worker(self, *arguments: str | Path) -> Program:
        """Start ``localq`` with these arguments, and wait until its processes are ready."""
        return self.start("localq", *arguments).wait_until_up()

    def run(self, *command: str | Path) -> str:
        """Run a program in the folder to its end, which must be a good one; returns what it printed."""
        words = [str(word) for word in command]
        ran = subprocess.run(
            words,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def python(self, script: str) -> str:
        """Run a script to its end; returns what it printed."""
        file = self.folder / "script.py"
        file.write_text(script, "utf-8")
        return self.run(sys.executable, file)

    def localq(self, *arguments: str) -> str:
        """What ``localq`` prints with these arguments."""
        return self.run("localq", *arguments)


def _end(program: Program) -> None:
    """In order, so that a script ends what it has started; if that takes long, by force."""
    program.signal(signal.SIGTERM)
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        program.kill()
