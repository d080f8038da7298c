"""The broker whose messages are in one SQLite file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..broker import Broker
from ..middleware import Middleware
from ..store import sqlite_url


class SQLiteBroker(Broker):
    """Sends messages to the file at `path`.

    Parameters:
      path: the file, made where there is none when it is first used; None for ``LOCALQ_URL`` or
        the project's own file.
      middleware: instances; None for fresh ones of ``default_middleware``, an empty list for none.
      url: ``sqlite:///jobs.db``, as `localq.connect` takes it, in the place of path and options: for frameworks
        that configure brokers by URLs.
      options: as in a URL: ``durability`` ("normal", or "full" to survive power loss),
        ``gate_timeout`` and ``busy_timeout`` (milliseconds).
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        middleware: Iterable[Middleware] | None = None,
        *,
        url: str | None = None,
        durability: str | None = None,
        gate_timeout: int | None = None,
        busy_timeout: int | None = None,
    ) -> None:
        given = {"durability": durability, "gate_timeout": gate_timeout, "busy_timeout": busy_timeout}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if path is None and options:
            raise TypeError(f"{', '.join(options)} can only be given together with a path")
        if path is not None:
            if url is not None:
                raise TypeError("path and url cannot be given together: both name the file")
            url = sqlite_url(path, **options)
        super().__init__(middleware, url=url)
