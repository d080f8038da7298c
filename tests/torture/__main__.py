"""All of the torture, one after the other: ``python -m tests.torture``. Each can be run by itself, too.

Ends with a line a part, and with a status other than 0 if anything does not hold.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time

from .bounded import RUNS


def commands(seed: int, scale: float) -> list[list[str]]:
    """The parts with their arguments."""

    def of(size: int) -> str:
        return str(max(1, int(size * scale)))

    seeded = ["--seed", str(seed)]
    return [
        ["kills", *seeded, "--kills", of(10_000)],
        ["interrupts", *seeded, "--interrupts", of(100_000)],
        ["places", *seeded, "--processes", "50", "--seconds", of(120)],
        *(["bounded", load, "--messages", of(1_000_000)] for load in RUNS),
    ]


def main() -> int:
    """Run them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="what all that is random follows from (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of it; 0.1 for a tenth (%(default)s)")
    options = parser.parse_args()
    ends = []
    for part, *arguments in commands(options.seed, options.scale):
        command = [sys.executable, "-m", f"{__package__}.{part}", *arguments]
        print(f"== {shlex.join(command[1:])}", flush=True)
        began = time.monotonic()
        status = subprocess.run(command, check=False).returncode
        ends.append((status, f"{shlex.join(command[2:])}: {time.monotonic() - began:.0f} s"))
    for status, end in ends:
        print("holds" if status == 0 else "DOES NOT HOLD", end, sep="  ")
    return int(any(status for status, _ in ends))


if __name__ == "__main__":
    sys.exit(main())
