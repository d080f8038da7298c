"""A schedule in a database: one program makes it, another finds it."""

from __future__ import annotations

from pathlib import Path

from .support import EXAMPLES, output_of, start

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
import localq
import scheduled_messages_in_database as recipe
if __name__ == "__main__":
    if sys.argv[1] == "make":
        recipe.start_for_the_first_time("schedule.db")
    else:
        with localq.pool(processes=1):
            recipe.start_again("schedule.db")
"""


def test_a_schedule_in_a_database_is_found_by_the_next_program(tmp_path: Path, environment: dict[str, str]) -> None:
    def run(what: str) -> str:
        return output_of(start("-c", PROGRAM, what, EXAMPLES, environment=environment, cwd=tmp_path))

    assert [run("make"), run("make")] == ["", ""]
    assert run("find").splitlines() == [
        "in the database: water the fern",
        *(f"{number}: fern got 2 l" for number in (1, 2, 3)),
    ]
