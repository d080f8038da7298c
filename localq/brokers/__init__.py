"""The brokers that there are, and which one a URL or nothing at all gives."""

from __future__ import annotations

from collections.abc import Iterable

from .. import current
from ..aborting import Abortable
from ..broker import Broker, set_broker
from ..location import default_location
from ..middleware import AsyncIO, CurrentMessage, GroupCallbacks, Middleware, default_middleware
from ..results import Results
from .sqlite import SQLiteBroker
from .stub import StubBroker

__all__ = ["SQLiteBroker", "StubBroker", "connect"]


def connect(url: str | None = None, *, middleware: Iterable[Middleware] | None = None) -> Broker:
    """A broker whose messages, results and rate limits are in the store of that URL; it becomes
    the global one.

    Parameters:
      url: ``sqlite:///jobs.db`` (relative), ``sqlite:////path/jobs.db`` (absolute), or
        ``memory://`` for this process alone; by default ``LOCALQ_URL`` or the project's own file.
      middleware: by default the usual one, `GroupCallbacks`, and `Results` for every actor.

    Raises:
      BrokerError: the URL names no store, or one that cannot be used.
    """
    broker = _broker_at(url, with_results() if middleware is None else middleware)
    if url is not None:
        broker.store  # noqa: B018  # what is wrong with it is better said here than at the first send
    set_broker(broker)
    return broker


def _broker_at(url: str | None, middleware: Iterable[Middleware]) -> Broker:
    kind = SQLiteBroker if (url or default_location().url).startswith("sqlite:") else Broker
    broker = kind(middleware=middleware)
    broker.url = url
    return broker


def make_default_broker() -> Broker:
    """The broker of those who set none."""
    return _broker_at(None, with_results())


current.make_default_broker = make_default_broker


def with_results() -> list[Middleware]:
    """The middleware of a broker that was not set up by hand."""
    usual = [make() for make in default_middleware]
    results = [GroupCallbacks(), Results(store_results=True)]
    return [*usual, *results, CurrentMessage(), AsyncIO(only_if_needed=True), Abortable()]
