"""Loggers, named after the module and class that they speak for."""

from __future__ import annotations

import logging

from .dramatiq_alias import ALIAS, is_installed


def get_logger(module: str, name: str | type | None = None) -> logging.Logger:
    """The logger of a module, or of a class in it. Ask when there is something to log, not when a
    module is imported: after `install_as_dramatiq` our own names begin as dramatiq's do.

    >>> get_logger("localq.worker", "Worker").name
    'localq.worker.Worker'
    """
    first, dot, rest = module.partition(".")
    if first == __package__ and is_installed():
        module = ALIAS + dot + rest
    if name is None:
        return logging.getLogger(module)
    if isinstance(name, type):
        name = name.__name__
    return logging.getLogger(f"{module}.{name}")
