"""What packages written for dramatiq find in ``dramatiq.cli``, and the command ``dramatiq`` itself."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any

import click

from ..broker import Broker
from ..processes.application import load_application
from ..processes.config import PoolConfig, available_cores
from ..processes.logs import FORMAT
from .arguments import AS_DRAMATIQ_DOES
from .worker import worker

CPUS = available_cores()
LOGFORMAT = FORMAT
HAS_WATCHDOG = True
"""Whether ``--watch`` works."""
VERBOSITY = {0: logging.INFO, 1: logging.DEBUG}
"""The level of logging by how often ``-v`` was given."""


class ArgumentParser:
    """Parses the words of ``localq worker``; `localq.cli.main` takes what that gives, too."""

    def parse_args(self, args: Sequence[str] | None = None) -> Namespace:
        """The arguments that the words stand for; by default those of this program.

        Raises:
          SystemExit: they are wrong; what is wrong has been printed.
        """
        words = list(sys.argv[1:] if args is None else args)
        try:
            context = worker.make_context(AS_DRAMATIQ_DOES, list(words))
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        return Namespace(**context.params, command_line=words)


def make_argument_parser() -> ArgumentParser:
    """A parser of the words of ``localq worker``."""
    return ArgumentParser()


def import_broker(value: str) -> tuple[ModuleType, Broker]:
    """The module and the broker that ``module[:broker]`` names, as the command line understands it.

    Raises:
      PoolError: there is no such module, or no such broker in it.
    """
    broker = load_application(PoolConfig(app=value, path=["."]))
    return sys.modules[value.partition(":")[0]], broker


def the_real_one() -> Callable[[], Any] | None:
    """The function behind dramatiq's own command where dramatiq is installed; otherwise None."""
    try:
        entry_points = distribution("dramatiq").entry_points
    except PackageNotFoundError:
        return None
    found = [each for each in entry_points if (each.group, each.name) == ("console_scripts", "dramatiq")]
    return found[0].load() if found else None
