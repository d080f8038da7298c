"""`examples/two_pools.py`: its own pools, and pools from the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .frameworks import EXAMPLES, Stage

SCRIPT = EXAMPLES / "two_pools.py"

PRINTS = r"""Tea\? Yes\.
Now\? Yes\.
the urgent ones are done, and [0-3] of 3 slow ones
the first film is rendered
the second film is rendered
the third film is rendered
"""

MANY_SLOW_ONES = 100  # 50 seconds

IMPORTS = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import localq
from two_pools import answer, render
"""

SENDS_BOTH = f"""{IMPORTS}
films = localq.group(render.message("long") for _ in range({MANY_SLOW_ONES})).run()
print(answer.send("Tea").get_result(block=True, timeout=30_000))
print(films.completed_count)
"""

SENDS_URGENT_FIRST = f"""{IMPORTS}
answer.send("Tea")
render.send("short").get_result(block=True, timeout=30_000)
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def test_it_runs_again_and_again(stage: Stage) -> None:
    for _ in range(2):
        assert re.fullmatch(PRINTS, stage.run(sys.executable, SCRIPT))


def test_it_runs_with_pools_from_the_command_line(stage: Stage) -> None:
    stage.env["LOCALQ_URL"] = f"sqlite:///{stage.folder}/jobs.db"
    options = ("--path", EXAMPLES, "--processes", "1", "--queues")
    workers = [stage.start_worker("two_pools", *options, queue) for queue in ("slow", "urgent")]
    assert re.fullmatch(PRINTS, stage.run(sys.executable, SCRIPT, "--no-pools"))
    for worker in workers:
        worker.stop()


def test_an_urgent_message_does_not_wait_behind_slow_ones(stage: Stage) -> None:
    options = ("--path", EXAMPLES, "--processes", "1", "--queues")
    workers = [stage.start_worker("two_pools", *options, queue) for queue in ("slow", "urgent")]
    answer, completed = stage.python(SENDS_BOTH).splitlines()
    assert answer == "Tea? Yes."
    assert int(completed) < MANY_SLOW_ONES
    for worker in workers:
        worker.stop()


def test_a_pool_leaves_other_queues_alone(stage: Stage) -> None:
    worker = stage.start_worker("two_pools", "--path", EXAMPLES, "--queues", "slow")
    stage.python(SENDS_URGENT_FIRST)
    assert re.search(r"^urgent +1 ", stage.localq("status"), re.MULTILINE), stage.localq("status")
    worker.stop()
