"""Kills senders, workers, supervisors and whole pools at random moments, and sees what holds.

Several pools are under attack at the same time, each with a queue of its own. A round ends when its pool was
killed so often: then all of it is killed, a fresh pool does what is left, and every message must be accounted for.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from .arena import Arena, Report
from .ledger import Counts


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture.kills",
        description=__doc__,
        epilog="Exit status 1, and the seed with all that does not hold, if anything does not; the folder of "
        "such a round is kept. The long run: --seed 1 --kills 10000",
    )
    parser.add_argument("--seed", type=int, default=1, help="what all that is random follows from (%(default)s)")
    parser.add_argument("--kills", type=int, default=1_000, help="how often to kill, over all pools (%(default)s)")
    parser.add_argument("--start-method", choices=["fork", "spawn"], help="of the pools; by default both, in turns")
    parser.add_argument("--processes", type=int, help="of each pool; by default one to three")
    parser.add_argument("--threads", type=int, help="of each process; by default one to four")
    parser.add_argument("--pools", type=int, default=4, help="how many are under attack at a time (%(default)s)")
    parser.add_argument("--round", type=int, default=100, metavar="KILLS", help="kills a round (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the queues are; by default a temporary folder")
    return parser.parse_args(given)


class Run:
    """All rounds of a command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = Path(options.folder or tempfile.mkdtemp(prefix="localq-kills-"))
        self.reports: list[Report] = []
        self.failures = 0
        self._lock = threading.Lock()
        self._begun = 0
        self._left = options.kills
        self._started = time.monotonic()

    def run(self) -> int:
        """Run them; returns the exit status."""
        threads = [threading.Thread(target=self._rounds) for _ in range(self.options.pools)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(self.summary(), flush=True)
        if not self.failures and self.options.folder is None:
            shutil.rmtree(self.folder)
        return 1 if self.failures else 0

    def _rounds(self) -> None:
        while (order := self._next()) is not None:
            number, kills = order
            seed = f"{self.options.seed}/{number}"
            folder = self.folder / f"round{number}"
            folder.mkdir(parents=True)
            method = self.options.start_method or ("fork", "spawn")[number % 2]
            shape = {"processes": self.options.processes, "threads": self.options.threads}
            try:
                report = Arena(folder, seed, start_method=method, **shape).round(kills)
            except BaseException as error:
                report = Report(seed, method, problems=[f"the harness failed: {error!r}"])
            self._note(report, folder)

    def _next(self) -> tuple[int, int] | None:
        with self._lock:
            if self._left <= 0 or self.failures:
                return None
            kills = min(self._left, self.options.round)
            self._left -= kills
            self._begun += 1
            return self._begun - 1, max(kills, 2)

    def _note(self, report: Report, folder: Path) -> None:
        with self._lock:
            self.reports.append(report)
            verdict = "all holds" if not report.problems else f"{len(report.problems)} THINGS DO NOT HOLD"
            print(f"round {report.seed} ({report}): {verdict}", flush=True)
            if report.problems:
                self.failures += 1
                for problem in report.problems[:40]:
                    print(f"  seed {report.seed}: {problem}", flush=True)
                print(f"  see {folder}", flush=True)
            else:
                shutil.rmtree(folder)

    def summary(self) -> str:
        kinds = sum((report.kills for report in self.reports), Counter())
        counts = sum((report.counts for report in self.reports), Counts())
        by_kind = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        verdict = "all holds" if not self.failures else f"{self.failures} ROUNDS IN WHICH SOMETHING DOES NOT HOLD"
        return (
            f"seed {self.options.seed}: {sum(kinds.values())} kills ({by_kind}; "
            f"{sum(report.processes for report in self.reports)} processes) in {len(self.reports)} rounds and "
            f"{time.monotonic() - self._started:.0f} s; {counts}: {verdict}"
        )


if __name__ == "__main__":
    sys.exit(Run(arguments()).run())
