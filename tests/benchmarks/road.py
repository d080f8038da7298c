"""The whole table: what localq does, what it is divided by, and what is wanted of it.

    python -m tests.benchmarks.road [--quick] [--only GROUP,GROUP] [--no-peers | --peer NAME] [--rounds 5]
                                    [--messages 20000] [--json FILE] [--plot FOLDER]

The contenders take turns within each group, and the groups within each round, so
that what else the machine does meets all of them. Of messages and tasks a second,
more is better; of milliseconds, microseconds, megabytes and percents, less.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.benchmarks.about import describe, left_out
from tests.benchmarks.goals import figures
from tests.benchmarks.groups import GROUPS
from tests.benchmarks.peers import PEERS
from tests.benchmarks.run import QUICK, Run, Size, run_of
from tests.benchmarks.samples import Samples
from tests.benchmarks.table import table


def measure(run: Run, groups: Collection[str], after_round: Callable[[], None]) -> None:
    """These groups, for all rounds."""
    for number in range(1, run.size.rounds + 1):
        for name in groups:
            print(f"round {number} of {run.size.rounds}: {name} ...", file=sys.stderr, flush=True)
            GROUPS[name].measure(run)
        after_round()


def write_json(file: str, lines: list[str], samples: Samples) -> None:
    """All samples so far, for a machine."""
    with open(file, "w", encoding="utf-8") as out:
        json.dump({"about": lines, **samples.as_dict()}, out, indent=1)


def parse() -> tuple[argparse.Namespace, Size]:
    """The options, and the size that they mean."""
    parser = argparse.ArgumentParser(description="Measure localq beside the bare loop and other libraries.")
    parser.add_argument("--only", metavar="GROUP,...", help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--messages", type=int, help="for each throughput (20000)")
    parser.add_argument("--rounds", type=int, help="of which the medians are shown (5)")
    parser.add_argument("--quick", action="store_true", help="few of everything: does it still run?")
    parser.add_argument("--no-peers", action="store_true", help="leave the other libraries out")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peer", metavar="NAME", choices=names, help=f"leave out all but one: {', '.join(names)}")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    parser.add_argument("--plot", metavar="FOLDER", help="draw what was measured, into that folder")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else list(GROUPS)
    if unknown := set(options.only) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    size = QUICK if options.quick else Size()
    given = {"messages": options.messages, "rounds": options.rounds}
    size = replace(size, **{name: value for name, value in given.items() if value})
    return options, replace(size, peer_messages=min(size.messages, size.peer_messages))


def _exit_in_order(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)  # through every `finally`, as Ctrl-C does


def main() -> None:
    """Measure, and print the table."""
    options, size = parse()
    signal.signal(signal.SIGTERM, _exit_in_order)
    peers = [peer for peer in PEERS if not options.no_peers and options.peer in (None, peer.name)]
    with run_of(size, peers) as run:
        lines = [*describe(size, run.peers), *left_out(run.peers, peers)]
        measure(run, options.only, lambda: write_json(options.json, lines, run.samples) if options.json else None)
    print("\n".join([*lines, *run.failures, "", table(figures(size), run.samples)]))
    if options.plot:
        from tests.benchmarks.plot import draw

        draw(run.samples, lines, options.plot)


if __name__ == "__main__":
    main()
