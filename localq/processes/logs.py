"""Where the processes of the command line log to. A pool inside a program leaves that to the program."""

from __future__ import annotations

import logging

from .config import PoolConfig

FORMAT = "[%(asctime)s] [PID %(process)d] [%(threadName)s] [%(name)s] [%(levelname)s] %(message)s"


def set_up_logging(config: PoolConfig) -> None:
    """Log to the standard error stream or to a file, as the command line was told."""
    if config.skip_logging or config.log_level is None:
        return
    if config.log_file:
        logging.basicConfig(
            level=config.log_level, format=FORMAT, filename=config.log_file, encoding="utf-8", force=True
        )
    else:
        logging.basicConfig(level=config.log_level, format=FORMAT, force=True)
