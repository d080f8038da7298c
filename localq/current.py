"""What is current: the global broker, the global encoder, and this thread's outcome.

Cells only. They import nothing of ours, so that every floor can reach them
without a circle; `broker`, `message` and `execution` give them their meaning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .broker import Broker
    from .cells import Cell
    from .encoder import Encoder
    from .store import Outcome, Store

get_broker: Callable[[], Broker]
"""Gives the global broker; `localq.broker` puts its function here."""

make_default_broker: Callable[[], Broker]
"""Makes the broker of those who set none; `localq.brokers` puts its function here."""

encoder: Encoder | None = None
"""The encoder of messages and results when none is named."""


class _Thread(threading.local):
    outcome: Outcome | None = None
    store: Store | None = None
    later: list[Callable[[], None]] | None = None
    """What is to be called once that outcome is written."""
    cell: Cell | None = None
    """Where it is told what this thread of a worker runs."""


thread = _Thread()
"""While the hooks after a message run on this thread: its outcome, which collects what they
send and store, and the store that will write all of it at once. On a worker's thread: its cell."""


@contextmanager
def collecting(outcome: Outcome, store: Store) -> Iterator[list[Callable[[], None]]]:
    """Have `outcome` collect what is sent and stored in that store on this thread meanwhile; gives what
    is to be called once it is written."""
    before = thread.outcome, thread.store, thread.later
    later: list[Callable[[], None]] = []
    thread.outcome, thread.store, thread.later = outcome, store, later
    try:
        yield later
    finally:
        thread.outcome, thread.store, thread.later = before


def outcome_in(store: Store) -> Outcome | None:
    """The outcome that this thread is collecting for that store, if it is."""
    return thread.outcome if thread.store is store else None
