"""Which store a command looks at."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ..brokers import make_default_broker
from ..location import Location
from ..processes.application import load_application
from ..processes.config import PoolConfig
from ..store import Store, open_store, sqlite_path

F = TypeVar("F", bound=Callable[..., Any])


def store_options(function: F) -> F:
    """The options that say which store is meant."""
    function = click.option("--url", help="The store, such as sqlite:///jobs.db.")(function)
    return click.option("--app", metavar="MODULE[:BROKER]", help="The store of that module's broker.")(function)


def locate(url: str | None, app: str | None) -> Location:
    """Where the store is that is meant: by default where `localq` in this folder would have it."""
    if url is not None:
        return Location(url, "--url was given")
    if app is not None:
        sys.path.insert(0, os.getcwd())
        location = load_application(PoolConfig(app=app)).location
        return Location(location.url, f"{app} uses it: {location.why}")
    return make_default_broker().location


@contextmanager
def opened(location: Location) -> Iterator[Store | None]:
    """The store, or None where no message was ever sent: looking makes no file."""
    if location.url.startswith("sqlite:") and not os.path.exists(sqlite_path(location.url)):
        yield None
        return
    store = open_store(location.url)
    try:
        yield store
    finally:
        store.close()
