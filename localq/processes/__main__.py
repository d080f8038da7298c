"""A fresh process of ours: ``python -m localq.processes MODULE:FUNCTION CONTROL REPORT PARENT``."""

from __future__ import annotations

import importlib
import os
import sys

from .launch import Pipes, read_config, run_target


def main() -> None:
    """Run the function in the way that `launch` describes."""
    name, control, report, parent = sys.argv[1:5]
    pipes = Pipes(int(control), int(report), int(parent))
    for end in (pipes.control, pipes.report):
        os.set_inheritable(end, False)
    module, _, function = name.partition(":")
    target = getattr(importlib.import_module(module), function)
    sys.exit(run_target(target, pipes, read_config(pipes.control)))


if __name__ == "__main__":
    main()
