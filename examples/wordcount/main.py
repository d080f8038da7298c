"""Counts the lines and words of every .py file in the standard library of the Python that runs it.

What it shows:

* One message a file (`count_file`), sent from inside an actor.
* One pipeline a folder: `count_each_file(folder) | add_up()`. Its first step sends the messages of
  the folder's files, and its second step receives them, fetches their results and adds them up.
* `Retry` in the place of waiting: when a count is not there yet, `add_up` asks to be run again.
* Results that are gathered here, in the order of sending, with a line of progress.

A message may run twice (a worker that dies has its message run again), and the totals stay right:
no actor adds to something that is kept elsewhere, each returns what follows from its arguments.

Run it with its own pool::

    python examples/wordcount/main.py --check

or start workers in one terminal and use them from another. Both find the same queue because both
belong to one project; in other folders, set LOCALQ_URL in both::

    localq actors --path examples/wordcount
    python examples/wordcount/main.py --check --no-pool
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from actors import add_up, count_each_file

import localq
from localq.results import ResultTimeout

NOT_THE_STANDARD_LIBRARY = {"site-packages", "dist-packages"}
Counts = tuple[int, int, int]
"""Files, lines, words."""


def main() -> int:
    options = parse_options()
    stdlib = sysconfig.get_path("stdlib")
    started = time.monotonic()
    with nullcontext() if options.no_pool else localq.pool(processes=options.processes):
        by_folder = count_with_workers(list(folders_in(stdlib)), options.timeout)
    print_largest(by_folder, stdlib)
    total = add_counts(by_folder.values())
    print(f"workers:    {describe(total)} in {time.monotonic() - started:.2f} s")
    if not options.check:
        return 0
    started = time.monotonic()
    expected = count_in_a_loop(stdlib)
    print(f"plain loop: {describe(expected)} in {time.monotonic() - started:.2f} s")
    print("equal" if total == expected else "NOT EQUAL")
    return int(total != expected)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="count in a plain loop too, and compare")
    parser.add_argument("--no-pool", action="store_true", help="use workers that were started elsewhere")
    parser.add_argument("--processes", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--timeout", type=int, default=60, help="seconds to wait for a folder (default: 60)")
    return parser.parse_args()


def folders_in(stdlib: str) -> Iterator[str]:
    """Every folder of the library that has a .py file in it."""
    for folder, subfolders, files in os.walk(stdlib):
        subfolders[:] = sorted(set(subfolders) - NOT_THE_STANDARD_LIBRARY)
        if any(file.endswith(".py") for file in files):
            yield folder


def count_with_workers(folders: list[str], timeout: int) -> dict[str, Counts]:
    """Send a pipeline for each folder, and gather the sums in which they end."""
    pipelines = {folder: count_each_file.message(folder) | add_up.message() for folder in folders}
    localq.group(pipelines.values()).run()
    by_folder: dict[str, Counts] = {}
    progress = Progress(len(folders))
    for folder, pipeline in pipelines.items():
        try:
            by_folder[folder] = pipeline.get_result(block=True, timeout=timeout * 1000)
        except ResultTimeout:
            sys.exit(f"\nno result for {folder} after {timeout} s; does a pool run that has these actors?")
        progress.show(len(by_folder), sum(files for files, _, _ in by_folder.values()))
    return by_folder


class Progress:
    """A line that is written over again on a terminal; elsewhere, a line for each tenth of the way."""

    def __init__(self, folders: int) -> None:
        self.folders = folders
        self.tenths = 0

    def show(self, folders: int, files: int) -> None:
        text = f"{folders} of {self.folders} folders, {files:,} files"
        if sys.stderr.isatty():
            print(f"\r{text}", end="\n" if folders == self.folders else "", file=sys.stderr, flush=True)
        elif folders * 10 // self.folders > self.tenths:
            self.tenths = folders * 10 // self.folders
            print(text, file=sys.stderr, flush=True)


def print_largest(by_folder: dict[str, Counts], stdlib: str) -> None:
    largest = sorted(by_folder, key=lambda folder: by_folder[folder][2], reverse=True)[:5]
    for folder in largest:
        print(f"{os.path.relpath(folder, stdlib):<24} {describe(by_folder[folder])}")


def count_in_a_loop(stdlib: str) -> Counts:
    """The same counts without localq."""
    files = lines = words = 0
    for path in Path(stdlib).rglob("*.py"):
        if path.is_file() and not NOT_THE_STANDARD_LIBRARY & set(path.relative_to(stdlib).parts):
            data = path.read_bytes()
            files, lines, words = files + 1, lines + data.count(b"\n"), words + len(data.split())
    return files, lines, words


def add_counts(counts: Iterable[Counts]) -> Counts:
    files, lines, words = (sum(column) for column in zip(*counts, strict=True))
    return files, lines, words


def describe(counts: Counts) -> str:
    return "{:>6,} files, {:>9,} lines, {:>10,} words".format(*counts)


if __name__ == "__main__":
    sys.exit(main())
