"""The recipes that are one script each: what they print, and what their names and docstrings promise."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from .support import EXAMPLES, ROOT, output_of, start

PRINTS = {
    "message_callbacks": """\
(6, 3): the result is 2.0
(6, 0): attempt 1 failed with ZeroDivisionError: division by zero
(6, 0): attempt 2 failed with ZeroDivisionError: division by zero
(1, 0): given up after 1 of 1 retries
""",
    "message_groups": """\
3 of 3 are done
baked: cheesecake after 30 minutes
baked: sponge after 20 minutes
baked: muffins after 10 minutes
the shop is open on Monday
baked: tray 1 after 5 minutes
baked: tray 2 after 5 minutes
baked: tray 3 after 5 minutes
""",
    "message_pipelines": """\
list: 'pond' stands there 2 times
bars: 'a' stands there 1 times
step 1: an old silent pond / a frog jumps into the pond / splash silence again
step 2: 1
step 3: tidied up
""",
    "async_actors": """\
Ada has dined and knew the message
Barbara has dined and knew the message
Grace has dined and knew the message
Katherine has dined and knew the message
Margaret has dined and knew the message
All dined at the same time
""",
    "limit_rates": """\
8 pages, 0 of them while another was printed
while this program holds the printer: the printer is busy
after that: printed
reminders: sent sent sent dropped dropped
""",
    "result_lifetimes": """\
ResultMissing: nobody has run it yet
ResultTimeout: nobody has run it within 100 ms
sales of Monday: 600
sales of Sunday: None
ResultFailure: ValueError: the books of Monday are missing
issued: ticket 17
ResultMissing: its 3 s are over
sales of Monday, still: 600
""",
    "scheduled_messages": """\
1: the report about sales is written
2: the report about sales is written
3: the report about sales is written
""",
    "scheduled_messages_in_database": """\
in the database: water the fern
1: fern got 2 l
2: fern got 2 l
3: fern got 2 l
""",
    "abort_messages": """\
waiting: actor raised Abort: the message was aborted before it ran
running: actor raised Abort: the message was aborted
its file is there: False
asked first: ended in its own way
cancelled while it ran: ran to its end
cancelled while it waited: actor raised Abort: the message was aborted before it ran
killed: actor raised Abort: its process was killed
""",
    "report_to_rollbar": """\
Rollbar got LookupError: there is no invoice 42
  raised in pay, raise LookupError(f"there is no invoice {invoice}")
  by attempt 1 of pay
Rollbar got LookupError: there is no invoice 42
  raised in pay, raise LookupError(f"there is no invoice {invoice}")
  by attempt 2 of pay
""",
    "report_to_sentry": """\
Sentry gets LookupError: there is no order 42
  raised in ship, raise LookupError(f"there is no order {order}")
  by ship with [42]
""",
}

SCRIPTS = sorted(EXAMPLES.glob("*.py"))
DISTRIBUTIONS = {"apscheduler": "apscheduler", "rollbar": "rollbar", "sentry_sdk": "sentry-sdk"}


@pytest.mark.parametrize("name", PRINTS)
def test_a_recipe_prints_the_same_from_any_folder_again_and_again(
    name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "anywhere"
    folder.mkdir()
    for _ in range(2):
        assert output_of(start(EXAMPLES / f"{name}.py", environment=environment, cwd=folder)) == PRINTS[name]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", PRINTS)
def test_a_recipe_says_how_it_is_run_and_what_it_needs(name: str) -> None:
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text("utf-8"))
    docstring = ast.get_docstring(tree) or ""
    assert f"python examples/{name}.py" in docstring
    needs = imported_by(tree) - sys.stdlib_module_names - {"localq"}
    installs = re.findall(r"^ *pip install (.+)$", docstring, re.MULTILINE)
    assert [name for name in needs if DISTRIBUTIONS[name] not in " ".join(installs)] == []


def imported_by(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_no_example_stands_in_front_of_a_package(script: Path) -> None:
    # The folder of a script that runs comes before all others in sys.path.
    assert importlib.util.find_spec(script.stem) is None


def test_no_two_examples_have_an_actor_of_the_same_name() -> None:
    # All of them share the queue of this project: one that runs beside another would take its messages.
    actor = re.compile(r"^@localq\.actor.*\n(?:async )?def (\w+)", re.MULTILINE)
    actors = [name for script in SCRIPTS for name in actor.findall(script.read_text("utf-8"))]
    assert len(actors) > len(PRINTS)
    assert [name for name, count in Counter(actors).items() if count > 1] == []


def test_the_readme_lists_every_recipe() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in PRINTS if f"| `examples/{name}.py` |" not in readme] == []
