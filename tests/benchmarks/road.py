"""The road of a message, measured from end to end, in one run.

    python -m tests.benchmarks.road [--quick] [--no-peer] [--rounds 3] [--messages 20000] [--json FILE]

The contenders take turns within each round, so that what else the machine does
meets all of them. Throughput: more is better; all other rows: less is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.benchmarks import actors, measures, peer, raw_latency, raw_loop
from tests.benchmarks.contender import ROOT, Contender
from tests.benchmarks.crew import Crew, crew
from tests.benchmarks.spread import Spread
from tests.benchmarks.table import OURS, PEER, RAW, Samples, table

PREFETCH = 100


@dataclass(slots=True)
class Size:
    """How much is measured: messages for throughput, tries for latency, seconds of idleness."""

    messages: int
    tries: int
    seconds: float
    rounds: int


def measure_raw(size: Size, samples: Samples) -> None:
    """The bare loop."""
    samples.add("enqueue_each", RAW, raw_loop.enqueue_each(size.messages))
    samples.add("enqueue_bulk", RAW, raw_loop.enqueue_bulk(size.messages))
    samples.add("drain", RAW, raw_loop.drain(size.messages))
    samples.add("together", RAW, raw_loop.together(size.messages))
    _add_spread(samples, "pick_up", RAW, raw_latency.pick_up(size.tries))
    _add_spread(samples, "round_trip", RAW, raw_latency.round_trip(size.tries))


def _add_spread(samples: Samples, row: str, name: str, spread: Spread) -> None:
    samples.add(f"{row}_p50", name, spread.p50)
    samples.add(f"{row}_p99", name, spread.p99)


def measure_ours(size: Size, samples: Samples) -> None:
    """localq, each part on a file of its own."""
    for part in (measure_enqueue, measure_pool):
        with (
            tempfile.TemporaryDirectory(prefix="localq-road-") as folder,
            closing(actors.connect(folder)) as contender,
        ):
            part(contender, size, samples)


def measure_peer(redis: peer.Redis, size: Size, samples: Samples) -> None:
    """dramatiq, which is measured with eight threads too: its default, and its best."""
    for part in (measure_enqueue, measure_pool, measure_eight_threads, measure_prefetch):
        with closing(peer.connect(redis)) as contender:
            part(contender, size, samples)
    # Ours has its one thread there too: it is what the peer's better ones stand beside.
    for row in ("drain_8", "drain_best"):
        samples.add(row, OURS, samples.taken["drain"][OURS][-1])


def measure_enqueue(contender: Contender, size: Size, samples: Samples) -> None:
    """What a sender does alone."""
    samples.add("enqueue_each", contender.name, measures.enqueue_each(contender, size.messages))
    samples.add("enqueue_bulk", contender.name, measures.enqueue_bulk(contender, size.messages))


def measure_pool(contender: Contender, size: Size, samples: Samples) -> None:
    """All that two processes of one thread do."""
    name = contender.name
    with crew(contender) as workers:
        samples.add("drain", name, measures.drain(contender, workers, size.messages))
        samples.add("together", name, measures.together(contender, workers, size.messages))
        _add_spread(samples, "pick_up", name, measures.pick_up(contender, size.tries))
        _add_spread(samples, "round_trip", name, measures.round_trip(contender, size.tries))
        _measure_idle(name, workers, size, samples)


def _measure_idle(name: str, workers: Crew, size: Size, samples: Samples) -> None:
    idleness = measures.idle(workers, size.seconds)
    samples.add("idle_cpu", name, idleness.cpu)
    samples.add("idle_wake_ups", name, idleness.wake_ups)
    samples.add("memory", name, idleness.memory)


def measure_eight_threads(contender: Contender, size: Size, samples: Samples) -> None:
    """The drain alone."""
    with crew(contender, threads=8) as workers:
        samples.add("drain_8", contender.name, measures.drain(contender, workers, size.messages))


def measure_all(size: Size, redis: peer.Redis | None) -> Samples:
    """All contenders, in turns, for all rounds."""
    samples = Samples()
    for number in range(1, size.rounds + 1):
        turns: list[tuple[str, Callable[[], None]]] = [
            (RAW, lambda: measure_raw(size, samples)),
            (OURS, lambda: measure_ours(size, samples)),
        ]
        if redis is not None:
            turns.append((PEER, lambda: measure_peer(redis, size, samples)))
        for name, measure in turns:
            print(f"round {number} of {size.rounds}: {name} ...", file=sys.stderr, flush=True)
            measure()
    return samples


def measure_prefetch(contender: Contender, size: Size, samples: Samples) -> None:
    """The drain with eight threads that fetch far ahead (dramatiq has an environment variable for
    that): the fastest of its settings that was found."""
    contender.environment["dramatiq_queue_prefetch"] = str(PREFETCH)
    with crew(contender, threads=8) as workers:
        samples.add("drain_best", contender.name, measures.drain(contender, workers, size.messages))


# -- what is said around the table


def describe(size: Size, redis: peer.Redis | None) -> list[str]:
    """On what, and how much, in words."""
    lines = [
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.2f} at the start, localq at {_commit()}",
        f"{size.messages:,} messages, {size.tries} tries of each latency, {size.seconds:g} s of idleness; "
        f"medians of {size.rounds} round{'s' if size.rounds > 1 else ''}",
    ]
    if redis is not None:
        from importlib.metadata import version

        lines.append(
            f"dramatiq {version('dramatiq')} with results, redis-server of its own without persistence, on "
            "localhost; its idle pool includes that server"
        )
        lines.append(
            "with one thread a process it fetches two messages ahead and naps between: that wait, not work, "
            "bounds its drain"
        )
    return lines


def _commit() -> str:
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"


def write_json(file: str, size: Size, lines: list[str], samples: Samples) -> None:
    """All samples, for a machine."""
    document: dict[str, Any] = {"about": lines, "rounds": size.rounds, "messages": size.messages}
    with open(file, "w", encoding="utf-8") as out:
        json.dump({**document, "rows": samples.as_dict()}, out, indent=2)


def parse() -> tuple[argparse.Namespace, Size]:
    """The options, and the size that they mean."""
    parser = argparse.ArgumentParser(description="Measure localq beside the bare loop and dramatiq on Redis.")
    parser.add_argument("--messages", type=int, help="for each throughput (20000)")
    parser.add_argument("--rounds", type=int, help="of which the medians are shown (3)")
    parser.add_argument("--quick", action="store_true", help="few of everything: does it still run?")
    parser.add_argument("--no-peer", action="store_true", help="leave dramatiq out")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    size = Size(300, 20, 1.0, 1) if options.quick else Size(20_000, 300, 10.0, 3)
    size.messages = options.messages or size.messages
    size.rounds = options.rounds or size.rounds
    return options, size


def _exit_in_order(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)  # through every `finally`, as Ctrl-C does


def main() -> None:
    """Measure, and print the table."""
    options, size = parse()
    signal.signal(signal.SIGTERM, _exit_in_order)
    absent = "--no-peer was given" if options.no_peer else peer.missing()
    with tempfile.TemporaryDirectory(prefix="localq-redis-") as folder:
        server: AbstractContextManager[Any] = nullcontext() if absent else peer.redis_server(folder)
        with server as redis:
            lines = describe(size, redis)
            if absent:
                lines.append(f"{PEER} was not measured: {absent}")
            samples = measure_all(size, redis)
    print("\n".join([*lines, "", table(samples)]))
    if options.json:
        write_json(options.json, size, lines, samples)


if __name__ == "__main__":
    main()
