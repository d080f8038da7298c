"""The examples and the README: run as a reader would run them, by processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "examples" / "quickstart.py"
WORDCOUNT = ROOT / "examples" / "wordcount"
README = (ROOT / "README.md").read_text("utf-8")

QUICKSTART_PRINTS = """\
sums: [0, 2, 4, 6, 8]
pipeline: the sum of 1 and 2 is 3
retries: succeeded at attempt 3
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """As a user has it who has set nothing, but with a data folder that is empty."""
    names = {name: value for name, value in os.environ.items() if name != "LOCALQ_URL"}
    return {**names, "XDG_DATA_HOME": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)}


def start(*command: str | Path, environment: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        cwd=cwd,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    with process:
        try:
            output, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return output


def blocks_of_readme(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# -- the quickstart


def test_the_readme_shows_the_quickstart_as_it_is() -> None:
    assert QUICKSTART.read_text("utf-8") in blocks_of_readme("python")


def test_the_quickstart_runs_from_any_folder_again_and_again(tmp_path: Path, environment: dict[str, str]) -> None:
    for _ in range(2):
        output = output_of(start(QUICKSTART, environment=environment, cwd=tmp_path))
        assert output == QUICKSTART_PRINTS


def test_copies_of_the_quickstart_run_side_by_side(tmp_path: Path, environment: dict[str, str]) -> None:
    copies = [start(QUICKSTART, environment=environment, cwd=tmp_path) for _ in range(3)]
    assert [output_of(copy) for copy in copies] == [QUICKSTART_PRINTS] * 3


def test_the_quickstart_leaves_nothing_in_its_queue(tmp_path: Path, environment: dict[str, str]) -> None:
    output_of(start(QUICKSTART, environment=environment, cwd=tmp_path))
    assert "(no messages)" in output_of(start("-m", "localq", "status", environment=environment, cwd=ROOT))


# -- the word count


def counted_here() -> tuple[int, int, int]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    contents = [
        path.read_bytes()
        for path in stdlib.rglob("*.py")
        if path.is_file() and not {"site-packages", "dist-packages"} & set(path.relative_to(stdlib).parts)
    ]
    lines = sum(content.count(b"\n") for content in contents)
    return len(contents), lines, sum(len(content.split()) for content in contents)


def counts_in(output: str, who: str) -> tuple[int, ...]:
    line = next(line for line in output.splitlines() if line.startswith(f"{who}:"))
    return tuple(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:files|lines|words)", line))


@contextmanager
def pool_of_the_command_line(environment: dict[str, str], log: Path) -> Iterator[None]:
    options = ["--path", str(WORDCOUNT), "-p", "2", "--log-file", str(log)]
    command = [sys.executable, "-m", "localq", "actors", *options]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL) as pool:
        try:
            yield
            pool.terminate()
            assert pool.wait(60) == 0
        finally:
            pool.kill()


def test_the_word_count_by_its_own_pool_equals_a_plain_loop(tmp_path: Path, environment: dict[str, str]) -> None:
    output = output_of(start(WORDCOUNT / "main.py", "--check", environment=environment, cwd=tmp_path))
    assert counts_in(output, "workers") == counts_in(output, "plain loop") == counted_here()


def test_the_word_count_by_a_pool_of_the_command_line_equals_a_plain_loop(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with pool_of_the_command_line(environment, tmp_path / "pool.log"):
        script = start(WORDCOUNT / "main.py", "--check", "--no-pool", environment=environment, cwd=tmp_path)
        output = output_of(script)
    assert counts_in(output, "workers") == counts_in(output, "plain loop") == counted_here()


def test_the_word_count_says_how_far_it_is(tmp_path: Path, environment: dict[str, str]) -> None:
    script = start(WORDCOUNT / "main.py", environment=environment, cwd=tmp_path)
    _, errors = script.communicate(timeout=100)
    lines = errors.splitlines()
    assert 2 <= len(lines) <= 10
    assert all(re.fullmatch(r"\d+ of \d+ folders, [\d,]+ files", line) for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of its own")
def test_the_word_count_writes_its_progress_over_itself_on_a_terminal(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    terminal, end = os.openpty()
    command = [sys.executable, str(WORDCOUNT / "main.py")]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=end) as script:
        os.close(end)
        written = b"".join(iter(lambda: read_terminal(terminal), b"")).decode()
        os.close(terminal)
    assert script.returncode == 0
    assert written.count("\r") > written.count("\n") == 1


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # so Linux tells that the other end is closed
        return b""


# -- the README


@pytest.mark.parametrize("command", ["run", "test"])
def test_each_command_of_the_readme_is_marked(command: str) -> None:
    marked = re.findall(rf"^<!-- command: {command} -->\n```sh\n.+?\n```$", README, re.MULTILINE | re.DOTALL)
    assert len(marked) == 1


def test_all_python_in_the_readme_compiles() -> None:
    for block in blocks_of_readme("python"):
        compile(block, "README.md", "exec")


def test_all_files_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`((?:tests|examples|localq|\.ci)/[\w./]+)`", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
