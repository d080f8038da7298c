"""The quickstart, which is the example of the README."""

from __future__ import annotations

from pathlib import Path

from .support import EXAMPLES, ROOT, output_of, start

QUICKSTART = EXAMPLES / "quickstart.py"
QUICKSTART_PRINTS = """\
sums: [0, 2, 4, 6, 8]
pipeline: the sum of 1 and 2 is 3
retries: succeeded at attempt 3
"""


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
