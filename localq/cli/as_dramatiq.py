"""What packages written for dramatiq find in ``dramatiq.cli``, and the command ``dramatiq`` itself."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType
from typing import Any

import click

from ..broker import Broker
from ..processes.application import load_application
from ..processes.config import PoolConfig, available_cores
from ..processes.logs import FORMAT
from .arguments import AS_DRAMATIQ_DOES, DISCOVER, HERE, TAKE_ALL_WORDS
from .worker import worker

CPUS = available_cores()
LOGFORMAT = FORMAT
HAS_WATCHDOG = True
"""Whether ``--watch`` works."""
VERBOSITY = {0: logging.INFO, 1: logging.DEBUG}
"""The level of logging by how often ``-v`` was given."""


NAMES = {"app": "broker", "fork_functions": "forks"}
"""dramatiq's names for what the command line says, where they differ."""


def make_argument_parser() -> ArgumentParser:
    """A parser of the words of ``localq worker``; `localq.cli.main` takes what it gives, changed or not."""
    parser = ArgumentParser(prog=AS_DRAMATIQ_DOES, description="Run workers.")
    for param in worker.params:
        if isinstance(param, click.Option):
            parser.add_argument(*param.opts, dest=_name_of(param), help=param.help, **_how(param))
        else:
            parser.add_argument(_name_of(param), nargs="?" if param.nargs == 1 else "*")
    return parser


def _how(option: click.Option) -> dict[str, Any]:
    """How argparse takes an option of click's."""
    if option.is_flag:
        return {"action": "store_true"}
    if option.count:
        return {"action": "count", "default": 0}
    default = option.default() if callable(option.default) else option.default
    if not isinstance(default, (int, str, list)):
        default = None  # click has an object of its own for none
    if option.multiple:
        many = {"nargs": "*"} if option.opts[0] in TAKE_ALL_WORDS else {"action": "append"}
        return {**many, "default": default}
    if option.opts[0] == DISCOVER:
        return {"nargs": "?", "const": HERE}
    kind = int if isinstance(option.type, click.IntRange) else str
    return {"type": kind, "default": default, "metavar": option.metavar}


def words_of(arguments: Namespace) -> list[str]:
    """The words that say the same to ``localq worker``."""
    words: list[str] = []
    positional: list[str] = []
    for param in worker.params:
        value = getattr(arguments, _name_of(param), None)
        values = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not isinstance(param, click.Option):
            positional += map(str, values)
        elif param.is_flag or param.count:
            words += [param.opts[0]] * int(value or 0)
        else:
            words += (word for value in values for word in (param.opts[0], str(value)))
    return [*words, "--", *positional]


def _name_of(param: click.Parameter) -> str:
    return NAMES.get(str(param.name), str(param.name))


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
