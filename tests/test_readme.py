"""The README: its commands are marked, its code compiles, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks_of_readme(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


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


def test_the_readme_shows_the_quickstart_as_it_is() -> None:
    assert (ROOT / "examples" / "quickstart.py").read_text("utf-8") in blocks_of_readme("python")
