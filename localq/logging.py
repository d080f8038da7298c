"""Loggers, named after the module and class that they speak for."""

from __future__ import annotations

import logging

family = __package__
"""What the names of this package's own loggers begin with."""


def get_logger(module: str, name: str | type | None = None) -> logging.Logger:
    """The logger of a module, or of a class in it. Ask when there is something to log, not when a
    module is imported: the name depends on `family`, which may be set later.

    >>> get_logger("localq.worker", "Worker").name
    'localq.worker.Worker'
    """
    first, dot, rest = module.partition(".")
    if first == __package__:
        module = family + dot + rest
    if name is None:
        return logging.getLogger(module)
    if isinstance(name, type):
        name = name.__name__
    return logging.getLogger(f"{module}.{name}")
