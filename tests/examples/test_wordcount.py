"""The word count: by its own pool, by another, and what it says meanwhile."""

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

from .support import EXAMPLES, ROOT, output_of, start

WORDCOUNT = EXAMPLES / "wordcount"


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
