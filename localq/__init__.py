"""localq: background tasks on one machine, with no broker to install.

The road of a message, and where to read about each part of it::

    actor        an actor makes a message ...
    message      ... which is data,
    broker       and sends it through the hooks of its middleware
    store        into the store, from which
    worker       a worker claims it;
    execution    that runs its actor and all hooks around it,
    store        and writes what became of it, in one transaction.
    processes    Pools of worker processes, from the command line (cli) or in a `with` block.
    results      What actors returned.
    composition  Pipelines and groups.
    rate_limits  How often or how many at a time; barriers.
    middleware   What is decided around a message, one file each.
"""

from __future__ import annotations

from typing import Any

from . import broker, encoder, errors, message, middleware, results, worker
from .aborting import Abort, Abortable, AbortMode, abort, abort_requested
from .actor import Actor, actor
from .broker import Broker, Consumer, MessageProxy, get_broker, set_broker
from .brokers import connect
from .composition import group, pipeline
from .dramatiq_alias import install_as_dramatiq
from .encoder import Encoder, JSONEncoder, MsgpackEncoder, PickleEncoder
from .errors import (
    ActorNotFound,
    BrokerConnectionError,
    BrokerError,
    ConnectionClosed,
    ConnectionFailed,
    DecodeError,
    DramatiqError,
    EncodeError,
    LocalqError,
    PoolError,
    QueueJoinTimeout,
    QueueNotFound,
    RateLimitExceeded,
    Retry,
    StoreError,
    WorkerCrashed,
)
from .generic import GenericActor
from .logging import get_logger
from .message import Message, get_encoder, set_encoder
from .middleware import Middleware
from .processes.pool import Pool, pool
from .version import __version__
from .worker import ConsumerThread, Worker
from .worker_thread import WorkerThread

__all__ = [
    "Abort",
    "AbortMode",
    "Abortable",
    "Actor",
    "ActorNotFound",
    "Broker",
    "BrokerConnectionError",
    "BrokerError",
    "ConnectionClosed",
    "ConnectionFailed",
    "Consumer",
    "ConsumerThread",
    "DecodeError",
    "DramatiqError",
    "EncodeError",
    "Encoder",
    "GenericActor",
    "JSONEncoder",
    "LocalqError",
    "Message",
    "MessageProxy",
    "Middleware",
    "MsgpackEncoder",
    "PickleEncoder",
    "Pool",
    "PoolError",
    "QueueJoinTimeout",
    "QueueNotFound",
    "RateLimitExceeded",
    "Retry",
    "StoreError",
    "Worker",
    "WorkerCrashed",
    "WorkerThread",
    "__version__",
    "abort",
    "abort_requested",
    "aborting",
    "actor",
    "broker",
    "connect",
    "encoder",
    "errors",
    "get_broker",
    "get_encoder",
    "get_logger",
    "group",
    "install_as_dramatiq",
    "message",
    "middleware",
    "pipeline",
    "pool",
    "results",
    "set_broker",
    "set_encoder",
    "worker",
]


def __getattr__(name: str) -> Any:
    if name == "ConnectionError":
        return errors.old_connection_error(stacklevel=3)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
